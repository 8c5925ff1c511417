//! The socket as hyper sees it: screened on the way in, noted on the way out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::connection::Link;
use super::screen::{Screen, Screened};

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
}

impl Stream {
    pub fn new(tcp: TcpStream, link: Rc<Link>) -> Self {
        Self {
            io: TokioIo::new(tcp),
            link,
            screen: Screen::default(),
            held: BytesMut::new(),
            free: 0,
            refused: None,
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
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
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
