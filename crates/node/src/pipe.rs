//! The pipe between a supervisor and one worker, or between a platform and its successor: frames over a pair of Unix stream sockets, with descriptors.
//!
//! A frame is its body's length (`u32`, little-endian), its kind (`u8`), how many descriptors it carries (`u8`),
//! and its body. Descriptors travel with the frame's first byte (`SCM_RIGHTS`) and arrive with close-on-exec set.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use model::{Size, limits};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

/// The most descriptors one frame carries.
pub const DESCRIPTORS: usize = limits::LISTEN_ADDRESSES.default as usize;

const HEADER_BYTES: usize = 6;
const MESSAGE: u8 = 0;
const LOGS: u8 = 1;
const READ_BYTES: usize = 64 << 10;

/// Why a pipe cannot be used any longer. Whatever it is, the other end is best ended.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    #[error("the other end of the pipe is gone")]
    Closed,
    #[error("a frame of {} was announced; one may have {}", Size(*.0), limits::PIPE_FRAME.default)]
    TooLarge(u64),
    #[error("a frame of the unknown kind {0} arrived")]
    UnknownKind(u8),
    #[error("a frame announced {announced} descriptors; {arrived} arrived")]
    Descriptors { announced: usize, arrived: usize },
    #[error("a message cannot be read: {0}")]
    Unreadable(serde_json::Error),
    #[error("an earlier message was cut short when its sender was dropped")]
    CutShort,
    #[error("while using the pipe: {0}")]
    Io(#[from] io::Error),
}

/// What arrives.
#[derive(Debug)]
pub enum Frame<M> {
    Message {
        message: M,
        descriptors: Vec<OwnedFd>,
    },
    /// Log lines, each `tenant/app`, a tab, one JSON [`model::LogRecord`] and a line end.
    Logs(Bytes),
}

/// Two connected ends, close-on-exec and non-blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// Where a program that was started with a pipe finds its end of it.
pub const CONTROL: RawFd = 3;

/// Has the program that `command` starts find `end` as [`CONTROL`]. `end` stays open until it is started.
pub fn give(command: &mut Command, end: &OwnedFd) {
    let end = end.as_raw_fd();
    // SAFETY: between fork and exec, only calls that are safe in a signal handler are made.
    unsafe { command.pre_exec(move || place(end)) };
}

/// Puts the descriptor where it is looked for, open through exec.
fn place(end: RawFd) -> io::Result<()> {
    // SAFETY: neither call touches memory; `end` is open in the parent until after the spawn.
    let done = unsafe {
        if end == CONTROL {
            libc::fcntl(end, libc::F_SETFD, 0)
        } else {
            libc::dup2(end, CONTROL)
        }
    };
    if done == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The halves of one end. Must be called within a tokio runtime.
pub fn open(end: OwnedFd) -> io::Result<(Reader, Writer)> {
    rustix::io::ioctl_fionbio(&end, true)?;
    // SAFETY: the descriptor is owned, moves into the registration and is closed only after it.
    let registered = unsafe { AsyncFd::register(end) };
    let socket = Arc::new(registered.map_err(|refused| refused.into_parts().1)?);
    let reader = Reader {
        socket: socket.clone(),
        scratch: vec![0; READ_BYTES].into_boxed_slice(),
        arrived: BytesMut::new(),
        descriptors: VecDeque::new(),
    };
    let writer = Writer {
        socket,
        message: Vec::new(),
        sending: false,
    };
    Ok((reader, writer))
}

/// The half that receives.
pub struct Reader {
    socket: Arc<AsyncFd<OwnedFd>>,
    scratch: Box<[u8]>,
    arrived: BytesMut,
    descriptors: VecDeque<OwnedFd>,
}

impl Reader {
    /// The next frame. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`PipeError::Closed`] at the end; after any error the pipe is of no use.
    pub async fn receive<M: DeserializeOwned>(&mut self) -> Result<Frame<M>, PipeError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            self.read_more().await?;
        }
    }

    fn take_frame<M: DeserializeOwned>(&mut self) -> Result<Option<Frame<M>>, PipeError> {
        let Some(header) = self.arrived.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [a, b, c, d, kind, descriptors] = *header;
        let length = u32::from_le_bytes([a, b, c, d]);
        let announced = usize::from(descriptors);
        if u64::from(length) > limits::PIPE_FRAME.default.bytes() {
            return Err(PipeError::TooLarge(length.into()));
        }
        let length = length as usize;
        if self.arrived.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.arrived.advance(HEADER_BYTES);
        let body = self.arrived.split_to(length).freeze();
        let arrived = self.descriptors.len();
        if announced > arrived {
            return Err(PipeError::Descriptors { announced, arrived });
        }
        let descriptors = self.descriptors.drain(..announced).collect();
        match kind {
            MESSAGE => serde_json::from_slice(&body)
                .map(|message| {
                    Some(Frame::Message {
                        message,
                        descriptors,
                    })
                })
                .map_err(PipeError::Unreadable),
            LOGS => Ok(Some(Frame::Logs(body))),
            kind => Err(PipeError::UnknownKind(kind)),
        }
    }

    async fn read_more(&mut self) -> Result<(), PipeError> {
        let Self {
            socket,
            scratch,
            arrived,
            descriptors,
        } = self;
        let read = socket
            .async_io(Interest::READABLE, |socket| {
                read(socket.as_fd(), scratch, descriptors)
            })
            .await?;
        if read == 0 {
            return Err(PipeError::Closed);
        }
        // Frames use up what they announce, so a peer that sends more than two frames' worth beforehand is hoarding.
        if descriptors.len() > 2 * DESCRIPTORS {
            return Err(PipeError::Descriptors {
                announced: 0,
                arrived: descriptors.len(),
            });
        }
        arrived.extend_from_slice(&scratch[..read]);
        Ok(())
    }
}

/// The half that sends.
pub struct Writer {
    socket: Arc<AsyncFd<OwnedFd>>,
    message: Vec<u8>,
    sending: bool,
}

impl Writer {
    /// Sends `message` and `descriptors` with it, waiting while the pipe is full.
    ///
    /// A future dropped before its end may have sent half a message; every send after it is refused.
    pub async fn send<M: Serialize>(
        &mut self,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), PipeError> {
        let mut body = std::mem::take(&mut self.message);
        body.clear();
        serde_json::to_writer(&mut body, message).map_err(PipeError::Unreadable)?;
        let sent = self.send_frame(MESSAGE, &body, descriptors).await;
        body.shrink_to(READ_BYTES);
        self.message = body;
        sent
    }

    /// Sends log lines, each `tenant/app`, a tab, one JSON record and a line end.
    pub async fn send_logs(&mut self, lines: &[u8]) -> Result<(), PipeError> {
        self.send_frame(LOGS, lines, &[]).await
    }

    async fn send_frame(
        &mut self,
        kind: u8,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), PipeError> {
        if self.sending {
            return Err(PipeError::CutShort);
        }
        let length = u32::try_from(body.len())
            .ok()
            .filter(|length| u64::from(*length) <= limits::PIPE_FRAME.default.bytes())
            .ok_or(PipeError::TooLarge(body.len() as u64))?;
        if descriptors.len() > DESCRIPTORS {
            return Err(PipeError::Descriptors {
                announced: descriptors.len(),
                arrived: DESCRIPTORS,
            });
        }
        let [a, b, c, d] = length.to_le_bytes();
        let header = [a, b, c, d, kind, descriptors.len() as u8];
        self.sending = true;
        let mut sent = 0;
        while sent < HEADER_BYTES + body.len() {
            let head = &header[sent.min(HEADER_BYTES)..];
            let rest = &body[sent.saturating_sub(HEADER_BYTES)..];
            let carried = if sent == 0 { descriptors } else { &[] };
            sent += self
                .socket
                .async_io(Interest::WRITABLE, |socket| {
                    write(socket.as_fd(), head, rest, carried)
                })
                .await
                .map_err(|error| match error.kind() {
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => PipeError::Closed,
                    _ => PipeError::Io(error),
                })?;
        }
        self.sending = false;
        Ok(())
    }
}

fn read(
    socket: BorrowedFd<'_>,
    scratch: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(scratch)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    );
    let read = match received {
        Ok(received) => received.bytes,
        // A peer that died with bytes of ours unread resets the pair: to us, its end.
        Err(Errno::CONNRESET) => 0,
        Err(error) => return Err(error.into()),
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(read)
}

fn write(
    socket: BorrowedFd<'_>,
    head: &[u8],
    rest: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "the number of descriptors was checked above");
    }
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(head), IoSlice::new(rest)],
        &mut control,
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    )?;
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use model::pipe::{ToSupervisor, ToWorker};
    use model::{Change, Digest, EngineSetting};

    use super::*;

    fn ends() -> ((Reader, Writer), (Reader, Writer)) {
        let (a, b) = pair().unwrap();
        (open(a).unwrap(), open(b).unwrap())
    }

    fn file(text: &str) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    }

    fn native(number: u8) -> ToWorker {
        ToWorker::Native {
            wasm: Digest::from_bytes([number; 32]),
            setting: EngineSetting::A,
            refused: None,
        }
    }

    #[tokio::test]
    async fn messages_and_their_descriptors_arrive_in_order() {
        let ((_r, mut writer), (mut reader, _w)) = ends();
        let sender = tokio::spawn(async move {
            for number in 0..50u8 {
                let file = file(&number.to_string());
                let carried = [file.as_fd()];
                let carried = if number % 3 == 0 { &carried[..] } else { &[] };
                writer.send(&native(number), carried).await.unwrap();
            }
            writer
        });
        for number in 0..50u8 {
            let Frame::Message {
                message: ToWorker::Native { wasm, .. },
                descriptors,
            } = reader.receive().await.unwrap()
            else {
                panic!("another frame");
            };
            assert_eq!(wasm, Digest::from_bytes([number; 32]));
            assert_eq!(descriptors.len(), usize::from(number % 3 == 0));
            for descriptor in descriptors {
                let flags = rustix::io::fcntl_getfd(&descriptor).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
                let mut text = String::new();
                std::fs::File::from(descriptor)
                    .read_to_string(&mut text)
                    .unwrap();
                assert_eq!(text, number.to_string());
            }
        }
        drop(sender.await.unwrap());
        drop(_r);
        let end = reader.receive::<ToWorker>().await;
        assert!(matches!(end, Err(PipeError::Closed)), "{end:?}");
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_sockets_buffer_arrives_whole() {
        let ((_r, mut writer), (mut reader, _w)) = ends();
        let changes: Vec<_> = (0..50_000)
            .map(|i| Change::Remove(format!("alice/app-{i}").parse().unwrap()))
            .collect();
        let message = ToWorker::Apply {
            generation: 1,
            changes: changes.clone(),
            complete: true,
        };
        let lines = b"a/b\t{}\n".repeat(100_000);
        let expected = lines.clone();
        let sender = tokio::spawn(async move {
            writer.send(&message, &[]).await.unwrap();
            writer.send_logs(&lines).await.unwrap();
            writer
        });
        let Frame::Message {
            message: ToWorker::Apply {
                changes: arrived, ..
            },
            ..
        } = reader.receive().await.unwrap()
        else {
            panic!("another frame");
        };
        assert_eq!(arrived, changes);
        let Frame::Logs(arrived) = reader.receive::<ToSupervisor>().await.unwrap() else {
            panic!("another frame");
        };
        assert_eq!(arrived, expected);
        sender.await.unwrap();
    }

    #[tokio::test]
    async fn what_breaks_the_framing_is_an_error() {
        let cases: [(&[u8], &str); 5] = [
            (
                &[1, 0, 0, 1, 0, 0],
                "a frame of 16777217B was announced; one may have 16MiB",
            ),
            (&[0, 0, 0, 0, 9, 0], "a frame of the unknown kind 9 arrived"),
            (
                &[0, 0, 0, 0, 0, 1],
                "a frame announced 1 descriptors; 0 arrived",
            ),
            (
                &[1, 0, 0, 0, 0, 0, b'{'],
                "a message cannot be read: EOF while parsing an object at line 1 column 1",
            ),
            (&[9, 0, 0, 0, 0], "the other end of the pipe is gone"),
        ];
        for (bytes, expected) in cases {
            let (a, b) = pair().unwrap();
            let (mut reader, _w) = open(a).unwrap();
            rustix::io::write(&b, bytes).unwrap();
            drop(b);
            let error = reader.receive::<ToWorker>().await.unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[tokio::test]
    async fn a_peer_that_hoards_descriptors_is_cut_off() {
        let (a, b) = pair().unwrap();
        let (mut reader, _w) = open(a).unwrap();
        let file = file("");
        let hoard = [file.as_fd(); DESCRIPTORS];
        for _ in 0..3 {
            write(b.as_fd(), &[255], &[], &hoard).unwrap();
        }
        let error = reader.receive::<ToWorker>().await.unwrap_err();
        assert!(matches!(error, PipeError::Descriptors { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_message_cut_short_breaks_its_writer() {
        let ((_r, mut writer), _other) = ends();
        let lines = vec![b'x'; 8 << 20];
        tokio::select! {
            biased;
            sent = writer.send_logs(&lines) => panic!("nobody reads: {sent:?}"),
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
        }
        let next = writer.send(&ToWorker::Ping(1), &[]).await;
        assert!(matches!(next, Err(PipeError::CutShort)), "{next:?}");
    }
}
