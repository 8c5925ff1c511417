//! What a supervisor and its workers, and the control plane and its compile children, say to each other.
//!
//! Both ends are always of one build, so these have no version of their own. Framing is the pipe's matter
//! (`node`), as are the descriptors that some messages carry.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ticket::TicketKeys;
use crate::trace::{SampleRatio, Traced};
use crate::{
    BuildKey, Change, Digest, EngineSetting, Generation, GuestKind, Hasher, Host, Import, KvChange,
    KvDone, KvError, LimitsRevision, Millis, Outcome, Owner, Secret, SecretId, SecretsRevision,
    Size, StoreId, TenantName,
};

/// What a worker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToWorker {
    /// First of all; carries one descriptor for each address: the worker's listening sockets.
    Start(WorkerSettings),
    /// Right after it; carries one descriptor: the worker's way to the node's stores, which lie in this folder.
    Stores(String),
    /// What TLS sessions are resumed with from now on. Comes before the first catalog, and when the keys are replaced.
    TicketKeys(TicketKeys),
    /// One that is to be shown soon; those that it has already do not come again.
    Certificate(Arc<Certificate>),
    /// What clients who speak TLS are shown from now on, by [`Certificate::id`]: the first that names a host is the one for
    /// it. All others are forgotten. Comes before the first catalog, after the certificates that are new in it.
    Certificates(Vec<Digest>),
    /// One that guests are to read from now on, in the place of what there was of its name.
    Secret(Arc<Secret>),
    /// Forget these. Every secret of `revision` has been sent then: answer `Secrets` with it. Comes before the first catalog.
    Secrets {
        revision: SecretsRevision,
        gone: Vec<SecretId>,
    },
    /// How many slots these tenants may have from now on; none: [`WorkerSettings::tenant_slots`]. Every limit of `revision` has
    /// been told then: answer `Limits` with it. Comes before the first catalog.
    Slots {
        revision: LimitsRevision,
        changes: Vec<(TenantName, Option<u64>)>,
    },
    /// Steps towards a generation. A whole catalog comes as several of these; only after the one that is
    /// `complete` is the generation reached, the new table swapped in, and `Applied` answered.
    Apply {
        generation: Generation,
        changes: Vec<Change>,
        complete: bool,
    },
    /// The answer to `WantNative`. Carries one descriptor (read-only, the native code, verified) unless `refused` says why not.
    Native {
        wasm: Digest,
        setting: EngineSetting,
        refused: Option<String>,
    },
    /// Answer with `Pong` and the same number.
    Ping(u64),
    /// Take no new connections, finish what is in flight within `grace`, then say `Drained` and end. Said again, it
    /// counts if it is sooner.
    Drain { grace: Millis, ending: Ending },
}

/// What becomes of a draining worker's connections that wait for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// They are closed at once: nobody will serve them.
    Close,
    /// Others accept from the same sockets. Each connection is served once more, is told to be the last, and those that
    /// ask for nothing are closed after [`crate::limits::LEAVE_WAIT`]: a request on its way meets no closed door.
    Leave,
}

/// What a worker says. Log lines go the same way, in frames of their own.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToSupervisor {
    /// The engine is made; the first whole catalog may come.
    Ready,
    /// Every request accepted from now on meets this generation.
    Applied {
        generation: Generation,
    },
    /// Every read from now on meets the secrets of this revision.
    Secrets {
        revision: SecretsRevision,
    },
    /// Every request accepted from now on meets the tenants' limits of this revision.
    Limits {
        revision: LimitsRevision,
    },
    /// An app is wanted that is not resident.
    WantNative {
        wasm: Digest,
        setting: EngineSetting,
    },
    Pong(u64),
    /// Counts since the worker began, about once a second; apps only that changed since the last one.
    Metrics(Box<WorkerMetrics>),
    /// Requests that were traced and are over.
    Traced(Vec<Traced>),
    /// While draining: no connection will take another request.
    Settled,
    /// Everything in flight is finished.
    Drained,
}

/// What a worker needs to know before anything else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerSettings {
    /// 0-based; the worker's slot, kept by its successors.
    pub slot: u32,
    /// The core to stay on, if any.
    pub core: Option<u32>,
    /// The platform's domain.
    pub domain: Host,
    /// The most memory any app may have: the size of a pool slot.
    pub memory_ceiling: Size,
    /// [`crate::limits::SLOTS`]
    pub slots: u64,
    /// [`crate::limits::TENANT_SLOTS`]
    pub tenant_slots: u64,
    /// [`crate::limits::RESIDENT`]
    pub resident: u64,
    /// [`crate::limits::CONNECTIONS`]
    pub connections: u64,
    /// Whether `forwarded` and `x-forwarded-*` of a request are believed: only behind the operator's own proxy.
    pub trust_forwarded: bool,
    /// Whose apps answer requests for hosts that no app has.
    pub default_host: Option<Host>,
    /// Whether every connection begins with what a proxy says of its client (PROXY protocol).
    pub proxy_protocol: bool,
    /// How many of the listening sockets speak TLS: the last ones.
    pub tls: u32,
    /// Where guests' requests may go at all, and how.
    pub egress: EgressSettings,
    /// Whether requests have traces, and which share of those that bring no decision about it is recorded.
    pub traces: Option<SampleRatio>,
}

/// What an operator sets of the requests that guests send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EgressSettings {
    /// Who is asked for the addresses of names; none: whoever the machine asks.
    pub nameservers: Vec<SocketAddr>,
    /// Networks that are reached though they are private or this machine's own.
    pub allow: Vec<IpNet>,
    /// Networks that are never reached.
    pub deny: Vec<IpNet>,
    /// Whether the authorities that the public web trusts are trusted, as of the day of the build.
    pub bundled_roots: bool,
    /// Certificates of authorities that are trusted besides, as PEM.
    pub roots: String,
}

impl Default for EgressSettings {
    /// What holds where an operator says nothing.
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            bundled_roots: true,
            roots: String::new(),
        }
    }
}

/// Changes of a key-value store that a worker wants made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAsk {
    /// Comes back with the answer.
    pub id: u64,
    pub store: StoreId,
    pub changes: Vec<KvChange>,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAnswer {
    pub id: u64,
    pub result: Result<Vec<KvDone>, KvError>,
}

/// A certificate with its key, and the hosts that it is shown for.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Tells it from every other.
    id: Digest,
    /// In lower case; the first label may be `*`.
    pub names: Vec<String>,
    /// The certificate and those of its issuers, as PEM.
    pub chain: String,
    /// The private key, as PEM.
    pub key: String,
}

/// Certificates in the order in which they are looked through for a host.
pub type Certificates = Arc<Vec<Arc<Certificate>>>;

impl Certificate {
    pub fn new(names: Vec<String>, chain: String, key: String) -> Self {
        let mut hasher = Hasher::new();
        for text in names.iter().chain([&chain, &key]) {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        Self {
            id: hasher.finish(),
            names,
            chain,
            key,
        }
    }

    /// Two are the same if their ids are.
    pub fn id(&self) -> Digest {
        self.id
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.names).finish()
    }
}

/// A worker's counts since it began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerMetrics {
    pub apps: Vec<AppMetrics>,
    /// From a request's head to the end of its reply.
    pub latency: Histogram,
    /// The time to make an instance.
    pub instantiate: Histogram,
    pub cold_starts: u64,
    /// Requests that met no app, by outcome.
    pub unrouted: Vec<(Outcome, u64)>,
    /// Log lines dropped because the supervisor did not keep up or a tenant logged too fast.
    pub log_lines_dropped: u64,
    /// Traced requests that were dropped because the supervisor did not keep up.
    pub traces_dropped: u64,
    pub live_instances: u64,
    pub resident_apps: u64,
    pub connections: u64,
    pub sent: SentMetrics,
}

/// What became of the requests that guests sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentMetrics {
    /// Replies that came, whatever their status.
    pub answered: u64,
    /// What the platform did not send: no grant, an address that is not for guests, a bound.
    pub refused: u64,
    /// What was sent, or tried to, and not answered.
    pub failed: u64,
    /// Connections that were opened for them.
    pub opened: u64,
    /// Those of them that went over one that waited.
    pub reused: u64,
    /// Connections that wait for a request now.
    pub idle: u64,
}

/// One app's counts since its worker began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppMetrics {
    pub owner: Owner,
    pub requests: Vec<(Outcome, u64)>,
    pub cpu_us: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// The most linear memory that one of its invocations held.
    pub memory_peak_bytes: u64,
    /// From a request's head to the end of its reply.
    pub latency: Histogram,
}

/// Durations counted in buckets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Per bound of [`Histogram::BOUNDS_US`], how many were at most that long and longer than the bound before; one more for the rest.
    pub buckets: [u64; Histogram::BOUNDS_US.len() + 1],
    pub sum_us: u64,
    pub count: u64,
    /// The longest of them.
    pub max_us: u64,
}

impl Histogram {
    /// Upper bounds in microseconds, about three to a decade.
    pub const BOUNDS_US: [u64; 18] = [
        10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000,
        500_000, 1_000_000, 5_000_000, 30_000_000,
    ];

    pub fn count(&mut self, us: u64) {
        let bucket = Self::BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket] += 1;
        self.sum_us += us;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_us += other.sum_us;
        self.count += other.count;
        self.max_us = self.max_us.max(other.max_us);
    }
}

/// What a compile child says, as one JSON document on its standard output. The upload is its standard input; the
/// native code leaves through descriptor 3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CompileReport {
    /// Native code was written.
    Compiled {
        inspection: Inspection,
        build: BuildKey,
        native_bytes: u64,
    },
    /// The upload cannot be served. `code` is stable; `text` says what, why and what to do.
    Refused { code: String, text: String },
}

/// What an upload is, what it needs and whether it can be served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    pub kind: GuestKind,
    /// Whether it was a core module with embedded WIT, made into a component here.
    pub componentized: bool,
    pub imports: Vec<Import>,
    pub exports: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MAX_NAME_BYTES, limits};

    #[test]
    fn the_slots_of_every_tenant_fit_into_one_message() {
        let tenant = |number: u64| {
            let name = format!("{number:a>width$}", width = MAX_NAME_BYTES);
            (name.parse().unwrap(), Some(limits::SLOTS.ceiling))
        };
        let message = ToWorker::Slots {
            revision: u64::MAX,
            changes: (0..limits::TENANTS.default).map(tenant).collect(),
        };
        let length = serde_json::to_vec(&message).unwrap().len() as u64;
        assert!(length < limits::PIPE_FRAME.default.bytes(), "{length}");
    }

    #[test]
    fn a_histogram_counts_each_duration_once() {
        let mut histogram = Histogram::default();
        for us in [0, 10, 11, 30_000_000, 30_000_001] {
            histogram.count(us);
        }
        assert_eq!(histogram.buckets[0], 2);
        assert_eq!(histogram.buckets[1], 1);
        assert_eq!(histogram.buckets[17], 1);
        assert_eq!(histogram.buckets[18], 1);
        assert_eq!(histogram.count, 5);
    }
}
