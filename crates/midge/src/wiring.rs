//! How the parts are put together: the only place that chooses backends.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use control::{Control, ControlSettings, PublicUrl};
use distribution::Distribution;
use distribution::embedded::Embedded;
use model::EngineSetting;
use node::{BindError, Listeners, NodeSettings, Supervisor};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::Settings;
use crate::data_folder::DataFolder;
use crate::failure::{Exit, Failure, While as _};
use crate::profile;
use crate::telemetry::Log;

/// This program, whatever lies at its path by now: workers and compile children are of the build that starts them.
const OURSELVES: &str = "/proc/self/exe";

/// The whole platform on this machine, running.
pub struct Platform {
    control: Control,
    node: Node,
    api: Api,
    notices: JoinHandle<()>,
    folder: DataFolder,
}

/// The node, where the control plane's `/metrics` finds it as well.
type Node = Arc<RwLock<Option<Supervisor>>>;

/// The control API, serving.
struct Api {
    address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

/// Where things are, once the platform is ready.
pub struct Places {
    pub listen: Vec<SocketAddr>,
    pub api: SocketAddr,
    pub token_file: PathBuf,
}

impl Platform {
    /// Starts everything; returns when every worker serves what was deployed before.
    ///
    /// # Errors
    /// Nothing of it is left running.
    pub async fn start(settings: &Settings, log: Log) -> Result<(Self, Places), Failure> {
        let mut folder = DataFolder::take(&settings.data)?;
        let api = listen_for_api(settings.api).await?;
        let listeners = Listeners::bind(&settings.listen.addresses(), settings.workers)
            .map_err(|error| unbound(&error))?;
        let listen = listeners.local_addrs().to_vec();
        let distribution: Arc<dyn Distribution> = Arc::new(
            Embedded::new(folder.path().join("artifacts"))
                .or_fail(|| "opening the artifacts".into())?,
        );

        let node = Node::default();
        let control = Control::open(
            control_settings(settings, listen[0].port(), node.clone()),
            distribution.clone(),
        )
        .await
        .map_err(|error| unopened(settings, &error))?;
        let notices = tokio::spawn(tell(control.clone(), log));

        let started = Supervisor::start(
            node_settings(settings, listeners, &control, log),
            distribution,
        )
        .await;
        match started {
            Ok(supervisor) => put(&node, supervisor),
            Err(error) => {
                control.close().await;
                return Err(Failure::failed(error.to_string()));
            }
        }
        let token_file = folder.path().join(profile::TOKEN_FILE);
        control
            .admin_token(&token_file)
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        let api = serve(&control, api)?;
        folder.announce(&api.address.to_string());
        let places = Places {
            listen,
            api: api.address,
            token_file,
        };
        let platform = Self {
            control,
            node,
            api,
            notices,
            folder,
        };
        Ok((platform, places))
    }

    /// Lets what is in flight finish within the grace period, and ends everything.
    pub async fn stop(self) {
        // The API's callers wait for nodes, and nodes for nobody: both end together.
        let _ = self.api.shutdown.send(());
        let supervisor = take(&self.node);
        let drained = async {
            if let Some(supervisor) = supervisor {
                supervisor.stop().await;
            }
        };
        let _ = tokio::join!(drained, self.api.served);
        self.control.close().await;
        self.notices.abort();
        drop(self.folder);
    }
}

fn put(node: &Node, supervisor: Supervisor) {
    *node.write().unwrap_or_else(PoisonError::into_inner) = Some(supervisor);
}

fn take(node: &Node) -> Option<Supervisor> {
    node.write().unwrap_or_else(PoisonError::into_inner).take()
}

fn control_settings(settings: &Settings, port: u16, node: Node) -> ControlSettings {
    let metrics = move || {
        let node = node.read().unwrap_or_else(PoisonError::into_inner);
        node.as_ref().map(Supervisor::metrics).unwrap_or_default()
    };
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
        metrics: Arc::new(metrics),
    }
}

fn node_settings(
    settings: &Settings,
    listeners: Listeners,
    control: &Control,
    log: Log,
) -> NodeSettings {
    let keys = control.keys();
    NodeSettings {
        name: machine_name(),
        data: settings.data.join("node"),
        listeners,
        worker_command: ourselves("worker"),
        catalog_key: keys.catalog,
        compile_key: keys.compile,
        domain: settings.domain.clone(),
        memory_ceiling: settings.ceiling.memory,
        slots: settings.node.slots,
        tenant_slots: settings.node.tenant_slots,
        resident: settings.node.resident_apps,
        connections: settings.node.connections,
        trust_forwarded: settings.node.trust_forwarded,
        grace: settings.grace,
        pin_cores: settings.node.pin,
        notice: Arc::new(move |text: &str| log.warning(text)),
    }
}

fn ourselves(command: &str) -> Vec<OsString> {
    vec![OURSELVES.into(), command.into()]
}

fn machine_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    if name.is_empty() {
        "local".to_owned()
    } else {
        name.into_owned()
    }
}

async fn listen_for_api(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let failure = |why: &str| {
            Failure::failed(format!("the control API cannot listen on `{address}`: {why}"))
        };
        match error.kind() {
            std::io::ErrorKind::AddrInUse => failure("another process listens there")
                .hint("end it, or give another address with `--api`, such as `--api 127.0.0.1:0` for any free port"),
            std::io::ErrorKind::PermissionDenied => failure("ports below 1024 need a privilege")
                .hint("give a higher port with `--api`"),
            std::io::ErrorKind::AddrNotAvailable => failure("this machine has no such address")
                .hint("give one that it has with `--api`"),
            _ => failure(&error.to_string()),
        }
    })
}

fn unbound(error: &BindError) -> Failure {
    let failure = Failure::failed(error.to_string());
    match error {
        BindError::NoAddress | BindError::TooMany(_) => Failure {
            exit: Exit::Usage,
            ..failure
        },
        BindError::Busy(_) | BindError::Denied(_) | BindError::NotHere(_) => {
            failure.hint("`--listen ADDRESS` names another, such as `--listen 127.0.0.1:0`")
        }
        BindError::Io { .. } => failure,
    }
}

fn unopened(settings: &Settings, error: &control::OpenError) -> Failure {
    Failure::failed(format!("the platform cannot start: {error}")).hint(format!(
        "nothing in `{}` was changed that was acknowledged before; `midge doctor` checks this machine",
        settings.data.display()
    ))
}

fn serve(control: &Control, listener: TcpListener) -> Result<Api, Failure> {
    let address = listener
        .local_addr()
        .or_fail(|| "asking for the API's address".into())?;
    let (shutdown, stopping) = oneshot::channel();
    let control = control.clone();
    let served = tokio::spawn(async move { control.serve(listener, ended(stopping)).await });
    Ok(Api {
        address,
        shutdown,
        served,
    })
}

/// Ends when told to, or when nobody is left who could.
async fn ended(stopping: oneshot::Receiver<()>) {
    let _ = stopping.await;
}

/// Logs what the control plane tells the operator.
async fn tell(control: Control, log: Log) {
    let mut notices = control.notices();
    drop(control);
    loop {
        match notices.recv().await {
            Ok(text) => log.warning(&text),
            Err(RecvError::Lagged(missed)) => log.warning(&format!("{missed} notices were missed")),
            Err(RecvError::Closed) => return,
        }
    }
}
