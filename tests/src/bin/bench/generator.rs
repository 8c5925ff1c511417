//! A load generator that stays on one core and, where wanted, on the connections of one worker.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tests::{Connection, pin, serves};

/// Connections kept alive, as many as `wrk -c16` has.
const CONNECTIONS: usize = 16;

/// How every reply to the benches' guest ends.
const LAST: &[u8] = b"Hello, Midge!\n";

/// Connections to one worker, ready to be used.
pub struct Generator {
    core: usize,
    request: Vec<u8>,
    connections: Vec<TcpStream>,
}

impl Generator {
    /// Opens connections until enough of them are this worker's.
    pub fn of(worker: u32, core: usize, address: SocketAddr, host: &str) -> Self {
        let mut connections = Vec::new();
        while connections.len() < CONNECTIONS {
            let mut connection = Connection::open(address, host).expect("the platform accepts");
            connection.get("/").expect("the platform answers");
            if serves(worker, &connection) {
                connections.push(connection.into_stream());
            }
        }
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes();
        Self {
            core,
            request,
            connections,
        }
    }

    /// Asks for as long as said, and says how many replies came.
    pub fn run(mut self, time: Duration) -> JoinHandle<(Self, u64)> {
        thread::spawn(move || {
            pin(self.core);
            let mut replies = 0;
            let end = Instant::now() + time;
            for connection in &mut self.connections {
                connection
                    .set_nonblocking(true)
                    .expect("a socket can be made not to block");
                connection
                    .write_all(&self.request)
                    .expect("a small request fits");
            }
            let mut waiting = CONNECTIONS;
            let mut buffer = [0; 4096];
            let mut polled: Vec<libc::pollfd> = self
                .connections
                .iter()
                .map(|connection| libc::pollfd {
                    fd: connection.as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                })
                .collect();
            while waiting > 0 {
                // SAFETY: the descriptors are open and the slice is of the given length.
                let ready = unsafe {
                    libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 10_000)
                };
                assert!(ready > 0, "no reply for ten seconds");
                let more = Instant::now() < end;
                for (connection, polled) in self.connections.iter_mut().zip(&polled) {
                    if polled.revents == 0 {
                        continue;
                    }
                    match connection.read(&mut buffer) {
                        Ok(0) => panic!("the server closed a connection that was kept alive"),
                        // A reply fits in one segment; its end may still come apart from its head.
                        Ok(length)
                            if !buffer[..length].ends_with(LAST)
                                && !buffer[..length].ends_with(b"0\r\n\r\n") => {}
                        Ok(_) => {
                            replies += 1;
                            if more {
                                connection
                                    .write_all(&self.request)
                                    .expect("a small request fits");
                            } else {
                                waiting -= 1;
                            }
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            (self, replies)
        })
    }
}
