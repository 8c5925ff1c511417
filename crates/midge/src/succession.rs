//! Succession: a running platform hands its sockets, then its data folder, to the program that takes its place.
//!
//! Apps are served all the while: the old workers accept until the new ones do. Until the new platform says that it
//! serves, the old one can go on as before.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use model::limits;
use model::ticket::TicketKeys;
use model::upgrade::{FORM, Offer, ToPredecessor, ToSuccessor, UpgradeRequest, UpgradeWord};
use node::Listeners;
use node::pipe::{self, Frame, Reader, Writer};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::config::Settings;
use crate::data_folder::DataFolder;
use crate::failure::{Exit, Failure, While as _};
use crate::sockets::Sockets;

/// How long who knocks may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that it may be.
const REQUEST_BYTES: u64 = 16 << 10;

/// Where `midge upgrade` finds a running platform: a socket in its data folder, which only its owner enters.
pub struct Door(UnixListener);

/// Who asked for an upgrade, and is told how it goes.
pub struct Caller {
    pub request: UpgradeRequest,
    stream: BufReader<UnixStream>,
}

impl Door {
    pub fn open(folder: &DataFolder) -> Result<Self, Failure> {
        let opened = folder.listen().and_then(|listener| {
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        });
        opened.map(Self).or_fail(|| {
            format!(
                "opening the door for upgrades of `{}`",
                folder.path().display()
            )
        })
    }

    /// The next who asks in a way that can be understood.
    pub async fn knock(&self) -> Caller {
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => {
                    if let Ok(Ok(caller)) = timeout(PATIENCE, listen(stream)).await {
                        return caller;
                    }
                }
                // For want of a descriptor, most likely: one will be free when a connection ends.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn listen(stream: UnixStream) -> io::Result<Caller> {
    let ours = rustix::process::geteuid().as_raw();
    let theirs = stream.peer_cred()?.uid();
    if theirs != ours && theirs != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream)
        .take(REQUEST_BYTES)
        .read_line(&mut line)
        .await?;
    match serde_json::from_str::<UpgradeRequest>(&line) {
        Ok(request) => Ok(Caller { request, stream }),
        Err(error) => {
            let mut caller = Caller {
                request: UpgradeRequest {
                    program: PathBuf::new(),
                },
                stream,
            };
            caller
                .say(&UpgradeWord::Failed(format!(
                    "the request cannot be read: {error}"
                )))
                .await;
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

impl Caller {
    /// Who asked may have gone: the upgrade goes on all the same.
    pub async fn say(&mut self, word: &UpgradeWord) {
        let mut line = serde_json::to_vec(word).expect("every word has a JSON form");
        line.push(b'\n');
        let _ = timeout(PATIENCE, self.stream.write_all(&line)).await;
    }
}

/// The program that is to take the place of this platform. Dropping it before it serves ends it.
pub struct Successor {
    /// None once it stands on its own feet.
    child: Option<Child>,
    reader: Reader,
    writer: Writer,
}

/// Why there was no succession; what an operator reads.
type Reason = String;

impl Successor {
    /// Starts `program` as this platform was started, and offers it everything but the data folder. Returns its version
    /// when it could take over.
    pub async fn prepare(
        program: &Path,
        offer: Offer,
        api: BorrowedFd<'_>,
        listeners: &Listeners,
    ) -> Result<(Self, String), Reason> {
        let mut successor = start(program)
            .map_err(|error| format!("`{}` cannot be started: {error}", program.display()))?;
        let offer = ToSuccessor::Offer(Box::new(offer));
        successor.send(&offer, &[api]).await?;
        for slot in listeners.slots() {
            let sockets: Vec<_> = slot.iter().map(OwnedFd::as_fd).collect();
            successor.send(&ToSuccessor::Sockets, &sockets).await?;
        }
        let wait = limits::SUCCESSOR_START.default;
        match timeout(wait.duration(), successor.receive()).await {
            Ok(Ok(ToPredecessor::Fits { version })) => Ok((successor, version)),
            Ok(Ok(ToPredecessor::Failed { why })) => Err(why),
            Ok(Ok(_)) => Err("the new program said something else than expected".into()),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("the new program did not answer within {wait}")),
        }
    }

    /// Hands over the data folder and waits until it serves from there; returns its process.
    pub async fn succeed(
        &mut self,
        lock: BorrowedFd<'_>,
        mut progress: impl AsyncFnMut(String),
    ) -> Result<u32, Reason> {
        self.send(&ToSuccessor::Take, &[lock]).await?;
        let wait = limits::SUCCESSION.default;
        let serving = async {
            loop {
                match self.receive().await? {
                    ToPredecessor::Progress(text) => progress(text).await,
                    ToPredecessor::Serving { pid } => return Ok(pid),
                    ToPredecessor::Failed { why } => return Err(why),
                    ToPredecessor::Fits { .. } => {}
                }
            }
        };
        let pid = timeout(wait.duration(), serving)
            .await
            .unwrap_or_else(|_| Err(format!("the new program did not serve within {wait}")))?;
        self.child = None;
        Ok(pid)
    }

    /// Says when no connection of this platform takes another request. Returns if the successor ends before this
    /// platform does.
    pub async fn see_off(mut self, settled: impl Future<Output = ()>) {
        let Self { reader, writer, .. } = &mut self;
        let telling = async {
            settled.await;
            let _ = writer.send(&ToSuccessor::Settled, &[]).await;
        };
        let gone = async { while reader.receive::<ToPredecessor>().await.is_ok() {} };
        tokio::pin!(gone);
        tokio::select! {
            () = &mut gone => {}
            () = telling => gone.await,
        }
    }

    /// Ends it, so that nothing of it is left.
    pub async fn end(mut self) {
        if let Some(mut child) = self.child.take() {
            // One that is gone cannot be killed, which is as well.
            let _ = child.kill().await;
        }
    }

    async fn send(
        &mut self,
        message: &ToSuccessor,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Reason> {
        let sent = self.writer.send(message, descriptors).await;
        sent.map_err(|_| "the new program ended; what it printed says why".into())
    }

    async fn receive(&mut self) -> Result<ToPredecessor, Reason> {
        match self.reader.receive().await {
            Ok(Frame::Message { message, .. }) => Ok(message),
            Ok(Frame::Logs(_)) => Err("the new program sent log lines".into()),
            Err(pipe::PipeError::Closed) => {
                Err("the new program ended; what it printed says why".into())
            }
            Err(error) => Err(format!("the new program cannot be understood: {error}")),
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.start_kill();
        }
    }
}

fn start(program: &Path) -> io::Result<Successor> {
    let (ours, theirs) = pipe::pair()?;
    let mut command = Command::new(program);
    command
        .args(arguments(std::env::args_os().skip(1)))
        .arg(format!("--take-over={}", pipe::CONTROL))
        .stdin(Stdio::null());
    pipe::give(&mut command, &theirs);
    let child = command.spawn()?;
    drop(theirs);
    let (reader, writer) = pipe::open(ours)?;
    Ok(Successor {
        child: Some(child),
        reader,
        writer,
    })
}

/// What this platform was started with, but for what held for its own start alone.
fn arguments(all: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const OWN: [&str; 2] = ["--take-over", "--ready-fd"];
    let mut kept = Vec::new();
    let mut skip = false;
    for argument in all {
        let text = argument.to_string_lossy();
        let is_own = |name: &&&str| {
            let rest = text.strip_prefix(**name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        if std::mem::take(&mut skip) {
            continue;
        }
        match OWN.iter().find(is_own) {
            Some(name) => skip = text == *name,
            None => kept.push(argument),
        }
    }
    kept
}

/// What a platform that leaves hands over.
pub struct Inheritance {
    pub sockets: Sockets,
    pub predecessor: Predecessor,
}

/// The platform that leaves.
pub struct Predecessor {
    reader: Reader,
    writer: Writer,
    /// What TLS sessions were resumed with so far, if it says so.
    pub ticket_keys: Option<TicketKeys>,
}

impl Inheritance {
    /// Takes the sockets from the platform at the other end of `control`, if they are the ones that `settings` want.
    pub async fn receive(control: OwnedFd, settings: &Settings) -> Result<Self, Failure> {
        let (reader, writer) =
            pipe::open(control).or_fail(|| "opening the pipe to the running platform".into())?;
        let mut predecessor = Predecessor {
            reader,
            writer,
            ticket_keys: None,
        };
        let received = predecessor.sockets(settings).await;
        match received {
            Ok(sockets) => {
                let version = env!("CARGO_PKG_VERSION").to_owned();
                predecessor.say(&ToPredecessor::Fits { version }).await?;
                Ok(Self {
                    sockets,
                    predecessor,
                })
            }
            Err(failure) => Err(predecessor.give_up(failure).await),
        }
    }
}

impl Predecessor {
    async fn sockets(&mut self, settings: &Settings) -> Result<Sockets, Failure> {
        let (ToSuccessor::Offer(offer), mut api) = self.receive().await? else {
            return Err(Failure::failed("the running platform made no offer"));
        };
        let offer = *offer;
        if let Some(difference) = difference(&offer, settings) {
            return Err(Failure::new(Exit::Usage, difference).hint(
                "an upgrade keeps addresses, workers and data folder: restart the platform to change them",
            ));
        }
        let mut slots = Vec::new();
        for _ in 0..offer.workers {
            match self.receive().await? {
                (ToSuccessor::Sockets, sockets) if sockets.len() == offer.listen.len() => {
                    slots.push(sockets);
                }
                _ => {
                    return Err(Failure::failed(
                        "the running platform handed over too few sockets",
                    ));
                }
            }
        }
        self.ticket_keys = offer.ticket_keys;
        let api = api.pop().ok_or_else(|| {
            Failure::failed("the running platform handed over no socket of its API")
        })?;
        Ok(Sockets {
            api: api.into(),
            listeners: Listeners::inherited(offer.listen, offer.asked_tls.len(), slots),
        })
    }

    /// Waits for the data folder.
    pub async fn folder(&mut self, settings: &Settings) -> Result<DataFolder, Failure> {
        match self.receive().await? {
            (ToSuccessor::Take, mut lock) if lock.len() == 1 => {
                let lock = lock.pop().expect("there is one");
                Ok(DataFolder::adopt(&settings.data, lock))
            }
            _ => Err(Failure::failed(
                "the running platform handed over no data folder",
            )),
        }
    }

    pub async fn say(&mut self, message: &ToPredecessor) -> Result<(), Failure> {
        let said = self.writer.send(message, &[]).await;
        said.or_fail(|| "speaking with the running platform".into())
    }

    /// Says why nothing comes of it; returns that.
    pub async fn give_up(mut self, failure: Failure) -> Failure {
        let mut why = failure.what.clone();
        if let Some(hint) = &failure.hint {
            why.push_str(&format!(" ({hint})"));
        }
        // Who is gone need not be told.
        let _ = self.say(&ToPredecessor::Failed { why }).await;
        failure
    }

    /// Waits until none of its connections takes another request, or it is gone.
    pub async fn settled(&mut self) {
        while !matches!(self.receive().await, Ok((ToSuccessor::Settled, _)) | Err(_)) {}
    }

    /// Waits until it is gone.
    pub async fn gone(mut self) {
        while self.receive().await.is_ok() {}
    }

    async fn receive(&mut self) -> Result<(ToSuccessor, Vec<OwnedFd>), Failure> {
        match self.reader.receive().await {
            Ok(Frame::Message {
                message,
                descriptors,
            }) => Ok((message, descriptors)),
            Ok(Frame::Logs(_)) => Err(Failure::failed("the running platform sent log lines")),
            Err(error) => Err(Failure::failed(format!(
                "the platform that was to be replaced is gone: {error}"
            ))),
        }
    }
}

/// What the configuration wants that an upgrade cannot change.
fn difference(offer: &Offer, settings: &Settings) -> Option<String> {
    let list = |addresses: &[SocketAddr]| {
        let texts: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        texts.join(", ")
    };
    let changed = |name: &str, was: String, wanted: String| {
        (was != wanted)
            .then(|| format!("`{name}` is `{wanted}` by now; the running platform has `{was}`"))
    };
    if offer.form != FORM {
        return Some(format!(
            "midge {} cannot be replaced while it runs by this one: stop it and start this one",
            offer.version
        ));
    }
    let paths = [&offer.data, &settings.data].map(|path| path.display().to_string());
    let [was, wanted] = paths;
    changed("data", was, wanted)
        .or_else(|| {
            let wanted = settings.listen.addresses();
            changed("listen", list(&offer.asked_listen), list(&wanted))
        })
        .or_else(|| {
            let (was, wanted) = (list(&offer.asked_tls), list(&settings.tls.listen));
            changed("tls.listen", was, wanted)
        })
        .or_else(|| changed("api", offer.asked_api.to_string(), settings.api.to_string()))
        .or_else(|| {
            changed(
                "workers",
                offer.workers.to_string(),
                settings.workers.to_string(),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_started_as_its_predecessor_was() {
        let check = |line: &str, expected: &str| {
            let kept = arguments(line.split(' ').map(OsString::from));
            let kept: Vec<_> = kept.iter().map(|a| a.to_string_lossy()).collect();
            assert_eq!(kept.join(" "), expected);
        };
        check("up --data x", "up --data x");
        check("up --ready-fd 5 --data x", "up --data x");
        check(
            "up --ready-fd=5 --take-over=3 --ready-file r",
            "up --ready-file r",
        );
        check("up --take-over 3 --workers 2", "up --workers 2");
    }
}
