//! The workers: one process for each slot, replaced when it dies or falls silent.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capabilities::kv::embedded::Stores;
use futures_util::stream::{FuturesUnordered, StreamExt};
use model::pipe::{Certificates, Ending, ToSupervisor, ToWorker, WorkerSettings};
use model::ticket::TicketKeys;
use model::{Catalog, Digest, EngineSetting, Millis, Secrets, TenantLimits, limits};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::artifacts::{Artifacts, NativeRefused};
use super::logs::Logs;
use super::metrics::Metrics;
use super::otlp::Export;
use super::report::Standing;
use super::{Notice, plan, stores};
use crate::pipe::{self, Frame, PipeError, Reader, Writer};

const PING_EVERY: Duration = Duration::from_millis(500);
/// A worker that lived for less than this died of its start.
const QUICK: Duration = Duration::from_secs(1);
/// How long a worker that closed its pipe may take to be gone.
const LAST_BREATH: Duration = Duration::from_millis(200);
/// How long past the grace period a drained worker may take to be gone.
const AFTER_GRACE: Duration = Duration::from_secs(1);

/// What all slots share.
pub struct Node {
    /// What is run, with its arguments.
    pub command: Vec<OsString>,
    pub artifacts: Arc<Artifacts>,
    pub logs: Logs,
    /// What goes to the collector, if there is one.
    pub export: Option<Arc<Export>>,
    pub metrics: Metrics,
    pub catalogs: watch::Receiver<Arc<Catalog>>,
    pub certificates: watch::Receiver<Certificates>,
    pub secrets: watch::Receiver<Arc<Secrets>>,
    pub limits: watch::Receiver<Arc<TenantLimits>>,
    pub ticket_keys: watch::Receiver<TicketKeys>,
    pub stores: Stores,
    pub stores_folder: String,
    pub standing: watch::Sender<Standing>,
    /// Set when the platform stops, and again if it is to stop sooner.
    pub stopping: watch::Receiver<Option<Stop>>,
    pub notice: Notice,
}

/// How workers end when the platform stops.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// How long requests in flight may take to finish.
    pub grace: Millis,
    pub ending: Ending,
}

/// A place for one worker, kept by its successors.
pub struct Slot {
    pub settings: WorkerSettings,
    /// One for each address.
    pub listeners: Vec<OwnedFd>,
}

/// How a worker's life ended.
#[derive(Debug)]
enum End {
    NotStarted(std::io::Error),
    /// By itself, or by someone else.
    Ended(Option<ExitStatus>),
    Pipe(PipeError),
    /// It did not become ready.
    NeverReady,
    Silent,
    NotDrained,
}

/// Keeps a worker in `slot` until the platform stops.
pub async fn keep(mut slot: Slot, node: Arc<Node>) {
    let number = slot.settings.slot as usize;
    let mut stopping = node.stopping.clone();
    let mut quick_deaths = 0;
    loop {
        let began = Instant::now();
        let end = run(&mut slot, &node).await;
        node.metrics.end(number);
        let stops = stopping.borrow().is_some();
        let text = format!("worker {number} {end}");
        // A page of native code that the disk did not give ends whoever runs it, and would end the next as well.
        if matches!(end, End::Ended(Some(status)) if status.signal() == Some(libc::SIGBUS)) {
            node.artifacts.doubt();
        }
        match end {
            // As it was told.
            End::Ended(_) if stops => {}
            _ if stops => (node.notice)(&text),
            _ => (node.notice)(&format!("{text}; another takes its place")),
        }
        node.standing.send_modify(|standing| {
            standing.applied[number] = None;
            standing.secrets[number] = None;
            standing.limits[number] = None;
            standing.processes[number] = None;
            standing.settled[number] = stops;
            standing.worker_restarts += u64::from(!stops);
            standing.last_end = Some(text);
        });
        if stops {
            return;
        }
        quick_deaths = if began.elapsed() < QUICK {
            quick_deaths + 1
        } else {
            0
        };
        tokio::select! {
            () = sleep(plan::restart_pause(quick_deaths)) => {}
            _ = stopping.wait_for(Option::is_some) => return,
        }
    }
}

/// One worker's life. When this returns, its process is gone.
async fn run(slot: &mut Slot, node: &Node) -> End {
    let started = start(node, slot).await;
    let (mut child, reader, writer, stores) = match started {
        Ok(started) => started,
        Err(error) => return End::NotStarted(error),
    };
    let number = slot.settings.slot as usize;
    node.standing
        .send_modify(|standing| standing.processes[number] = child.id());
    let end = converse(slot, node, reader, writer, stores).await;
    let end = match end {
        End::Pipe(PipeError::Closed) => match timeout(LAST_BREATH, child.wait()).await {
            Ok(status) => End::Ended(status.ok()),
            Err(_) => {
                kill(&mut child).await;
                End::Ended(None)
            }
        },
        end => {
            kill(&mut child).await;
            end
        }
    };
    // What it was reading when it ended is kept for nobody any longer.
    if let Err(error) = node.stores.clear_stale_readers() {
        (node.notice)(&format!(
            "what worker {number} was reading of stores is kept: {error}"
        ));
    }
    end
}

/// A worker's process, the two ways of the pipe to it, and the keeper's end of its way to the stores.
type Started = (Child, Reader, Writer, OwnedFd);

async fn start(node: &Node, slot: &Slot) -> std::io::Result<Started> {
    let (ours, theirs) = pipe::pair()?;
    let child = spawn(&node.command, &theirs)?;
    drop(theirs);
    let (reader, mut writer) = pipe::open(ours)?;
    let listeners: Vec<_> = slot.listeners.iter().map(AsFd::as_fd).collect();
    let start = ToWorker::Start(slot.settings.clone());
    // The pipe is empty and holds this at once.
    let sent = writer.send(&start, &listeners).await;
    sent.map_err(std::io::Error::other)?;
    let (stores, theirs) = pipe::pair()?;
    let message = ToWorker::Stores(node.stores_folder.clone());
    let sent = writer.send(&message, &[theirs.as_fd()]).await;
    sent.map_err(std::io::Error::other)?;
    Ok((child, reader, writer, stores))
}

fn spawn(command: &[OsString], control: &OwnedFd) -> std::io::Result<Child> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| std::io::Error::other("no command to start a worker with was named"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        // What the operator's environment holds is none of a worker's business.
        .env_clear()
        // An interrupt from the terminal is for the supervisor, which drains its workers.
        .process_group(0)
        .kill_on_drop(true);
    pipe::give(&mut command, control);
    command.spawn()
}

async fn kill(child: &mut Child) {
    // One that is gone cannot be killed, which is as well.
    let _ = child.start_kill();
    // A process that even this does not end is in the kernel's hands and answers nobody.
    let _ = timeout(limits::SILENCE.default.duration(), child.wait()).await;
}

/// A message on its way to a worker.
struct Word {
    message: ToWorker,
    descriptor: Option<OwnedFd>,
}

impl From<ToWorker> for Word {
    fn from(message: ToWorker) -> Self {
        Self {
            message,
            descriptor: None,
        }
    }
}

/// Speaks with a worker until either ends it.
async fn converse(
    slot: &mut Slot,
    node: &Node,
    reader: Reader,
    writer: Writer,
    stores: OwnedFd,
) -> End {
    let number = slot.settings.slot as usize;
    let (say, said) = mpsc::channel(limits::WORKER_QUEUE.default as usize);
    let (certified, sealing) = (Notify::new(), Notify::new());
    let (entrusted, limited) = (Notify::new(), Notify::new());
    let (ready, _) = watch::channel(false);
    let heard = AtomicBool::new(false);
    let until_ready = || {
        let mut ready = ready.subscribe();
        async move {
            // The sender outlives everyone who waits here.
            let _ = ready.wait_for(|ready| *ready).await;
        }
    };
    tokio::select! {
        end = listen(number, node, reader, &say, &ready, &heard) => end,
        end = speak(writer, said) => end,
        end = tell_catalogs(node.catalogs.clone(), &say, async {
            until_ready().await;
            certified.notified().await;
            sealing.notified().await;
            entrusted.notified().await;
            limited.notified().await;
        }) => end,
        end = tell_certificates(node.certificates.clone(), &say, &certified) => end,
        end = tell_secrets(node.secrets.clone(), &say, &entrusted) => end,
        end = tell_limits(node.limits.clone(), &say, &limited) => end,
        end = tell_ticket_keys(node.ticket_keys.clone(), &say, &sealing) => end,
        end = keep_stores(stores, node) => end,
        end = watch_over(&say, until_ready(), &heard) => end,
        end = drain(&mut slot.listeners, node.stopping.clone(), &say) => end,
    }
}

/// Hears a worker out.
async fn listen(
    number: usize,
    node: &Node,
    mut reader: Reader,
    say: &mpsc::Sender<Word>,
    ready: &watch::Sender<bool>,
    heard: &AtomicBool,
) -> End {
    let mut wanted = FuturesUnordered::new();
    loop {
        let frame = tokio::select! {
            frame = reader.receive() => frame,
            Some(word) = wanted.next(), if !wanted.is_empty() => {
                // Nothing is heard while the queue is full: a worker that reads nothing will be found silent.
                let _ = say.send(word).await;
                continue;
            }
        };
        heard.store(true, Ordering::Relaxed);
        let message = match frame {
            Ok(Frame::Message { message, .. }) => message,
            Ok(Frame::Logs(lines)) => {
                node.logs.take(&lines);
                continue;
            }
            Err(error) => return End::Pipe(error),
        };
        match message {
            ToSupervisor::Ready => drop(ready.send_replace(true)),
            ToSupervisor::Applied { generation } => node
                .standing
                .send_modify(|standing| standing.applied[number] = Some(generation)),
            ToSupervisor::Secrets { revision } => node
                .standing
                .send_modify(|standing| standing.secrets[number] = Some(revision)),
            ToSupervisor::Limits { revision } => node
                .standing
                .send_modify(|standing| standing.limits[number] = Some(revision)),
            ToSupervisor::WantNative { wasm, setting } => {
                match node.artifacts.ready((wasm, setting)) {
                    Some(native) => drop(say.send(word(wasm, setting, native)).await),
                    None if wanted.len() as u64 >= limits::LOADING.default => {
                        return End::Pipe(PipeError::Io(std::io::Error::other(
                            "it asked for more native code at once than a worker may",
                        )));
                    }
                    None => {
                        let artifacts = node.artifacts.clone();
                        wanted.push(async move {
                            let native = artifacts.native((wasm, setting)).await;
                            word(wasm, setting, native)
                        });
                    }
                }
            }
            ToSupervisor::Settled => node
                .standing
                .send_modify(|standing| standing.settled[number] = true),
            ToSupervisor::Pong(_) | ToSupervisor::Drained => {}
            ToSupervisor::Traced(requests) => {
                if let Some(export) = &node.export {
                    export.traced(requests);
                }
            }
            ToSupervisor::Metrics(metrics) => node.metrics.take(number, *metrics),
        }
    }
}

fn word(wasm: Digest, setting: EngineSetting, native: Result<OwnedFd, NativeRefused>) -> Word {
    let (descriptor, refused) = match native {
        Ok(descriptor) => (Some(descriptor), None),
        Err(refused) => (None, Some(refused.to_string())),
    };
    Word {
        message: ToWorker::Native {
            wasm,
            setting,
            refused,
        },
        descriptor,
    }
}

/// Sends a worker what it is to be told.
async fn speak(mut writer: Writer, mut said: mpsc::Receiver<Word>) -> End {
    while let Some(Word {
        message,
        descriptor,
    }) = said.recv().await
    {
        let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        if let Err(error) = writer.send(&message, &descriptors).await {
            return End::Pipe(error);
        }
    }
    std::future::pending().await
}

/// Tells a worker what to show to clients that speak TLS: each certificate once, one at a time, as together they may be more
/// than a frame takes.
async fn tell_certificates(
    mut certificates: watch::Receiver<Certificates>,
    say: &mpsc::Sender<Word>,
    told: &Notify,
) -> End {
    let mut known = HashSet::new();
    loop {
        let newest = certificates.borrow_and_update().clone();
        let mut ids = Vec::with_capacity(newest.len());
        for certificate in newest.iter() {
            let id = certificate.id();
            if !known.contains(&id) {
                let message = ToWorker::Certificate(certificate.clone());
                let _ = say.send(message.into()).await;
            }
            ids.push(id);
        }
        known = ids.iter().copied().collect();
        let _ = say.send(ToWorker::Certificates(ids).into()).await;
        told.notify_one();
        if certificates.changed().await.is_err() {
            // Nobody looks at them any longer; what was told stays.
            return std::future::pending().await;
        }
    }
}

/// Tells a worker every secret once, and which it is to forget.
async fn tell_secrets(
    mut secrets: watch::Receiver<Arc<Secrets>>,
    say: &mpsc::Sender<Word>,
    told: &Notify,
) -> End {
    let mut known = Arc::new(Secrets::default());
    loop {
        let newest = secrets.borrow_and_update().clone();
        for (id, secret) in &newest.all {
            if known
                .all
                .get(id)
                .is_none_or(|known| known.revision != secret.revision)
            {
                let _ = say.send(ToWorker::Secret(secret.clone()).into()).await;
            }
        }
        let gone = known.all.keys().filter(|id| !newest.all.contains_key(*id));
        let message = ToWorker::Secrets {
            revision: newest.revision,
            gone: gone.cloned().collect(),
        };
        let _ = say.send(message.into()).await;
        told.notify_one();
        known = newest;
        if secrets.changed().await.is_err() {
            // Nobody changes them any longer; what was told stays.
            return std::future::pending().await;
        }
    }
}

/// Tells a worker which tenants have slots of their own number, and each change of that.
async fn tell_limits(
    mut limits: watch::Receiver<Arc<TenantLimits>>,
    say: &mpsc::Sender<Word>,
    told: &Notify,
) -> End {
    let mut known = Arc::new(TenantLimits::default());
    loop {
        let newest = limits.borrow_and_update().clone();
        let message = ToWorker::Slots {
            revision: newest.revision,
            changes: newest.slots_since(&known),
        };
        let _ = say.send(message.into()).await;
        told.notify_one();
        known = newest;
        if limits.changed().await.is_err() {
            // Nobody changes them any longer; what was told stays.
            return std::future::pending().await;
        }
    }
}

/// Tells a worker what to seal and open tickets with.
async fn tell_ticket_keys(
    mut keys: watch::Receiver<TicketKeys>,
    say: &mpsc::Sender<Word>,
    told: &Notify,
) -> End {
    loop {
        let newest = keys.borrow_and_update().clone();
        let _ = say.send(ToWorker::TicketKeys(newest).into()).await;
        told.notify_one();
        if keys.changed().await.is_err() {
            // Nobody replaces them any longer; what was told stays.
            return std::future::pending().await;
        }
    }
}

/// Tells a worker the newest catalog, and each one that follows, as the steps from the one it was told before.
async fn tell_catalogs(
    mut catalogs: watch::Receiver<Arc<Catalog>>,
    say: &mpsc::Sender<Word>,
    ready: impl Future<Output = ()>,
) -> End {
    ready.await;
    let mut told = Arc::new(Catalog::default());
    loop {
        let catalog = catalogs.borrow_and_update().clone();
        let mut chunks = plan::cut(catalog.since(&told)).into_iter().peekable();
        while let Some(changes) = chunks.next() {
            let message = ToWorker::Apply {
                generation: catalog.generation(),
                changes,
                complete: chunks.peek().is_none(),
            };
            let _ = say.send(message.into()).await;
        }
        told = catalog;
        if catalogs.changed().await.is_err() {
            // Nobody follows the catalog any longer; what was told stays.
            return std::future::pending().await;
        }
    }
}

/// Does what a worker wants done to stores, for as long as it lives.
async fn keep_stores(socket: OwnedFd, node: &Node) -> End {
    match stores::serve(socket, Arc::new(node.stores.clone())).await {
        // It is gone, as its pipe will say.
        Ok(()) => std::future::pending().await,
        Err(error) => End::Pipe(PipeError::Io(error)),
    }
}

/// Finds out whether a worker fell silent.
async fn watch_over(
    say: &mpsc::Sender<Word>,
    ready: impl Future<Output = ()>,
    heard: &AtomicBool,
) -> End {
    if timeout(limits::WORKER_START.default.duration(), ready)
        .await
        .is_err()
    {
        return End::NeverReady;
    }
    let mut ticks = interval(PING_EVERY);
    // Counted in turns of our own, so that a supervisor that was itself held up blames nobody.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent_for = Duration::ZERO;
    for number in 0.. {
        ticks.tick().await;
        if heard.swap(false, Ordering::Relaxed) {
            silent_for = Duration::ZERO;
        } else if silent_for >= limits::SILENCE.default.duration() {
            return End::Silent;
        } else {
            silent_for += PING_EVERY;
        }
        // If the queue is full, there is enough to answer to.
        let _ = say.try_send(ToWorker::Ping(number).into());
    }
    End::Silent
}

/// Waits until the platform stops, and lets the worker finish what is in flight; sooner, if it is told so meanwhile.
async fn drain(
    listeners: &mut Vec<OwnedFd>,
    mut stopping: watch::Receiver<Option<Stop>>,
    say: &mpsc::Sender<Word>,
) -> End {
    loop {
        let stopped = stopping.wait_for(Option::is_some).await;
        let Ok(Some(Stop { grace, ending })) = stopped.map(|stop| *stop) else {
            return std::future::pending().await;
        };
        // A socket that anyone holds goes on taking connections that nobody would accept.
        listeners.clear();
        let _ = say.send(ToWorker::Drain { grace, ending }.into()).await;
        tokio::select! {
            () = sleep(grace.duration() + AFTER_GRACE) => return End::NotDrained,
            Ok(()) = stopping.changed() => {}
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(error) => write!(f, "could not be started: {error}"),
            Self::Ended(Some(status)) => write!(f, "ended ({status})"),
            Self::Ended(None) => f.write_str("closed its pipe and was killed"),
            Self::Pipe(error) => write!(f, "was killed: {error}"),
            Self::NeverReady => write!(
                f,
                "was killed: it was not ready within {}",
                limits::WORKER_START.default
            ),
            Self::Silent => write!(
                f,
                "was killed: it said nothing for {}",
                limits::SILENCE.default
            ),
            Self::NotDrained => f.write_str("was killed: its requests did not finish in time"),
        }
    }
}
