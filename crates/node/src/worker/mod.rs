//! The worker: accepts, routes and runs guests on one core, as long as its supervisor lives.

mod accept;
mod compress;
mod connection;
mod connections;
mod exchange;
mod forward;
mod gate;
mod inside;
mod line;
mod lru;
mod outbox;
mod outgoing;
mod proxied;
mod quarantine;
mod report;
mod request_id;
mod residents;
mod respond;
mod screen;
mod serve;
mod spread;
mod stores;
mod stream;
mod table;
mod tally;
#[cfg(test)]
mod tests;
mod tickets;
mod tls;
mod trace;
mod upload;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capabilities::config::Secrets;
use model::pipe::{Certificate, Ending, ToSupervisor, ToWorker, WorkerSettings};
use model::{Change, Digest, Generation, Millis, limits};
use runtime::{Backends, Code, Engine, EngineError, Instances, Pool, PoolSettings};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::runtime::LocalOptions;

use crate::memory;
use crate::pipe::{self, Frame, PipeError, Reader};
use accept::Listeners;
use gate::Forwarded;
use outbox::{Outbox, outbox};
use request_id::RequestIds;
use residents::Residents;
use serve::Worker;
use stores::Stores;
use table::{App, Table};
use tls::Tls;
use trace::Tracing;

/// Changes made to the table before others get a turn.
const CHANGES_AT_ONCE: usize = 64;
/// A table that differs in more than this from the one before is freed on a thread of its own.
const CHANGES_FREED_HERE: usize = 1024;

/// How often a draining worker looks whether its last guests have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(5);
/// How often a draining worker looks through its connections for one that may take another request.
const SETTLE_LOOK: Duration = Duration::from_millis(50);

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error(transparent)]
    Pipe(#[from] PipeError),
    #[error("the supervisor said {0} first; a worker begins with `start`")]
    NotStarted(&'static str),
    #[error("the supervisor said `start` twice")]
    StartedTwice,
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("while {doing}: {error}")]
    Io {
        doing: &'static str,
        error: io::Error,
    },
}

fn doing<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> WorkerError {
    move |error| WorkerError::Io {
        doing,
        error: error.into(),
    }
}

/// A worker's whole life. `control` is its end of the socketpair to its supervisor: when that closes, the worker ends
/// at once.
pub fn worker(control: OwnedFd) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let lived = runtime
        .map_err(doing("making the worker's event loop"))
        .and_then(|runtime| {
            let lived = runtime.block_on(live(control));
            runtime.shutdown_background();
            lived
        });
    match lived {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the worker ends: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn live(control: OwnedFd) -> Result<(), WorkerError> {
    let (mut reader, writer) = pipe::open(control).map_err(doing("opening the pipe"))?;
    let (settings, sockets) = match reader.receive().await? {
        Frame::Message {
            message: ToWorker::Start(settings),
            descriptors,
        } => (settings, descriptors),
        Frame::Message { .. } => return Err(WorkerError::NotStarted("another message")),
        Frame::Logs(_) => return Err(WorkerError::NotStarted("log lines")),
    };
    let stores = match reader.receive().await? {
        Frame::Message {
            message: ToWorker::Stores(folder),
            mut descriptors,
        } => {
            let socket = descriptors.pop().ok_or(WorkerError::NotStarted("stores"))?;
            let stores = stores::open(Path::new(&folder), socket);
            stores.map_err(|error| doing("opening the node's stores")(io::Error::other(error)))?
        }
        _ => {
            return Err(WorkerError::NotStarted(
                "something else than where the stores are",
            ));
        }
    };
    let (outbox, outgoing) = outbox();
    let (worker, inside) = begin(&settings, stores, outbox.clone())?;
    let worker = Rc::new(worker);
    tokio::task::spawn_local(inside::answer(worker.clone(), inside));
    outbox.put(ToSupervisor::Ready);
    let sending = outbox::send(worker.clone(), outgoing, writer);
    let mut sending = tokio::task::spawn_local(sending);
    let control = Control {
        worker,
        next: None,
        changed: 0,
        sockets,
        tls: settings.tls as usize,
        most: settings.connections,
        listeners: None,
    };
    tokio::select! {
        heard = control.listen(reader, outbox) => heard,
        // Ends well only after `Drained`.
        sent = &mut sending => match sent {
            Ok(sent) => Ok(sent?),
            Err(panic) => Err(doing("sending to the supervisor")(io::Error::other(panic))),
        },
    }
}

/// Makes what every request shares.
fn begin(
    settings: &WorkerSettings,
    stores: Stores,
    outbox: Outbox,
) -> Result<(Worker, inside::Calls), WorkerError> {
    // First, so that threads made from here on stay on the core too.
    if let Some(core) = settings.core {
        let mut cores = CpuSet::new();
        cores.set(core as usize);
        sched_setaffinity(None, &cores).map_err(doing("staying on one core"))?;
    }
    let pool = PoolSettings {
        slots: settings.slots,
        memory: settings.memory_ceiling,
    };
    let (way_out, inside) = inside::way_out(&settings.egress)
        .map_err(|error| doing("trusting the authorities of `egress`")(io::Error::other(error)))?;
    let secrets = Secrets::default();
    let backends = Backends {
        kv: Arc::new(stores),
        secrets: secrets.clone(),
        http: way_out.clone(),
    };
    let engine = Engine::for_worker(pool, backends)?;
    // After the engine, which opens its process's page map: that is root's alone once this is said.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(doing("refusing core dumps"))?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(doing("drawing a random number"))?;
    let worker = Worker {
        engine,
        way_out,
        inside: inside::client(),
        secrets,
        pool: Pool::new(settings.slots, settings.tenant_slots),
        instances: Instances::default(),
        forwarded: if settings.trust_forwarded {
            Forwarded::Believed
        } else {
            Forwarded::Removed
        },
        table: Default::default(),
        default_host: settings.default_host.clone(),
        proxied: settings.proxy_protocol,
        tls: Tls::new(),
        residents: Residents::new(settings.resident),
        connections: Default::default(),
        compressed: Default::default(),
        report: Default::default(),
        tracing: settings.traces.map(Tracing::new),
        request_ids: RequestIds::new(u64::from_le_bytes(random)),
        outbox,
    };
    Ok((worker, inside))
}

/// Does what the supervisor says.
struct Control {
    worker: Rc<Worker>,
    /// The table that is being made, while its changes come in several messages.
    next: Option<Table>,
    /// How many changes went into it.
    changed: usize,
    /// The listening sockets, until the first table is whole.
    sockets: Vec<OwnedFd>,
    /// How many of them speak TLS: the last ones.
    tls: usize,
    most: u64,
    listeners: Option<Listeners>,
}

impl Control {
    async fn listen(mut self, mut reader: Reader, outbox: Outbox) -> Result<(), WorkerError> {
        loop {
            let (message, mut descriptors) = match reader.receive().await {
                Ok(Frame::Message {
                    message,
                    descriptors,
                }) => (message, descriptors),
                Ok(Frame::Logs(_)) => continue,
                // The supervisor is gone, and that is how a worker ends.
                Err(PipeError::Closed) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            match message {
                ToWorker::Start(_) | ToWorker::Stores(_) => return Err(WorkerError::StartedTwice),
                ToWorker::TicketKeys(keys) => self.worker.tls.tickets.use_keys(&keys),
                ToWorker::Certificate(certificate) => self.certify(&certificate),
                ToWorker::Certificates(ids) => self.show(&ids),
                ToWorker::Secret(secret) => self.worker.secrets.put(secret),
                ToWorker::Secrets { revision, gone } => {
                    for id in &gone {
                        self.worker.secrets.forget(id);
                    }
                    outbox.put(ToSupervisor::Secrets { revision });
                }
                ToWorker::Slots { revision, changes } => {
                    for (tenant, slots) in changes {
                        self.worker.pool.allow(&tenant, slots);
                    }
                    outbox.put(ToSupervisor::Limits { revision });
                }
                ToWorker::Apply {
                    generation,
                    changes,
                    complete,
                } => self.apply(generation, changes, complete).await?,
                ToWorker::Native {
                    wasm,
                    setting,
                    refused,
                } => {
                    let native = match (refused, descriptors.pop()) {
                        (None, Some(native)) => Ok(native),
                        (Some(refusal), _) => Err(refusal),
                        (None, None) => Err("the supervisor sent no file".to_owned()),
                    };
                    let second = self.worker.connections.second();
                    let residents = &self.worker.residents;
                    let gone = residents.arrived(wasm, setting, second, native, |kind, native| {
                        // SAFETY: the descriptor came over the control socket, and the supervisor sends only native
                        // code whose signature and digest it has checked, in files that nobody can write.
                        let code = unsafe { Code::load(&self.worker.engine, kind, native) };
                        code.map_err(|error| error.to_string())
                    });
                    // Who waited goes first.
                    tokio::task::spawn_local(async {
                        tokio::task::yield_now().await;
                        drop(gone);
                    });
                }
                ToWorker::Ping(number) => outbox.put(ToSupervisor::Pong(number)),
                ToWorker::Drain { grace, ending } => {
                    self.listeners = None;
                    self.sockets.clear();
                    tokio::task::spawn_local(drain(self.worker.clone(), grace, ending));
                }
            }
        }
    }

    fn certify(&self, certificate: &Certificate) {
        if let Err(error) = self.worker.tls.take(certificate) {
            let names = certificate.names.join(", ");
            eprintln!("the certificate for {names} cannot be used: {error}");
        }
    }

    fn show(&self, ids: &[Digest]) {
        if let Err(error) = self.worker.tls.serve(ids) {
            eprintln!("the new certificates cannot be used, those before serve on: {error}");
        }
    }

    /// Makes changes to a table of its own, which then replaces the one in use whole.
    async fn apply(
        &mut self,
        generation: Generation,
        changes: Vec<Change>,
        complete: bool,
    ) -> Result<(), WorkerError> {
        let worker = self.worker.clone();
        let mut next = self
            .next
            .take()
            .unwrap_or_else(|| worker.table.borrow().clone());
        self.changed += changes.len();
        for (i, change) in changes.into_iter().enumerate() {
            if i > 0 && i.is_multiple_of(CHANGES_AT_ONCE) {
                tokio::task::yield_now().await;
            }
            self.retire(next.apply(change), &next);
        }
        if !complete {
            self.next = Some(next);
            return Ok(());
        }
        let old = worker.table.replace(next);
        if std::mem::take(&mut self.changed) > CHANGES_FREED_HERE {
            tokio::task::spawn_blocking(move || {
                drop(old);
                memory::give_back();
            });
        }
        if self.listeners.is_none() && !self.sockets.is_empty() {
            let sockets = std::mem::take(&mut self.sockets);
            let listeners = Listeners::accept(&self.worker, sockets, self.tls, self.most);
            self.listeners = Some(listeners.map_err(doing("listening"))?);
        }
        worker.outbox.put(ToSupervisor::Applied { generation });
        Ok(())
    }

    /// Lets go of what only an app that is out of service needed.
    fn retire(&self, old: Option<Arc<App>>, next: &Table) {
        let Some(old) = old.as_deref().map(|old| &old.entry) else {
            return;
        };
        let key = (old.wasm, old.kind);
        let next = next.app(&old.id);
        if next.is_none_or(|new| new.entry.incarnations != old.incarnations) {
            self.worker.report.forget(&old.owner());
        }
        if next.is_none_or(|new| (new.entry.wasm, new.entry.kind) != key) {
            let second = self.worker.connections.second();
            self.worker.residents.retire(key, second);
        }
    }
}

/// Finishes what is in flight, within `grace`, and says so.
async fn drain(worker: Rc<Worker>, grace: Millis, ending: Ending) {
    worker.connections.drain(ending);
    let finished = async {
        let began = Instant::now();
        while !worker.connections.are_settled() {
            if began.elapsed() > limits::SETTLE_WAIT.default.duration() {
                worker.connections.settle();
            }
            tokio::time::sleep(SETTLE_LOOK).await;
        }
        worker.outbox.put(ToSupervisor::Settled);
        worker.connections.fewer_than(1).await;
        // A guest may go on after its reply, within its limits.
        while worker.pool.live() > 0 {
            worker.instances.shed(None);
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    };
    // Whoever is not finished by then ends with the worker.
    let _ = tokio::time::timeout(grace.duration(), finished).await;
    worker.outbox.put(ToSupervisor::Drained);
}
