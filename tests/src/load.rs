//! A steady load from keep-alive connections, which looks at every reply.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{Connection, Http2, Reply};

/// What a load speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Looks at a reply. What it is given was made just before the request was sent.
pub trait Check: Send + Sync + 'static {
    type Sent: Send;
    /// Called just before a request is sent.
    fn before(&self) -> Self::Sent;
    /// Called with the reply; an error counts as a failure.
    fn after(&self, sent: Self::Sent, reply: &Reply) -> Result<(), String>;
}

/// Every reply must be 200 with this body.
pub struct Always(pub &'static str);

impl Check for Always {
    type Sent = ();
    fn before(&self) {}
    fn after(&self, (): (), reply: &Reply) -> Result<(), String> {
        if reply.status() == 200 && reply.text() == self.0 {
            Ok(())
        } else {
            Err(format!(
                "{} {:?} {}",
                reply.status(),
                reply.head.headers,
                reply.text()
            ))
        }
    }
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Report {
    pub requests: u64,
    pub failures: Vec<String>,
    /// The longest that one reply took.
    pub slowest: Duration,
}

/// Clients at work until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Report>>,
}

impl Load {
    /// Starts `count` clients that each ask for `path` again and again, with a pause between.
    pub fn start<C: Check>(
        address: SocketAddr,
        host: &str,
        path: &str,
        count: usize,
        pause: Duration,
        check: Arc<C>,
    ) -> Self {
        Self::over(Protocol::Http1, address, host, path, count, pause, check)
    }

    /// The same, over this protocol.
    pub fn over<C: Check>(
        protocol: Protocol,
        address: SocketAddr,
        host: &str,
        path: &str,
        count: usize,
        pause: Duration,
        check: Arc<C>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let client = |_| {
            let (stop, done, check) = (stop.clone(), done.clone(), check.clone());
            let (host, path) = (host.to_owned(), path.to_owned());
            let open = move || Kept::open(protocol, address, &host);
            thread::spawn(move || client(open, &path, pause, &stop, &done, &*check))
        };
        let clients = (0..count).map(client).collect();
        Self {
            stop,
            done,
            clients,
        }
    }

    /// How many replies have come so far.
    pub fn requests(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Stops and says what came of it.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Report::default();
        for client in self.clients {
            let report = client.join().expect("a client does not panic");
            all.requests += report.requests;
            all.failures.extend(report.failures);
            all.slowest = all.slowest.max(report.slowest);
        }
        all
    }
}

impl Report {
    /// Asserts that there were requests and that none failed.
    #[track_caller]
    pub fn is_clean(self) -> Self {
        assert!(self.requests > 0, "no request was made");
        let shown = &self.failures[..self.failures.len().min(5)];
        assert!(
            self.failures.is_empty(),
            "{} of {} requests failed: {shown:#?}",
            self.failures.len(),
            self.requests
        );
        self
    }
}

/// A connection that is kept from one request to the next.
enum Kept {
    Http1(Connection),
    Http2(Http2),
}

impl Kept {
    fn open(protocol: Protocol, address: SocketAddr, host: &str) -> io::Result<Self> {
        Ok(match protocol {
            Protocol::Http1 => Self::Http1(Connection::open(address, host)?),
            Protocol::Http2 => Self::Http2(Http2::open(address, host)?),
        })
    }

    fn get(&mut self, path: &str) -> io::Result<Reply> {
        match self {
            Self::Http1(connection) => connection.get(path),
            Self::Http2(connection) => connection.get(path),
        }
    }
}

fn client<C: Check>(
    open: impl Fn() -> io::Result<Kept>,
    path: &str,
    pause: Duration,
    stop: &AtomicBool,
    done: &AtomicU64,
    check: &C,
) -> Report {
    let mut report = Report::default();
    let mut connection: Option<Kept> = None;
    while !stop.load(Ordering::Relaxed) {
        let sent = check.before();
        let began = Instant::now();
        let asked = match connection.take() {
            Some(connection) => Ok(connection),
            None => open(),
        };
        let asked = asked.and_then(|mut connection| Ok((connection.get(path)?, connection)));
        report.requests += 1;
        done.fetch_add(1, Ordering::Relaxed);
        match asked {
            Ok((reply, kept)) => {
                report.slowest = report.slowest.max(began.elapsed());
                if let Err(failure) = check.after(sent, &reply) {
                    report.failures.push(failure);
                }
                let closes = reply
                    .header("connection")
                    .is_some_and(|value| value.eq_ignore_ascii_case("close"));
                connection = (!closes).then_some(kept);
            }
            Err(error) => report.failures.push(error.to_string()),
        }
        thread::sleep(pause);
    }
    report
}
