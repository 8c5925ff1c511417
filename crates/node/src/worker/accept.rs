//! Accepting: connections from the sockets that the supervisor owns, within bounds.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::connection::{self, Transport};
use super::serve::Worker;

/// After an accept that failed for want of something: descriptors or memory come back as connections end.
const WANT: Duration = Duration::from_millis(50);

/// The worker's own descriptors of its listening sockets, and the tasks that accept from them. Dropping it stops
/// accepting; what the kernel has queued waits for the next worker in this slot, for the supervisor keeps the socket.
pub struct Listeners(Vec<JoinHandle<()>>);

impl Listeners {
    /// Accepts from each of `sockets`, of which the last `tls` speak TLS; at most `most` connections at once.
    pub fn accept(
        worker: &Rc<Worker>,
        sockets: Vec<OwnedFd>,
        tls: usize,
        most: u64,
    ) -> io::Result<Self> {
        let protocol = Rc::new(connection::http1());
        let mut listeners = Self(Vec::new());
        let plain = sockets.len().saturating_sub(tls);
        for (place, socket) in sockets.into_iter().enumerate() {
            let transport = if place < plain {
                Transport::Plain
            } else {
                Transport::Tls
            };
            let socket = std::net::TcpListener::from(socket);
            socket.set_nonblocking(true)?;
            let socket = TcpListener::from_std(socket)?;
            let accepting = accept(worker.clone(), protocol.clone(), socket, transport, most);
            listeners.0.push(tokio::task::spawn_local(accepting));
        }
        Ok(listeners)
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for accepting in &self.0 {
            accepting.abort();
        }
    }
}

async fn accept(
    worker: Rc<Worker>,
    protocol: Rc<http1::Builder>,
    socket: TcpListener,
    transport: Transport,
    most: u64,
) {
    loop {
        worker.connections.fewer_than(most).await;
        match socket.accept().await {
            Ok((tcp, peer)) => {
                // A socket that refuses this is one whose client has gone: the first read will say so.
                let _ = tcp.set_nodelay(true);
                let (worker, protocol) = (worker.clone(), protocol.clone());
                let serving = connection::run(worker, protocol, tcp, peer, transport);
                tokio::task::spawn_local(serving);
            }
            Err(error) if is_the_clients(&error) => {}
            Err(_) => tokio::time::sleep(WANT).await,
        }
    }
}

/// Whether an accept failed because its client gave up.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
