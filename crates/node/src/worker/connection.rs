//! One client connection: hyper's HTTP/1.1, the deadlines that hyper does not keep, and the word to end.
//!
//! Deadlines are kept in whole seconds by one sweep over all connections: a timer for each request would cost more
//! than the gate and the router together.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use model::pipe::Ending;
use model::{Millis, Outcome, limits};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::forward::Client;
use super::serve::{Worker, serve};
use super::stream::Stream;

/// Every connection of this worker, and its clock of seconds.
#[derive(Default)]
pub struct Connections {
    second: Cell<u32>,
    links: RefCell<Vec<Option<Rc<Link>>>>,
    free: RefCell<Vec<usize>>,
    count: Cell<u64>,
    /// Set once the worker drains.
    ending: Cell<Option<Ending>>,
    /// One has ended.
    ended: Notify,
}

/// What a connection and its requests know of each other.
pub struct Link {
    pub peer: SocketAddr,
    pub server: SocketAddr,
    pub client: Client,
    connections: Rc<Connections>,
    place: usize,
    phase: Cell<Phase>,
    /// The second in which the phase began.
    since: Cell<u32>,
    /// The second in which the client last took something.
    written: Cell<u32>,
    /// Whether a part of a request's head has come.
    begun: Cell<bool>,
    /// Whether a reply's head has left, so that it can no longer say that it is the last.
    answering: Cell<bool>,
    verdict: Cell<Verdict>,
    waker: RefCell<Option<Waker>>,
}

/// Whom a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The client: a request's head.
    Head,
    /// The guest, whose own limits hold.
    Guest,
    /// The client: to take what the guest wrote.
    Taking,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Live,
    /// Finish the request in flight, then end.
    Finish,
    End,
}

impl Connections {
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// The clock: seconds since the worker began.
    pub fn second(&self) -> u32 {
        self.second.get()
    }

    /// A second has passed: ends the connections whose clients kept us waiting too long.
    pub fn tick(&self) {
        let now = self.second.get() + 1;
        self.second.set(now);
        let leaving = self.ending.get() == Some(Ending::Leave);
        self.each(|link| {
            let head_wait = if leaving && !link.begun.get() {
                limits::LEAVE_WAIT
            } else {
                limits::HEAD_WAIT
            };
            let (phase, since, written) = (link.phase.get(), link.since.get(), link.written.get());
            if is_overdue(phase, since, written, now, head_wait.default) {
                link.tell(Verdict::End);
            }
        });
    }

    /// Requests in flight are finished. What `ending` says becomes of the connections.
    pub fn drain(&self, ending: Ending) {
        self.ending.set(Some(ending));
        self.each(|link| {
            let can_be_told = link.phase.get() != Phase::Head && !link.answering.get();
            if ending == Ending::Close || can_be_told {
                link.tell(Verdict::Finish);
            }
        });
    }

    /// Replies that have begun are the last of their connections, though they could not say so.
    pub fn settle(&self) {
        self.each(|link| {
            if link.answering.get() {
                link.tell(Verdict::Finish);
            }
        });
    }

    /// Whether no connection takes another request.
    pub fn are_settled(&self) -> bool {
        let links = self.links.borrow();
        let settled = |link: &Rc<Link>| link.verdict.get() != Verdict::Live;
        links.iter().flatten().all(settled)
    }

    /// Waits until fewer than `count` are left.
    pub async fn fewer_than(&self, count: u64) {
        while self.count.get() >= count {
            self.ended.notified().await;
        }
    }

    fn each(&self, visit: impl Fn(&Link)) {
        for link in self.links.borrow().iter().flatten() {
            visit(link);
        }
    }

    fn admit(self: &Rc<Self>, peer: SocketAddr, server: SocketAddr) -> Admitted {
        let mut links = self.links.borrow_mut();
        let place = self.free.borrow_mut().pop().unwrap_or_else(|| {
            links.push(None);
            links.len() - 1
        });
        let link = Rc::new(Link {
            peer,
            server,
            client: Client::new(peer.ip()),
            connections: self.clone(),
            place,
            phase: Cell::new(Phase::Head),
            since: Cell::new(self.second()),
            written: Cell::new(self.second()),
            begun: Cell::new(false),
            answering: Cell::new(false),
            verdict: Cell::new(match self.ending.get() {
                Some(Ending::Close) => Verdict::Finish,
                Some(Ending::Leave) | None => Verdict::Live,
            }),
            waker: RefCell::new(None),
        });
        links[place] = Some(link.clone());
        self.count.set(self.count.get() + 1);
        Admitted(link)
    }
}

/// A connection's place; given back when dropped.
struct Admitted(Rc<Link>);

impl Drop for Admitted {
    fn drop(&mut self) {
        let connections = &self.0.connections;
        connections.links.borrow_mut()[self.0.place] = None;
        connections.free.borrow_mut().push(self.0.place);
        connections.count.set(connections.count.get() - 1);
        connections.ended.notify_waiters();
    }
}

impl Link {
    /// Bytes have come; in the phase of a head, they are a part of one.
    pub fn read(&self) {
        self.begun.set(true);
    }

    /// A request's head has come.
    pub fn serving(&self) {
        self.enter(Phase::Guest);
        if self.connections.ending.get() == Some(Ending::Leave) {
            self.tell(Verdict::Finish);
        }
    }

    /// A reply's head is on its way.
    pub fn replying(&self) {
        self.enter(Phase::Taking);
        self.answering.set(true);
    }

    /// The client has taken what there was and wants more.
    pub fn wants_body(&self) {
        self.enter(Phase::Guest);
    }

    /// There is more for the client to take.
    pub fn has_body(&self) {
        self.enter(Phase::Taking);
    }

    /// The reply is over; what is left of it is in the connection's buffer.
    pub fn replied(&self) {
        self.enter(Phase::Head);
        self.begun.set(false);
        self.answering.set(false);
    }

    /// The client has taken something.
    pub fn wrote(&self) {
        self.written.set(self.connections.second());
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.connections.second());
    }

    fn tell(&self, verdict: Verdict) {
        self.verdict.set(verdict);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The verdict so far, and a promise to be told of another.
    fn attend(&self, context: &Context<'_>) -> Verdict {
        let mut waker = self.waker.borrow_mut();
        match &*waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            _ => *waker = Some(context.waker().clone()),
        }
        self.verdict.get()
    }
}

/// Whether the client has kept a connection waiting for too long.
fn is_overdue(phase: Phase, since: u32, written: u32, now: u32, head_wait: Millis) -> bool {
    let waited = |limit: Millis| {
        let idle = now.saturating_sub(since.max(written));
        u64::from(idle) * 1000 > limit.0
    };
    match phase {
        Phase::Head => waited(head_wait),
        Phase::Guest => false,
        Phase::Taking => waited(limits::BODY_WAIT.default),
    }
}

/// How hyper reads heads. Its own limit of 100 header fields is [`limits::REQUEST_FIELDS`]: to name the same number
/// would make it allocate for every request.
pub fn protocol() -> http1::Builder {
    let head = limits::REQUEST_HEAD.default.as_usize();
    let mut protocol = http1::Builder::new();
    protocol
        // Who closes its half has gone: its guest should not run on.
        .half_close(false)
        .max_buf_size(head)
        .max_header_size(head);
    protocol
}

/// Serves a connection to its end.
pub async fn run(
    worker: Rc<Worker>,
    protocol: Rc<http1::Builder>,
    tcp: TcpStream,
    peer: SocketAddr,
) {
    let Ok(server) = tcp.local_addr() else {
        return;
    };
    let admitted = worker.connections.admit(peer, server);
    let link = admitted.0.clone();
    let stream = Stream::new(tcp, link.clone(), worker.clone());
    let report = worker.report.clone();
    let service = service_fn(move |request| {
        let reply = serve(worker.clone(), admitted.0.clone(), request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let mut connection = pin!(protocol.serve_connection(stream, service));
    let mut finishing = false;
    let ended = poll_fn(|context| {
        match link.attend(context) {
            Verdict::Live => {}
            Verdict::Finish if finishing => {}
            Verdict::Finish => {
                finishing = true;
                connection.as_mut().graceful_shutdown();
            }
            Verdict::End => return Poll::Ready(Ok(())),
        }
        connection.as_mut().poll(context)
    })
    .await;
    // hyper has answered these itself.
    match ended {
        Err(error) if error.is_parse_too_large() => report.unrouted(Outcome::HeadersTooLarge),
        Err(error) if error.is_parse() => report.unrouted(Outcome::BadRequest),
        Err(_) | Ok(()) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_be_slow_but_not_still() {
        let check = |phase, since, written, now, overdue| {
            assert_eq!(
                is_overdue(phase, since, written, now, limits::HEAD_WAIT.default),
                overdue,
                "{phase:?} {now}"
            );
        };
        check(Phase::Head, 100, 100, 110, false);
        check(Phase::Head, 100, 100, 111, true);
        // The rest of a reply still drains.
        check(Phase::Head, 100, 109, 119, false);
        check(Phase::Head, 100, 109, 120, true);
        check(Phase::Guest, 0, 0, 1_000_000, false);
        check(Phase::Taking, 100, 90, 130, false);
        check(Phase::Taking, 100, 90, 131, true);
        check(Phase::Taking, 100, 120, 150, false);
    }

    #[test]
    fn places_are_given_back() {
        let connections = Rc::new(Connections::default());
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let first = connections.admit(address, address);
        let second = connections.admit(address, address);
        drop(first);
        let third = connections.admit(address, address);
        assert_eq!((third.0.place, connections.count()), (0, 2));
        connections.drain(Ending::Close);
        assert_eq!(second.0.verdict.get(), Verdict::Finish);
        assert_eq!(
            connections.admit(address, address).0.verdict.get(),
            Verdict::Finish
        );
        assert_eq!(connections.links.borrow().len(), 3);
    }

    #[test]
    fn a_worker_that_leaves_serves_each_connection_once_more_and_waits_for_none_that_is_idle() {
        let connections = Rc::new(Connections::default());
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let [idle, asking, served, taking] = [(); 4].map(|()| connections.admit(address, address));
        asking.0.read();
        served.0.serving();
        taking.0.serving();
        taking.0.replying();
        connections.drain(Ending::Leave);
        let verdicts =
            || [&idle, &asking, &served, &taking].map(|admitted| admitted.0.verdict.get());
        use Verdict::{End, Finish, Live};
        assert_eq!(verdicts(), [Live, Live, Finish, Live]);
        for _ in 0..=limits::LEAVE_WAIT.default.0 / 1000 {
            connections.tick();
        }
        assert_eq!(verdicts(), [End, Live, Finish, Live]);
        connections.settle();
        assert_eq!(verdicts(), [End, Live, Finish, Finish]);
        assert!(!connections.are_settled());
        asking.0.serving();
        assert!(connections.are_settled());
    }
}
