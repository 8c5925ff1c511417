//! The supervisor: follows the catalog, keeps artifacts, owns listening sockets, and keeps workers alive.
//!
//! It never reads a tenant's request and never runs a guest.

mod agent;
mod artifacts;
#[cfg(test)]
mod example;
mod last_good;
mod listeners;
mod log_files;
mod logs;
mod metrics;
mod otlp;
mod plan;
mod report;
mod stores;
#[cfg(test)]
mod tests;
mod tickets;
mod workers;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capabilities::kv::embedded::Stores;
use distribution::Distribution;
use model::api::AppUsage;
use model::pipe::{Certificates, EgressSettings, Ending, WorkerSettings};
use model::ticket::TicketKeys;
use model::{Generation, Host, Millis, PublicKey, Secrets, Size, TenantLimits, limits};
use tokio::sync::watch;
use tokio::task::JoinSet;

use agent::Agent;
use artifacts::Artifacts;
use last_good::LastGood;
use logs::{Logs, Writing};
use metrics::{Facts, Family, Metrics};
use otlp::{Export, Exporting};
use report::Standing;
use workers::{Node, Slot, Stop};

pub use listeners::{BindError, Listeners};
pub use logs::LogOutputs;
pub use otlp::OtlpSettings;

/// How often a node's workers may end before it is said to have started.
const STARTS: u64 = 3;

/// Takes what an operator should read: one line, without its end.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// What a node is.
pub struct NodeSettings {
    /// Unique among the platform's nodes.
    pub name: String,
    /// The node's own folder. One process uses it at a time, but for one that leaves: it writes logs there to its end.
    pub data: PathBuf,
    /// One worker is kept for each of their slots.
    pub listeners: Listeners,
    /// What is run for a worker, with its arguments: it must call [`crate::worker`] with descriptor 3.
    pub worker_command: Vec<OsString>,
    /// Who signs catalogs.
    pub catalog_key: PublicKey,
    /// Who signs native code.
    pub compile_key: PublicKey,
    /// The platform's domain.
    pub domain: Host,
    /// The most memory any app may have.
    pub memory_ceiling: Size,
    /// [`limits::SLOTS`]
    pub slots: u64,
    /// [`limits::TENANT_SLOTS`]
    pub tenant_slots: u64,
    /// [`limits::RESIDENT`]
    pub resident: u64,
    /// [`limits::CONNECTIONS`]
    pub connections: u64,
    /// Whether `forwarded` and `x-forwarded-*` of a request are believed.
    pub trust_forwarded: bool,
    /// Where guests' requests may go at all, and how.
    pub egress: EgressSettings,
    /// Whose apps answer requests for hosts that no app has.
    pub default_host: Option<Host>,
    /// Whether every connection begins with what a proxy says of its client (PROXY protocol).
    pub proxy_protocol: bool,
    /// The node's key-value stores, and the folder that they lie in.
    pub stores: (Stores, PathBuf),
    /// What clients that speak TLS are shown.
    pub certificates: watch::Receiver<Certificates>,
    /// What guests read by the names that they were granted.
    pub secrets: watch::Receiver<Arc<Secrets>>,
    /// What tenants may have that have limits of their own.
    pub limits: watch::Receiver<Arc<TenantLimits>>,
    /// What TLS sessions were resumed with by the node whose place this one takes.
    pub ticket_keys: Option<TicketKeys>,
    /// [`limits::GRACE`]
    pub grace: Millis,
    /// Whether each worker stays on a core of its own.
    pub pin_cores: bool,
    /// Where log lines are written.
    pub log_outputs: LogOutputs,
    /// The collector, if there is one.
    pub otlp: Option<OtlpSettings>,
    pub notice: Notice,
}

/// Why a node did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "while opening the node's folder `{path}`: {error}; see to the disk and to who may read and write there"
    )]
    Folder { path: PathBuf, error: io::Error },
    #[error("the workers did not serve the catalog within {0}; the machine may be overloaded")]
    Slow(Millis),
    #[error(
        "the workers end before they serve anything: {0}; what they printed says why (`midge doctor` checks this machine)"
    )]
    Workers(String),
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
}

/// A running node. Dropping it ends its workers at once; [`Self::stop`] lets them finish.
pub struct Supervisor {
    node: Arc<Node>,
    stopping: watch::Sender<Option<Stop>>,
    grace: Millis,
    /// One for each worker slot; each ends when the platform stops.
    slots: JoinSet<()>,
    /// Those that never end: the agent and the reporter.
    others: JoinSet<()>,
    writing: Writing,
    exporting: Option<Exporting>,
    /// How often metrics are sent to the collector, if they are.
    metrics_every: Option<Millis>,
    addresses: Vec<SocketAddr>,
}

impl Supervisor {
    /// Starts a node's workers and follows the catalog. Returns when every worker serves the newest catalog that the
    /// distribution has now, or else the last good one on disk.
    pub async fn start(
        settings: NodeSettings,
        distribution: Arc<dyn Distribution>,
    ) -> Result<Self, StartError> {
        let worker_settings = worker_settings(&settings);
        let addresses = settings.listeners.local_addrs().to_vec();
        let standing = watch::Sender::new(Standing::new(worker_settings.len()));

        let folder = settings.data.join("catalog");
        let found = LastGood::open(folder.clone(), &settings.catalog_key)
            .map_err(|error| failed(&folder, error))?;
        let mut agent = Agent::new(
            distribution.clone(),
            settings.catalog_key,
            found,
            standing.clone(),
            settings.notice.clone(),
        );
        agent.catch_up().await;
        let catalogs = agent.catalogs();
        let first = catalogs.borrow().generation();

        let folder = settings.data.join("logs");
        let otlp = settings.otlp.as_ref();
        let exporting =
            otlp.map(|otlp| Export::start(otlp, &settings.name, settings.notice.clone()));
        let (export, exporting) = exporting.unzip();
        let to_collector = export
            .clone()
            .filter(|_| otlp.is_some_and(|otlp| otlp.logs));
        let outputs = &settings.log_outputs;
        let (logs, writing) = Logs::start(&folder, outputs, to_collector, distribution.clone())
            .map_err(|error| failed(&folder, error))?;
        let metrics_every = otlp.and_then(|otlp| otlp.metrics);
        let artifacts = Artifacts::new(
            distribution.clone(),
            settings.compile_key,
            runtime::build_key,
            catalogs.clone(),
        );
        let (stopping, stops) = watch::channel(None);
        let ticket_keys = tickets::begin(settings.ticket_keys).map_err(StartError::Random)?;
        let (replacing, ticket_keys) = watch::channel(ticket_keys);
        let node = Arc::new(Node {
            command: settings.worker_command,
            artifacts: Arc::new(artifacts),
            logs,
            export: export.clone(),
            metrics: Metrics::new(worker_settings.len()),
            catalogs,
            standing: standing.clone(),
            stopping: stops,
            notice: settings.notice.clone(),
            certificates: settings.certificates,
            secrets: settings.secrets,
            limits: settings.limits,
            ticket_keys,
            stores: settings.stores.0,
            stores_folder: settings.stores.1.to_string_lossy().into_owned(),
        });

        let mut slots = JoinSet::new();
        let listeners = settings.listeners.into_slots();
        for (settings, listeners) in worker_settings.into_iter().zip(listeners) {
            let slot = Slot {
                settings,
                listeners,
            };
            slots.spawn(workers::keep(slot, node.clone()));
        }
        let listen: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        let mut others = JoinSet::new();
        others.spawn(agent.follow());
        others.spawn(stores::tell_failed(
            node.stores.failed(),
            settings.notice.clone(),
        ));
        others.spawn(tickets::replace(replacing, settings.notice));
        others.spawn(report::report(
            settings.name,
            listen.join(", "),
            distribution,
            standing.subscribe(),
        ));
        if let (Some(export), Some(every)) = (export, metrics_every) {
            others.spawn(send_metrics(node.clone(), export, every));
        }
        serving(&standing, first).await?;
        Ok(Self {
            node,
            stopping,
            grace: settings.grace,
            slots,
            others,
            writing,
            exporting,
            metrics_every,
            addresses,
        })
    }

    /// Where the node listens.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The process of each worker that runs now, by slot.
    pub fn worker_processes(&self) -> Vec<Option<u32>> {
        self.node.standing.borrow().processes.clone()
    }

    /// What its workers serve: what was published last, or what it has kept where that is older.
    pub fn generation(&self) -> Generation {
        self.node.catalogs.borrow().generation()
    }

    /// What TLS sessions are resumed with now.
    pub fn ticket_keys(&self) -> TicketKeys {
        self.node.ticket_keys.borrow().clone()
    }

    /// Everything the node counts, as Prometheus text (OpenMetrics).
    pub fn metrics(&self) -> String {
        metrics::text(counts(&self.node))
    }

    /// What each app that it serves did and used.
    pub fn usage(&self) -> Vec<AppUsage> {
        let catalog = self.node.catalogs.borrow().clone();
        self.node.metrics.usage(&catalog)
    }

    /// Takes no new connections, lets requests in flight finish within the grace period, and ends the workers.
    pub async fn stop(self) {
        let stop = self.in_grace();
        self.end(stop, std::future::pending()).await;
    }

    /// Ends as [`Self::stop`] does when others accept from the same sockets by now: no connection is closed on a request
    /// that is on its way. Calls `settled` when no connection takes another request; what is in flight then may take
    /// as long as its own limits allow, or, once `hurry` has come, as long as for [`Self::stop`].
    pub async fn leave(
        mut self,
        settled: impl FnOnce() + Send + 'static,
        hurry: impl Future<Output = ()>,
    ) {
        let mut standing = self.node.standing.subscribe();
        self.others.spawn(async move {
            // The sender outlives this task.
            let _ = standing
                .wait_for(|s| s.settled.iter().all(|settled| *settled))
                .await;
            settled();
        });
        let stop = Stop {
            grace: Millis(limits::WALL.ceiling.0 + limits::BODY_WAIT.default.0),
            ending: Ending::Leave,
        };
        self.end(stop, hurry).await;
    }

    fn in_grace(&self) -> Stop {
        Stop {
            grace: self.grace,
            ending: Ending::Close,
        }
    }

    async fn end(mut self, stop: Stop, hurry: impl Future<Output = ()>) {
        self.stopping.send_replace(Some(stop));
        let sooner = self.in_grace();
        let slots = &mut self.slots;
        let ended = async { while slots.join_next().await.is_some() {} };
        tokio::pin!(ended);
        tokio::select! {
            () = &mut ended => {}
            () = hurry => {
                self.stopping.send_replace(Some(sooner));
                ended.await;
            }
        }
        self.others.shutdown().await;
        let last = self.metrics_every.map(|_| counts(&self.node));
        // The last hold on the log files: their thread writes what it has and ends.
        drop(self.node);
        self.writing.ended().await;
        if let Some(exporting) = self.exporting {
            exporting.finish(last).await;
        }
    }
}

/// Everything that is counted, as it is now.
fn counts(node: &Node) -> Vec<Family> {
    let catalog = node.catalogs.borrow().clone();
    let (workers, worker_restarts) = {
        let standing = node.standing.borrow();
        (standing.applied.len(), standing.worker_restarts)
    };
    let export = node.export.as_ref();
    let facts = Facts {
        generation: catalog.generation(),
        apps: catalog.len(),
        workers,
        worker_restarts,
        log_lines_dropped: node.logs.dropped_lines(),
        not_exported: export.map(|export| export.dropped()).unwrap_or_default(),
        stores_failed: node.stores.have_failed(),
    };
    node.metrics.families(facts, &catalog)
}

/// Sends every count to the collector again and again. Never ends.
async fn send_metrics(node: Arc<Node>, export: Arc<Export>, every: Millis) {
    let mut times = tokio::time::interval(every.duration());
    times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        export.send_metrics(counts(&node)).await;
    }
}

/// Waits until every worker serves `generation`.
async fn serving(
    standing: &watch::Sender<Standing>,
    generation: Generation,
) -> Result<(), StartError> {
    let mut standing = standing.subscribe();
    let hopeless = |standing: &Standing| standing.worker_restarts >= STARTS;
    let decided = standing.wait_for(|standing| standing.serves(generation) || hopeless(standing));
    let wait = limits::WORKER_START.default;
    match tokio::time::timeout(wait.duration(), decided).await {
        Ok(Ok(standing)) if standing.serves(generation) => Ok(()),
        Ok(Ok(standing)) => {
            let last = standing.last_end.clone();
            Err(StartError::Workers(last.unwrap_or_default()))
        }
        _ => Err(StartError::Slow(wait)),
    }
}

fn worker_settings(settings: &NodeSettings) -> Vec<WorkerSettings> {
    let cores = if settings.pin_cores {
        cores()
    } else {
        Vec::new()
    };
    (0..settings.listeners.workers())
        .map(|slot| WorkerSettings {
            slot,
            core: cores.get(slot as usize % cores.len().max(1)).copied(),
            domain: settings.domain.clone(),
            memory_ceiling: settings.memory_ceiling,
            slots: settings.slots,
            tenant_slots: settings.tenant_slots,
            resident: settings.resident,
            connections: settings.connections,
            trust_forwarded: settings.trust_forwarded,
            egress: settings.egress.clone(),
            default_host: settings.default_host.clone(),
            proxy_protocol: settings.proxy_protocol,
            tls: settings.listeners.tls() as u32,
            traces: settings.otlp.as_ref().and_then(|otlp| otlp.traces),
        })
        .collect()
}

/// The cores that this process may run on; none if the kernel does not say.
fn cores() -> Vec<u32> {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .map(|core| core as u32)
        .collect()
}

fn failed(folder: &Path, error: io::Error) -> StartError {
    StartError::Folder {
        path: folder.to_owned(),
        error,
    }
}
