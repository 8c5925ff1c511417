//! Every client connection of a worker, whom each waits for, and the word to end.
//!
//! Deadlines are kept in whole seconds by one sweep over all connections: a timer for each request would cost more
//! than the gate and the router together.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use model::pipe::Ending;
use model::{Millis, limits};
use tokio::sync::Notify;

use super::connection::Transport;
use super::forward::Client;
use super::outgoing::Outgoing;

/// Every connection of this worker, and its clock of seconds.
#[derive(Default)]
pub struct Connections {
    second: Cell<u32>,
    links: RefCell<Vec<Option<Rc<Link>>>>,
    free: RefCell<Vec<usize>>,
    count: Cell<u64>,
    /// Set once the worker drains.
    ending: Cell<Option<Ending>>,
    /// Set once no connection of a draining worker is to take another request.
    settled: Cell<bool>,
    /// Bytes of replies over HTTP/2 that wait to leave.
    outgoing: Rc<Cell<usize>>,
    /// One has ended.
    ended: Notify,
}

/// The two ends of a connection.
pub struct Ends {
    pub peer: SocketAddr,
    pub server: SocketAddr,
    pub client: Client,
    /// The host that the client named as it began to speak TLS (RFC 6066 §3), if it did.
    server_name: OnceCell<String>,
}

impl Ends {
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.get().map(String::as_str)
    }

    /// Said once at most, by TLS.
    pub fn named(&self, server_name: &str) {
        let _ = self.server_name.set(server_name.to_ascii_lowercase());
    }
}

/// What a connection and its requests know of each other. Over HTTP/1.1 a connection has one request at a time, and they
/// share a link; over HTTP/2 each request has one of its own.
pub struct Link {
    pub ends: Rc<Ends>,
    connections: Rc<Connections>,
    place: usize,
    /// The connection whose request this is, over HTTP/2.
    connection: Option<Rc<Link>>,
    /// Whether this connection speaks HTTP/2.
    multiplexed: Cell<bool>,
    /// Requests in flight over HTTP/2, until the last bytes of their replies have left.
    streams: Cell<u32>,
    /// What of their replies waits to leave.
    outgoing: Outgoing,
    /// Whether nobody attends to this request over HTTP/2 any more: all of its reply waits to leave.
    written_out: Cell<bool>,
    /// How many of those ended before their replies did, in which second.
    cancelled: Cell<(u32, u64)>,
    phase: Cell<Phase>,
    /// The second in which the phase began.
    since: Cell<u32>,
    /// The second in which the client last took something.
    written: Cell<u32>,
    /// Whether a part of a request's head has come.
    begun: Cell<bool>,
    /// Whether a reply's head has left, so that it can no longer say that it is the last.
    answering: Cell<bool>,
    /// Whether the reply was handed on to its end.
    whole: Cell<bool>,
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

    /// Bytes of replies over HTTP/2 that wait to leave.
    #[cfg(test)]
    pub fn outgoing(&self) -> usize {
        self.outgoing.get()
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
            link.outgoing.look();
            let head_wait = if leaving && (link.multiplexed.get() || !link.begun.get()) {
                limits::LEAVE_WAIT
            } else {
                limits::HEAD_WAIT
            };
            let (phase, since, written) = (link.phase.get(), link.since.get(), link.written.get());
            if !is_overdue(phase, since, written, now, head_wait.default) {
                return;
            }
            match &link.connection {
                Some(connection) if link.written_out.get() => connection.tell(Verdict::End),
                _ => link.tell(Verdict::End),
            }
        });
    }

    /// Requests in flight are finished. What `ending` says becomes of the connections.
    pub fn drain(&self, ending: Ending) {
        self.ending.set(Some(ending));
        self.each_connection(|link| {
            let can_be_told = link.multiplexed.get()
                || (link.phase.get() != Phase::Head && !link.answering.get());
            if ending == Ending::Close || can_be_told {
                link.tell(Verdict::Finish);
            }
        });
    }

    /// Replies that have begun are the last of their connections, though they could not say so. Over HTTP/2, whoever has
    /// not heard yet that there is no more to ask is refused.
    pub fn settle(&self) {
        self.settled.set(true);
        self.each_connection(|link| {
            if link.answering.get() {
                link.tell(Verdict::Finish);
            }
        });
    }

    /// Whether no connection takes another request.
    pub fn are_settled(&self) -> bool {
        let all = Cell::new(true);
        self.each_connection(|link| {
            // A client may ask until it has heard that it is not to.
            let hears = !link.multiplexed.get() || self.settled.get();
            all.set(all.get() && hears && link.verdict.get() != Verdict::Live);
        });
        all.get()
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

    fn each_connection(&self, visit: impl Fn(&Link)) {
        self.each(|link| {
            if link.connection.is_none() {
                visit(link);
            }
        });
    }

    /// A connection has come.
    pub fn admit(
        self: &Rc<Self>,
        peer: SocketAddr,
        server: SocketAddr,
        transport: Transport,
    ) -> Admitted {
        self.count.set(self.count.get() + 1);
        let client = Client::new(peer.ip(), transport.scheme());
        let ends = Ends {
            peer,
            server,
            client,
            server_name: OnceCell::new(),
        };
        self.place(Rc::new(ends), None)
    }

    fn place(self: &Rc<Self>, ends: Rc<Ends>, connection: Option<Rc<Link>>) -> Admitted {
        let mut links = self.links.borrow_mut();
        let place = self.free.borrow_mut().pop().unwrap_or_else(|| {
            links.push(None);
            links.len() - 1
        });
        let link = Rc::new(Link {
            ends,
            connections: self.clone(),
            place,
            connection,
            multiplexed: Cell::new(false),
            streams: Cell::new(0),
            outgoing: Outgoing::new(&self.outgoing),
            written_out: Cell::new(false),
            cancelled: Cell::new((0, 0)),
            phase: Cell::new(Phase::Head),
            since: Cell::new(self.second()),
            written: Cell::new(self.second()),
            begun: Cell::new(false),
            answering: Cell::new(false),
            whole: Cell::new(false),
            verdict: Cell::new(match self.ending.get() {
                Some(Ending::Close) => Verdict::Finish,
                Some(Ending::Leave) | None => Verdict::Live,
            }),
            waker: RefCell::new(None),
        });
        links[place] = Some(link.clone());
        Admitted(link)
    }
}

/// The place of a connection, or of a request over HTTP/2; given back when dropped.
pub struct Admitted(Rc<Link>);

impl Admitted {
    pub fn link(&self) -> &Rc<Link> {
        &self.0
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let connections = &self.0.connections;
        connections.links.borrow_mut()[self.0.place] = None;
        connections.free.borrow_mut().push(self.0.place);
        match &self.0.connection {
            Some(connection) => connection.lost_stream(self.0.whole.get()),
            None => {
                connections.count.set(connections.count.get() - 1);
                connections.ended.notify_waiters();
            }
        }
    }
}

impl Link {
    /// The connection speaks HTTP/2.
    pub fn multiplex(&self) {
        self.multiplexed.set(true);
        if self.connections.ending.get().is_some() {
            self.tell(Verdict::Finish);
        }
    }

    /// Whether a request over this HTTP/2 connection comes too late.
    pub fn takes_no_more(&self) -> bool {
        self.connections.settled.get()
    }

    /// The same client again, under the name that a proxy has for it: what it was waited for counts on.
    pub fn introduced(&self, before: &Link) {
        self.since.set(before.since.get());
    }

    /// Nobody attends to this request over HTTP/2 any more.
    pub fn write_out(&self) {
        self.written_out.set(true);
    }

    /// Where the pieces of this request's reply wait, over HTTP/2.
    pub fn outgoing(&self) -> Option<&Outgoing> {
        self.connection.as_ref().map(|it| &it.outgoing)
    }

    /// A request has come over this HTTP/2 connection.
    pub fn stream(self: &Rc<Self>) -> Admitted {
        self.streams.set(self.streams.get() + 1);
        self.enter(Phase::Guest);
        self.connections
            .place(self.ends.clone(), Some(self.clone()))
    }

    /// A request over this connection is over. Who begins many and takes few replies is not served on.
    fn lost_stream(&self, whole: bool) {
        self.streams.set(self.streams.get() - 1);
        if self.streams.get() == 0 {
            self.enter(Phase::Head);
        }
        if whole {
            return;
        }
        let now = self.connections.second();
        let cancelled = match self.cancelled.get() {
            (second, count) if second == now => count + 1,
            _ => 1,
        };
        self.cancelled.set((now, cancelled));
        if cancelled > limits::HTTP2_CANCELLED.default {
            self.tell(Verdict::End);
        }
    }

    /// Bytes have come; in the phase of a head, they are a part of one.
    pub fn read(&self) {
        self.begun.set(true);
    }

    /// A request's head has come.
    pub fn serving(&self) {
        self.enter(Phase::Guest);
        if self.connection.is_none() && self.connections.ending.get() == Some(Ending::Leave) {
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

    /// The reply is over, to its end or not; what is left of it is in the connection's buffer.
    pub fn replied(&self, whole: bool) {
        self.whole.set(whole);
        // Over HTTP/2 it is over for this link when all of it has left.
        self.enter(match self.connection {
            Some(_) => Phase::Taking,
            None => Phase::Head,
        });
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
        if self.verdict.get() == Verdict::End {
            return;
        }
        self.verdict.set(verdict);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Does something for as long as the connection is to live; none if it is not any more.
    pub async fn while_live<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|context| match self.attend(context) {
            Verdict::Live => work.as_mut().poll(context).map(Some),
            Verdict::Finish | Verdict::End => Poll::Ready(None),
        })
        .await
    }

    /// Drives a connection, or one request over HTTP/2, to its end; none if it is not to be waited for. `finish` tells it
    /// to take no more requests.
    pub async fn drive<F: Future>(
        &self,
        mut served: Pin<&mut F>,
        finish: impl Fn(Pin<&mut F>),
    ) -> Option<F::Output> {
        let mut finishing = false;
        poll_fn(|context| {
            match self.attend(context) {
                Verdict::Live => {}
                Verdict::Finish if finishing => {}
                Verdict::Finish => {
                    finishing = true;
                    finish(served.as_mut());
                }
                Verdict::End => return Poll::Ready(None),
            }
            served.as_mut().poll(context).map(Some)
        })
        .await
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

#[cfg(test)]
mod tests {
    use bytes::{Buf as _, Bytes};

    use super::*;
    use crate::worker::outgoing::Piece;

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
        let first = connections.admit(address, address, Transport::Plain);
        let second = connections.admit(address, address, Transport::Plain);
        drop(first);
        let third = connections.admit(address, address, Transport::Plain);
        assert_eq!((third.0.place, connections.count()), (0, 2));
        connections.drain(Ending::Close);
        assert_eq!(second.0.verdict.get(), Verdict::Finish);
        assert_eq!(
            connections
                .admit(address, address, Transport::Plain)
                .0
                .verdict
                .get(),
            Verdict::Finish
        );
        assert_eq!(connections.links.borrow().len(), 3);
    }

    #[test]
    fn requests_over_one_connection_are_watched_apart() {
        let connections = Rc::new(Connections::default());
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let connection = connections.admit(address, address, Transport::Plain);
        connection.0.multiplex();
        let (slow, quick) = (connection.0.stream(), connection.0.stream());
        for stream in [&slow, &quick] {
            stream.0.serving();
            stream.0.replying();
        }
        assert_eq!(connections.count(), 1);
        for _ in 0..=limits::BODY_WAIT.default.0 / 1000 {
            quick.0.has_body();
            connections.tick();
        }
        let verdicts = || [&connection, &slow, &quick].map(|admitted| admitted.0.verdict.get());
        use Verdict::{End, Finish, Live};
        assert_eq!(verdicts(), [Live, End, Live]);
        connections.drain(Ending::Leave);
        assert_eq!(verdicts(), [Finish, End, Live]);
        assert!(!connections.are_settled());
        connections.settle();
        assert!(connections.are_settled() && connection.0.takes_no_more());
        drop((slow, quick));
        assert_eq!(connection.0.phase.get(), Phase::Head);
    }

    #[test]
    fn a_reply_is_over_when_its_last_piece_has_left() {
        let connections = Rc::new(Connections::default());
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let connection = connections.admit(address, address, Transport::Plain);
        connection.0.multiplex();
        let stream = Rc::new(connection.0.stream());
        let bytes = Bytes::from(vec![0; 1024]);
        let mut piece = Piece::new(bytes, Some(stream.clone()));
        stream.0.replied(true);
        stream.0.write_out();
        drop(stream);
        let wait = limits::BODY_WAIT.default.0 / 1000;
        for _ in 0..3 * wait {
            piece.advance(1);
            connections.tick();
        }
        // Slow, but not still.
        assert_eq!(connection.0.verdict.get(), Verdict::Live);
        assert_eq!(connection.0.phase.get(), Phase::Guest);
        for _ in 0..=wait {
            connections.tick();
        }
        assert_eq!(connection.0.verdict.get(), Verdict::End);
        drop(piece);
        assert_eq!(connection.0.streams.get(), 0);
    }

    #[test]
    fn who_cancels_without_end_is_not_served_on() {
        let connections = Rc::new(Connections::default());
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let connection = connections.admit(address, address, Transport::Plain);
        connection.0.multiplex();
        let most = limits::HTTP2_CANCELLED.default;
        for number in 0..3 * most {
            let stream = connection.0.stream();
            stream.0.replied(number % 3 == 0);
        }
        assert_eq!(connection.0.verdict.get(), Verdict::End);
        let other = connections.admit(address, address, Transport::Plain);
        for _ in 0..3 {
            for _ in 0..most {
                drop(other.0.stream());
            }
            connections.tick();
        }
        assert_eq!(other.0.verdict.get(), Verdict::Live);
    }

    #[test]
    fn a_worker_that_leaves_serves_each_connection_once_more_and_waits_for_none_that_is_idle() {
        let connections = Rc::new(Connections::default());
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let [idle, asking, served, taking] =
            [(); 4].map(|()| connections.admit(address, address, Transport::Plain));
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
