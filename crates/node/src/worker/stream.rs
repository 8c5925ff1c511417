//! A client's bytes as hyper's HTTP/1.1 sees them: screened on the way in, noted on the way out, and hyper's own refusals
//! in our words.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::Link;
use super::report::now_ms;
use super::respond;
use super::screen::{Followed, Screen};
use super::serve::Worker;

/// What hyper reads where the screen has refused what came: no method begins with it, no chunk, and no trailer goes on
/// like that. So hyper answers what it has to, once, and closes.
const REFUSED: &[u8] = b"\0\r\0";

/// Bytes read at once while something is held back.
const READ: usize = 4096;

/// What a client sends and takes over HTTP/1.1.
pub struct Screened<T> {
    io: TokioIo<T>,
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

impl<T: AsyncRead + AsyncWrite + Unpin> Screened<T> {
    /// `came` was read from `io` already.
    pub fn new(io: T, came: BytesMut, link: Rc<Link>, worker: Rc<Worker>) -> Self {
        let mut this = Self {
            io: TokioIo::new(io),
            link,
            screen: Screen::default(),
            held: came,
            free: 0,
            refused: None,
            instead: None,
            worker,
        };
        this.screen_held();
        this
    }

    /// Finds out how much of what is held may be handed on; none of it was yet.
    fn screen_held(&mut self) {
        let Followed { pass, refused } = self.screen.follow(&self.held);
        self.free = pass;
        if refused {
            self.held.truncate(pass);
            self.refused = Some(REFUSED);
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
        let Followed { pass, refused } = self.screen.follow(came);
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
        self.screen_held();
        Poll::Ready(Ok(count == 0))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Read for Screened<T> {
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

impl<T: AsyncWrite + Unpin> Screened<T> {
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
}

fn note(link: &Link, written: &Poll<io::Result<usize>>) {
    if matches!(written, Poll::Ready(Ok(bytes)) if *bytes > 0) {
        link.wrote();
    }
}

impl<T: AsyncWrite + Unpin> Write for Screened<T> {
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
        note(&self.link, &written);
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
        note(&self.link, &written);
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
