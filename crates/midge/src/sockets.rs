//! The sockets that the platform listens on: bound by the first process, handed on to each that takes its place.

use std::net::{SocketAddr, TcpListener};

use node::{BindError, Listeners};

use crate::config::Settings;
use crate::failure::{Exit, Failure, While as _};

/// The control API's socket, and those of each worker slot. Held by the platform itself, because nobody but who has them
/// can open the same ones again.
pub struct Sockets {
    pub api: TcpListener,
    pub listeners: Listeners,
}

impl Sockets {
    /// Binds what the settings name.
    pub fn bind(settings: &Settings) -> Result<Self, Failure> {
        let api = listen_for_api(settings.api)?;
        let listeners = Listeners::bind(
            &settings.listen.addresses(),
            &settings.tls.listen,
            settings.workers,
        );
        let listeners = listeners.map_err(|error| unbound(&error))?;
        Ok(Self { api, listeners })
    }

    /// Where the API answers.
    pub fn api_address(&self) -> Result<SocketAddr, Failure> {
        let address = self.api.local_addr();
        address.or_fail(|| "asking for the API's address".into())
    }

    /// The port that apps answer at.
    pub fn port(&self) -> u16 {
        self.listeners.local_addrs()[0].port()
    }
}

fn listen_for_api(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).map_err(|error| {
        let failure = |why: &str| {
            Failure::failed(format!("the control API cannot listen on `{address}`: {why}"))
        };
        match error.kind() {
            std::io::ErrorKind::AddrInUse => failure("another process listens there")
                .hint("end it, or give another address with `--api`, such as `--api 127.0.0.1:0` for any free port"),
            std::io::ErrorKind::PermissionDenied => failure("ports below 1024 need a privilege")
                .hint("give a higher port with `--api`"),
            std::io::ErrorKind::AddrNotAvailable => failure("this machine has no such address")
                .hint("give one that it has with `--api`"),
            _ => failure(&error.to_string()),
        }
    })
}

fn unbound(error: &BindError) -> Failure {
    let failure = Failure::failed(error.to_string());
    match error {
        BindError::NoAddress | BindError::TooMany(_) => Failure {
            exit: Exit::Usage,
            ..failure
        },
        BindError::Busy(_) | BindError::Denied(_) | BindError::NotHere(_) => {
            failure.hint("`--listen ADDRESS` names another, such as `--listen 127.0.0.1:0`")
        }
        BindError::Io { .. } => failure,
    }
}
