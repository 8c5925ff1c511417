//! Where apps answer without TLS.

use std::net::SocketAddr;

const DEFAULT: &str = "127.0.0.1:8080";

/// Where apps answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Listen {
    /// Nobody said: loopback, IPv6 where the machine has it.
    Loopback,
    At(Vec<SocketAddr>),
}

impl Listen {
    /// The addresses to bind. The IPv6 one of the default is left out where the machine has none.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::At(addresses) => addresses.clone(),
            Self::Loopback => {
                let four: SocketAddr = DEFAULT.parse().expect("the default is an address");
                let six = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, four.port()));
                // Port 0: whether the address exists here, not whether the port is free.
                let has_six = std::net::TcpListener::bind((six.ip(), 0)).is_ok();
                [four].into_iter().chain(has_six.then_some(six)).collect()
            }
        }
    }
}
