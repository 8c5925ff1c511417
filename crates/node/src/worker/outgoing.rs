//! Replies over HTTP/2 on their way out: how much of them waits to leave, and who writes on when it has.
//!
//! hyper takes a whole piece of a reply as soon as one byte of it may leave, and is done with the reply when it has taken
//! the last one. So each piece is followed until it has left.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use model::limits;

use super::connections::Admitted;

/// Bytes that may wait in one worker before each connection is held to [`OF_ONE`].
const OF_ALL: usize = limits::HTTP2_WAITING.default.as_usize();
pub const OF_ONE: usize = limits::HTTP2_STREAM_WINDOW.default.as_usize();

/// What waits to leave over one connection.
pub struct Outgoing {
    bytes: Cell<usize>,
    /// The same, of all connections of the worker.
    all: Rc<Cell<usize>>,
    /// Who writes on when there is room.
    writers: RefCell<Vec<Waker>>,
}

impl Outgoing {
    pub fn new(all: &Rc<Cell<usize>>) -> Self {
        Self {
            bytes: Cell::new(0),
            all: all.clone(),
            writers: RefCell::default(),
        }
    }

    /// Ready when more may be written. Replies whose client stands still hold up no other of their connection, unless
    /// very much waits in the whole worker.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        let mut writers = self.writers.borrow_mut();
        if !writers.iter().any(|other| other.will_wake(context.waker())) {
            writers.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Looks whether there is room; what leaves over other connections is not told here.
    pub fn look(&self) {
        if !self.writers.borrow().is_empty() && self.has_room() {
            self.writers.take().into_iter().for_each(Waker::wake);
        }
    }

    fn has_room(&self) -> bool {
        self.bytes.get() < OF_ONE || self.all.get() < OF_ALL
    }

    fn add(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
        self.all.set(self.all.get() + bytes);
    }

    fn remove(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
        self.all.set(self.all.get() - bytes);
        self.look();
    }
}

/// A piece of a reply. hyper holds it until it has left.
pub struct Piece {
    bytes: Bytes,
    /// None over HTTP/1.1, where whatever is written is noted.
    stream: Option<Rc<Admitted>>,
}

impl Piece {
    pub fn new(bytes: Bytes, stream: Option<Rc<Admitted>>) -> Self {
        if let Some(outgoing) = stream.as_ref().and_then(|it| it.link().outgoing()) {
            outgoing.add(bytes.len());
        }
        Self { bytes, stream }
    }

    /// So many bytes have left, or will not.
    fn left(&self, count: usize) {
        let Some(stream) = &self.stream else {
            return;
        };
        stream.link().wrote();
        if let Some(outgoing) = stream.link().outgoing() {
            outgoing.remove(count);
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.left(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.left(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::connection::Transport;
    use crate::worker::connections::Connections;

    #[test]
    fn who_is_not_read_holds_up_others_only_where_very_much_waits() {
        let connections = Rc::new(Connections::default());
        let address = "127.0.0.1:1".parse().unwrap();
        let stream = || {
            let connection = connections.admit(address, address, Transport::Plain);
            let stream = Rc::new(connection.link().stream());
            (connection, stream)
        };
        let ((_one, slow), (_other, much)) = (stream(), stream());
        let context = &Context::from_waker(Waker::noop());
        let room = || slow.link().outgoing().unwrap().poll_room(context);
        let piece = |stream: &Rc<Admitted>, bytes| {
            Piece::new(Bytes::from(vec![0; bytes]), Some(stream.clone()))
        };
        let first = piece(&slow, OF_ONE);
        assert!(room().is_ready());
        let much = piece(&much, OF_ALL - OF_ONE);
        assert!(room().is_pending());
        drop(much);
        assert!(room().is_ready());
        drop(first);
        assert_eq!(connections.outgoing(), 0);
    }
}
