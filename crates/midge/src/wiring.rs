//! How the parts are put together: the only place that chooses backends.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use capabilities::kv::embedded::Stores;
use control::{Control, ControlSettings, NodeLimits, PublicUrl};
use distribution::Distribution;
use distribution::embedded::Embedded;
use model::api::AppUsage;
use model::pipe::Certificates;
use model::ticket::TicketKeys;
use model::{EngineSetting, Secrets, TenantLimits, TenantName};
use node::{Listeners, NodeSettings, Supervisor};
use tokio::sync::watch;

use crate::config::Settings;
use crate::data_folder::DataFolder;
use crate::failure::{Failure, While as _};
use crate::telemetry::Log;

/// This program, whatever lies at its path by now: workers and compile children are of the build that starts them.
const OURSELVES: &str = "/proc/self/exe";

/// The node, where the control plane finds what it counts as well; none before it runs and after it was taken.
#[derive(Clone, Default)]
pub struct Node(Arc<RwLock<Option<Supervisor>>>);

impl Node {
    pub fn put(&self, supervisor: Supervisor) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(supervisor);
    }

    pub fn take(&self) -> Option<Supervisor> {
        let mut node = self.0.write().unwrap_or_else(PoisonError::into_inner);
        node.take()
    }

    /// What TLS sessions are resumed with now, if it runs.
    pub fn ticket_keys(&self) -> Option<TicketKeys> {
        let node = self.0.read().unwrap_or_else(PoisonError::into_inner);
        node.as_ref().map(Supervisor::ticket_keys)
    }

    fn metrics(&self) -> String {
        let node = self.0.read().unwrap_or_else(PoisonError::into_inner);
        node.as_ref().map(Supervisor::metrics).unwrap_or_default()
    }

    fn usage(&self) -> Vec<AppUsage> {
        let node = self.0.read().unwrap_or_else(PoisonError::into_inner);
        node.as_ref().map(Supervisor::usage).unwrap_or_default()
    }
}

/// Where the control plane and the node meet.
pub fn distribution(folder: &DataFolder) -> Result<Arc<dyn Distribution>, Failure> {
    let embedded = Embedded::new(folder.path().join("artifacts"));
    let embedded = embedded.map_err(|error| {
        Failure::failed(format!("the platform cannot start: {error}"))
            .hint("see to the disk and to who may read and write there")
    });
    Ok(Arc::new(embedded?))
}

/// The node's key-value stores, and the folder that they lie in. Each holds as much as `own` says of its tenant, or else the
/// settings.
pub async fn stores(
    settings: &Settings,
    own: watch::Receiver<Arc<TenantLimits>>,
) -> Result<(Stores, PathBuf), Failure> {
    let folder = settings.data.join("stores");
    let (path, every) = (folder.clone(), settings.node.kv_store);
    let limit = move |tenant: &TenantName| own.borrow().of(tenant).kv_store.unwrap_or(every);
    let opened = tokio::task::spawn_blocking(move || {
        Stores::open_limited(&path, Arc::new(limit), Arc::new(control::system_time))
    });
    let opened = opened.await.or_fail(|| "opening the stores".into())?;
    let stores = opened.map_err(|error| {
        Failure::failed(format!(
            "the key-value stores in `{}` cannot be opened: {error}",
            folder.display()
        ))
        .hint("they are as they were; `midge restore` makes a data folder of a backup")
    })?;
    Ok((stores, folder))
}

/// What the node has of the control plane, which keeps it or sees to it.
pub struct Lent {
    /// The apps' key-value stores.
    pub stores: Stores,
    /// Every secret that is set, for the node.
    pub secrets: watch::Sender<Arc<Secrets>>,
    /// Every limit that is a tenant's own, for the node.
    pub limits: watch::Sender<Arc<TenantLimits>>,
}

/// The control plane over the records in the data folder; `port` is the one that apps answer at.
pub async fn control(
    settings: &Settings,
    port: u16,
    node: &Node,
    lent: &Lent,
    distribution: &Arc<dyn Distribution>,
    log: Log,
) -> Result<Control, Failure> {
    let opened = Control::open(
        control_settings(settings, port, node.clone(), lent, log),
        distribution.clone(),
    );
    opened.await.map_err(|error| unopened(settings, &error))
}

/// What a node is handed besides its settings.
pub struct Handed {
    pub listeners: Listeners,
    pub certificates: watch::Receiver<Certificates>,
    pub secrets: watch::Receiver<Arc<Secrets>>,
    pub limits: watch::Receiver<Arc<TenantLimits>>,
    /// What TLS sessions were resumed with by the node whose place this one takes.
    pub ticket_keys: Option<TicketKeys>,
    /// The key-value stores, and the folder that they lie in.
    pub stores: (Stores, PathBuf),
}

/// The node, as soon as all of its workers serve.
pub async fn supervisor(
    settings: &Settings,
    handed: Handed,
    control: &Control,
    distribution: &Arc<dyn Distribution>,
    log: Log,
) -> Result<Supervisor, Failure> {
    let settings = node_settings(settings, handed, control, log)?;
    let started = Supervisor::start(settings, distribution.clone()).await;
    started.map_err(|error| Failure::failed(error.to_string()))
}

fn control_settings(
    settings: &Settings,
    port: u16,
    node: Node,
    lent: &Lent,
    log: Log,
) -> ControlSettings {
    let counting = node.clone();
    ControlSettings {
        data: settings.data.clone(),
        domain: settings.domain.clone(),
        ceiling: settings.ceiling,
        versions_kept: settings.control.versions_kept,
        wasm_limit: settings.control.wasm,
        compile_command: ourselves("compile-child"),
        build: EngineSetting::ALL.map(runtime::build_key).to_vec(),
        public: PublicUrl {
            scheme: "http".to_owned(),
            port,
        },
        open_metrics: settings.control.open_metrics,
        metrics: Arc::new(move || node.metrics()),
        usage: Arc::new(move || counting.usage()),
        kv: Arc::new(lent.stores.clone()),
        secrets: lent.secrets.clone(),
        node_limits: NodeLimits {
            slots: settings.node.slots,
            tenant_slots: settings.node.tenant_slots,
            kv_store: settings.node.kv_store,
        },
        tenant_limits: lent.limits.clone(),
        notice: Arc::new(move |text| log.warning(text)),
    }
}

fn node_settings(
    settings: &Settings,
    handed: Handed,
    control: &Control,
    log: Log,
) -> Result<NodeSettings, Failure> {
    let keys = control.keys();
    Ok(NodeSettings {
        name: machine_name(),
        data: settings.data.join("node"),
        listeners: handed.listeners,
        worker_command: ourselves("worker"),
        catalog_key: keys.catalog,
        compile_key: keys.compile,
        domain: settings.domain.clone(),
        memory_ceiling: settings.ceiling.memory,
        slots: settings.node.slots,
        tenant_slots: settings.node.tenant_slots,
        resident: settings.node.resident_apps,
        connections: settings.node.connections,
        egress: settings.egress.settings()?,
        trust_forwarded: settings.node.trust_forwarded,
        default_host: settings.node.default_host.clone(),
        proxy_protocol: settings.node.proxy_protocol,
        certificates: handed.certificates,
        secrets: handed.secrets,
        limits: handed.limits,
        ticket_keys: handed.ticket_keys,
        stores: handed.stores,
        grace: settings.grace,
        pin_cores: settings.node.pin,
        log_outputs: settings.telemetry.logs.clone(),
        otlp: settings.telemetry.otlp.clone(),
        notice: Arc::new(move |text: &str| log.warning(text)),
    })
}

fn ourselves(command: &str) -> Vec<OsString> {
    vec![OURSELVES.into(), command.into()]
}

/// What this machine's node is called.
pub fn machine_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    if name.is_empty() {
        "local".to_owned()
    } else {
        name.into_owned()
    }
}

fn unopened(settings: &Settings, error: &control::OpenError) -> Failure {
    Failure::failed(format!("the platform cannot start: {error}")).hint(format!(
        "nothing in `{}` was changed that was acknowledged before; `midge doctor` checks this machine",
        settings.data.display()
    ))
}
