//! The socket as hyper sees it: screened on the way in, noted on the way out, and hyper's own refusals in our words.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::connection::Link;
use super::report::now_ms;
use super::respond;
use super::screen::{Screen, Screened};
use super::serve::Worker;

/// What hyper reads where the screen has refused what came: no method begins with it, no chunk, and no trailer goes on
/// like that. So hyper answers what it has to, once, and closes.
const REFUSED: &[u8] = b"\0\r\0";

/// Bytes read at once while something is held back.
const READ: usize = 4096;

/// One client's socket.
pub struct Stream {
    io: TokioIo<TcpStream>,
    link: Rc<Link>,
    screen: Screen,
    /// What came and may not be handed on yet, behind what may but did not fit.
    held: BytesMut,
    /// How much of it may be handed on.
    free: usize,
    /// What is still to be handed on instead of what was refused.
    refused: Option<&'static [u8]>,
    /// What is still to be written instead of a refusal of hyper's own, and how long that is.
    instead: Option<(Bytes, usize)>,
    worker: Rc<Worker>,
}

impl Stream {
    pub fn new(tcp: TcpStream, link: Rc<Link>, worker: Rc<Worker>) -> Self {
        Self {
            io: TokioIo::new(tcp),
            link,
            screen: Screen::default(),
            held: BytesMut::new(),
            free: 0,
            refused: None,
            instead: None,
            worker,
        }
    }

    /// Hands on what is there, as far as it fits; nothing once everything was refused.
    fn hand_on(&mut self, buffer: &mut ReadBufCursor<'_>) -> bool {
        if self.free > 0 {
            let count = self.free.min(buffer.remaining());
            buffer.put_slice(&self.held[..count]);
            self.held.advance(count);
            self.free -= count;
            return true;
        }
        match &mut self.refused {
            Some(refused) => {
                let count = refused.len().min(buffer.remaining());
                buffer.put_slice(&refused[..count]);
                *refused = &refused[count..];
                true
            }
            None => false,
        }
    }

    /// Reads into hyper's own buffer: nearly always all of it may stay there. Whether anything was handed on, or the
    /// client's end has come.
    fn read_through(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<bool>> {
        // SAFETY: nothing is read from it before it was written, and it is not made uninitialised again.
        let mut read = ReadBuf::uninit(unsafe { buffer.as_mut() });
        ready!(Pin::new(self.io.inner_mut()).poll_read(context, &mut read))?;
        let came = read.filled();
        self.link.read();
        let Screened { pass, refused } = self.screen.follow(came);
        if refused {
            self.refused = Some(REFUSED);
        } else {
            self.held.extend_from_slice(&came[pass..]);
        }
        let ended = came.is_empty();
        // SAFETY: so many bytes were read into its beginning.
        unsafe { buffer.advance(pass) };
        Poll::Ready(Ok(pass > 0 || ended))
    }

    /// Reads behind what is held. Whether the client's end has come.
    fn read_behind(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.held.reserve(READ);
        let mut read = ReadBuf::uninit(self.held.spare_capacity_mut());
        ready!(Pin::new(self.io.inner_mut()).poll_read(context, &mut read))?;
        let count = read.filled().len();
        // SAFETY: so many bytes were read into its spare capacity.
        unsafe { self.held.set_len(self.held.len() + count) };
        let Screened { pass, refused } = self.screen.follow(&self.held);
        self.free = pass;
        if refused {
            self.held.truncate(pass);
            self.refused = Some(REFUSED);
        }
        Poll::Ready(Ok(count == 0))
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.hand_on(&mut buffer) {
                return Poll::Ready(Ok(()));
            }
            let done = if this.held.is_empty() {
                ready!(this.read_through(context, &mut buffer))?
            } else {
                ready!(this.read_behind(context))?
            };
            if done {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Stream {
    /// What is written instead of `bytes`, which begin with whatever hyper writes next.
    fn begin_instead(&mut self, bytes: &[u8]) {
        if self.instead.is_none() {
            let ids = &self.worker.request_ids;
            let complete = respond::complete(bytes, || ids.next(now_ms()));
            self.instead = complete.map(|complete| (complete, bytes.len()));
        }
    }

    /// Writes that; when all of it is written, so is what hyper wrote.
    fn write_instead(&mut self, context: &mut Context<'_>) -> Option<Poll<io::Result<usize>>> {
        let (instead, length) = self.instead.as_mut()?;
        while !instead.is_empty() {
            match Pin::new(&mut self.io).poll_write(context, instead) {
                Poll::Ready(Ok(count)) => instead.advance(count),
                other => return Some(other),
            }
        }
        let length = *length;
        self.instead = None;
        Some(Poll::Ready(Ok(length)))
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(bytes)) if *bytes > 0) {
            self.link.wrote();
        }
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.begin_instead(bytes);
        let written = match self.write_instead(context) {
            Some(written) => written,
            None => Pin::new(&mut self.io).poll_write(context, bytes),
        };
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.begin_instead(slices.first().map_or(&[], |first| first));
        let written = match self.write_instead(context) {
            Some(written) => written,
            None => Pin::new(&mut self.io).poll_write_vectored(context, slices),
        };
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
