//! The listening sockets: one for each worker slot and address, all bound before the first connection is accepted.
//!
//! The supervisor keeps every one of them open, so what waits in a dead worker's backlog meets its successor.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use model::limits;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// How often other ports are tried when the one that the system chose on one address is taken on another.
const ATTEMPTS: u32 = 16;

/// Why a node cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "the address `{0}` is taken: another process listens there; end it, or listen on another port (port 0 takes a free one)"
    )]
    Busy(SocketAddr),
    #[error(
        "listening on `{0}` is not permitted: ports below 1024 need a privilege; listen on a higher port, or grant CAP_NET_BIND_SERVICE"
    )]
    Denied(SocketAddr),
    #[error("`{0}` is not an address of this machine; listen on one that it has")]
    NotHere(SocketAddr),
    #[error("no address to listen on was named")]
    NoAddress,
    #[error("{0} addresses to listen on were named; a node takes {limit}", limit = limits::LISTEN_ADDRESSES.default)]
    TooMany(usize),
    #[error("while listening on `{address}`: {error}")]
    Io {
        address: SocketAddr,
        error: std::io::Error,
    },
}

/// The listening sockets of a node.
pub struct Listeners {
    /// Those that speak TLS come last.
    addresses: Vec<SocketAddr>,
    tls: usize,
    /// Of each worker slot, one for each address.
    slots: Vec<Vec<OwnedFd>>,
}

impl Listeners {
    /// Listens on each address with one socket for each of `workers`, over TLS on those of `tls`. Where an address has
    /// port 0, the system chooses one port for all that have, and another for those of `tls`.
    ///
    /// # Errors
    /// If another process listens on one of them, even one that would share it.
    pub fn bind(
        addresses: &[SocketAddr],
        tls: &[SocketAddr],
        workers: u32,
    ) -> Result<Self, BindError> {
        match addresses.len() + tls.len() {
            0 => return Err(BindError::NoAddress),
            count if count as u64 > limits::LISTEN_ADDRESSES.default => {
                return Err(BindError::TooMany(count));
            }
            _ => {}
        }
        let mut bound = bind_group(addresses, workers)?;
        let secured = bind_group(tls, workers)?;
        bound.tls = secured.addresses.len();
        bound.addresses.extend(secured.addresses);
        for (slot, secured) in bound.slots.iter_mut().zip(secured.slots) {
            slot.extend(secured);
        }
        Ok(bound)
    }

    /// Those of a platform that leaves: of each worker slot, one listening socket for each of `addresses`, of which the
    /// last `tls` speak TLS.
    pub fn inherited(addresses: Vec<SocketAddr>, tls: usize, slots: Vec<Vec<OwnedFd>>) -> Self {
        Self {
            addresses,
            tls,
            slots,
        }
    }

    /// The same sockets again, for a successor. While they are held, connections queue that nobody accepts.
    pub fn copy(&self) -> std::io::Result<Self> {
        let copy = |slot: &Vec<OwnedFd>| slot.iter().map(OwnedFd::try_clone).collect();
        Ok(Self {
            addresses: self.addresses.clone(),
            tls: self.tls,
            slots: self.slots.iter().map(copy).collect::<Result<_, _>>()?,
        })
    }

    /// The addresses listened on, with the ports that the system chose.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How many of them speak TLS: the last ones.
    pub fn tls(&self) -> usize {
        self.tls
    }

    /// How many workers there are sockets for.
    pub fn workers(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("they were made from a `u32`")
    }

    /// The sockets, by worker slot.
    pub fn slots(&self) -> &[Vec<OwnedFd>] {
        &self.slots
    }

    /// As [`Self::slots`].
    pub(super) fn into_slots(self) -> Vec<Vec<OwnedFd>> {
        self.slots
    }
}

/// Binds addresses that share a port where the system chooses it.
fn bind_group(addresses: &[SocketAddr], workers: u32) -> Result<Listeners, BindError> {
    let some_port = addresses.iter().filter(|address| address.port() == 0);
    let attempts = if some_port.count() > 1 { ATTEMPTS } else { 1 };
    let mut bound = try_bind(addresses, workers);
    for _ in 1..attempts {
        if !matches!(bound, Err(BindError::Busy(_))) {
            break;
        }
        bound = try_bind(addresses, workers);
    }
    bound
}

fn try_bind(addresses: &[SocketAddr], workers: u32) -> Result<Listeners, BindError> {
    let mut listeners = Listeners {
        addresses: Vec::new(),
        tls: 0,
        slots: (0..workers).map(|_| Vec::new()).collect(),
    };
    let mut chosen = 0;
    for address in addresses {
        let mut address = *address;
        if address.port() == 0 {
            address.set_port(chosen);
        }
        let failed = |errno| failed(address, errno);
        // Sockets that share a port let strangers of the same user share it too. This one does not: it fails if
        // anyone listens here, and holds the port until ours do.
        let claim = socket(address, Sharing::Refused).map_err(failed)?;
        let address = local_address(&claim).map_err(failed)?;
        if chosen == 0 {
            chosen = address.port();
        }
        for slot in &mut listeners.slots {
            let listener = socket(address, Sharing::Granted).map_err(failed)?;
            let backlog = limits::LISTEN_BACKLOG.default;
            rustix::net::listen(&listener, backlog as i32).map_err(failed)?;
            slot.push(listener);
        }
        listeners.addresses.push(address);
    }
    Ok(listeners)
}

/// Whether sockets that listen share their port.
#[derive(PartialEq)]
enum Sharing {
    Granted,
    Refused,
}

fn socket(address: SocketAddr, sharing: Sharing) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if address.is_ipv6() {
        // So that `0.0.0.0` and `::` can both be listened on.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // A port whose last connections linger in TIME_WAIT is free.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, sharing == Sharing::Granted)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn local_address(socket: &OwnedFd) -> Result<SocketAddr, Errno> {
    SocketAddr::try_from(rustix::net::getsockname(socket)?)
}

fn failed(address: SocketAddr, errno: Errno) -> BindError {
    match errno {
        Errno::ADDRINUSE => BindError::Busy(address),
        Errno::ACCESS | Errno::PERM => BindError::Denied(address),
        Errno::ADDRNOTAVAIL => BindError::NotHere(address),
        errno => BindError::Io {
            address,
            error: errno.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn bind(addresses: &[&str], workers: u32) -> Result<Listeners, BindError> {
        let addresses: Vec<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Listeners::bind(&addresses, &[], workers)
    }

    #[test]
    fn every_slot_listens_on_every_address() {
        let listeners = bind(&["127.0.0.1:0", "[::1]:0"], 3).unwrap();
        let [four, six] = listeners.local_addrs() else {
            panic!("two addresses were named");
        };
        assert!(four.is_ipv4() && six.is_ipv6());
        assert_eq!(four.port(), six.port());
        let slots = listeners.into_slots();
        assert_eq!(slots.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[test]
    fn a_connection_waits_for_who_accepts_it() {
        let listeners = bind(&["127.0.0.1:0"], 2).unwrap();
        let address = listeners.local_addrs()[0];
        let clients: Vec<_> = (0..64)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let mut accepted = 0;
        for slot in listeners.into_slots() {
            let listener = TcpListener::from(slot.into_iter().next().unwrap());
            while listener.accept().is_ok() {
                accepted += 1;
            }
        }
        assert_eq!(accepted, clients.len());
    }

    #[test]
    fn an_address_where_anyone_listens_is_busy() {
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = stranger.local_addr().unwrap().to_string();
        let first = bind(&["127.0.0.1:0"], 2).unwrap();
        let shared = first.local_addrs()[0].to_string();
        for address in [taken, shared] {
            let refused = bind(&[&address], 2).err().unwrap().to_string();
            assert!(
                refused.starts_with(&format!("the address `{address}` is taken")),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_port_is_free_again_when_its_listeners_are_gone() {
        let listeners = bind(&["127.0.0.1:0"], 2).unwrap();
        let address = listeners.local_addrs()[0];
        let client = TcpStream::connect(address).unwrap();
        drop(listeners);
        drop(client);
        bind(&[&address.to_string()], 2).unwrap();
    }

    #[test]
    fn what_cannot_be_listened_on_is_refused_in_words() {
        let refused = |addresses: &[&str]| bind(addresses, 1).err().unwrap().to_string();
        assert_eq!(refused(&[]), "no address to listen on was named");
        assert_eq!(
            refused(&["192.0.2.1:8080"]),
            "`192.0.2.1:8080` is not an address of this machine; listen on one that it has"
        );
        assert_eq!(
            refused(&["127.0.0.1:0"; 17]),
            "17 addresses to listen on were named; a node takes 16"
        );
    }
}
