//! A name server that answers as a test says.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// What it says of a name.
#[derive(Debug, Clone)]
pub enum Says {
    /// It has these addresses, to be remembered for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// It is another name, which has these.
    Alias(String, Vec<IpAddr>),
    /// There is no such name.
    Nothing,
    /// It cannot say.
    Failure,
    /// It does not answer.
    Silence,
}

/// A running name server, over UDP. It lives as long as the test's process.
pub struct Names {
    pub address: SocketAddr,
    asked: Arc<Mutex<HashMap<String, u64>>>,
}

impl Names {
    /// `say` is asked with the name in lower case without a dot at its end, and how often it was asked for before by both kinds
    /// of addresses.
    pub fn start(say: impl Fn(&str, u64) -> Says + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        Self::at(socket, say)
    }

    /// Over a socket that is bound.
    pub fn at(socket: UdpSocket, say: impl Fn(&str, u64) -> Says + Send + 'static) -> Self {
        let address = socket.local_addr().expect("it was bound");
        let asked = Arc::new(Mutex::new(HashMap::new()));
        let counted = asked.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut rounds = HashMap::<(String, RecordType), u64>::new();
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let Ok(question) = Message::from_vec(&buffer[..length]) else {
                    continue;
                };
                let Some(query) = question.queries.first().cloned() else {
                    continue;
                };
                let name = query.name().to_lowercase().to_string();
                let name = name.trim_end_matches('.').to_owned();
                let kind = query.query_type();
                let round = rounds.entry((name.clone(), kind)).or_default();
                let says = say(&name, *round);
                *round += 1;
                *lock(&counted).entry(name).or_default() += 1;
                if let Some(answer) = answer(&question, query.name(), kind, says) {
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        Self { address, asked }
    }

    /// How often it was asked for a name.
    pub fn asked(&self, name: &str) -> u64 {
        lock(&self.asked).get(name).copied().unwrap_or(0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(question: &Message, name: &Name, kind: RecordType, says: Says) -> Option<Vec<u8>> {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    for query in &question.queries {
        answer.add_query(query.clone());
    }
    let mut put = |name: &Name, addresses: Vec<IpAddr>, ttl: u32| {
        for address in addresses {
            let data = match address {
                IpAddr::V4(v4) if kind == RecordType::A => RData::A(A(v4)),
                IpAddr::V6(v6) if kind == RecordType::AAAA => RData::AAAA(AAAA(v6)),
                _ => continue,
            };
            answer.add_answer(Record::from_rdata(name.clone(), ttl, data));
        }
    };
    match says {
        Says::Addresses(addresses, ttl) => put(name, addresses, ttl),
        Says::Alias(other, addresses) => {
            let other = Name::from_ascii(format!("{other}.")).expect("a test names hosts well");
            put(&other, addresses, 0);
            let alias = RData::CNAME(CNAME(other));
            let alias = Record::from_rdata(name.clone(), 0, alias);
            answer.answers.insert(0, alias);
        }
        Says::Nothing => answer.metadata.response_code = ResponseCode::NXDomain,
        Says::Failure => answer.metadata.response_code = ResponseCode::ServFail,
        Says::Silence => return None,
    }
    answer.to_vec().ok()
}
