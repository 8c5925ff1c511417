//! How the parts are put together: the only place that chooses backends.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use control::{Control, ControlSettings, PublicUrl};
use distribution::embedded::Embedded;
use distribution::{Distribution, NodeReport};
use model::api::NodeStatus;
use model::upgrade::{FORM, Offer, ToPredecessor, UpgradeWord, Upgraded};
use model::{EngineSetting, limits};
use node::{BindError, Listeners, NodeSettings, Supervisor};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::Settings;
use crate::data_folder::DataFolder;
use crate::failure::{Exit, Failure, While as _};
use crate::profile;
use crate::succession::{Caller, Inheritance, Predecessor, Successor};
use crate::telemetry::Log;

/// This program, whatever lies at its path by now: workers and compile children are of the build that starts them.
const OURSELVES: &str = "/proc/self/exe";

/// The whole platform on this machine, running.
pub struct Platform {
    settings: Settings,
    log: Log,
    folder: DataFolder,
    distribution: Arc<dyn Distribution>,
    node: Node,
    /// None while a successor has the records.
    control: Option<Controlled>,
    /// What a successor is handed. Held, because nobody but us can open the same sockets again.
    sockets: Sockets,
}

/// The control plane and what serves it.
struct Controlled {
    control: Control,
    api: Api,
    notices: JoinHandle<()>,
}

/// The sockets that the platform listens on.
struct Sockets {
    api: std::net::TcpListener,
    listeners: Listeners,
}

/// The node, where the control plane's `/metrics` finds it as well.
type Node = Arc<RwLock<Option<Supervisor>>>;

/// The control API, serving.
struct Api {
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
        let folder = DataFolder::take(&settings.data)?;
        let api = listen_for_api(settings.api)?;
        let listeners = Listeners::bind(&settings.listen.addresses(), settings.workers)
            .map_err(|error| unbound(&error))?;
        let sockets = Sockets { api, listeners };
        let started = Self::assemble(settings, log, folder, sockets, None).await?;
        started.0.collect();
        Ok(started)
    }

    /// Takes the place of a running platform; returns when every worker serves what that one served.
    ///
    /// # Errors
    /// Nothing of it is left running, and the running platform was told why.
    pub async fn succeed(
        settings: &Settings,
        log: Log,
        inheritance: Inheritance,
    ) -> Result<(Self, Places), Failure> {
        let Inheritance {
            api,
            listeners,
            mut predecessor,
        } = inheritance;
        let sockets = Sockets { api, listeners };
        let folder = match predecessor.folder(settings).await {
            Ok(folder) => folder,
            Err(failure) => return Err(predecessor.give_up(failure).await),
        };
        let assembled =
            Self::assemble(settings, log, folder, sockets, Some(&mut predecessor)).await;
        match assembled {
            Ok(started) => {
                let pid = std::process::id();
                predecessor.say(&ToPredecessor::Serving { pid }).await?;
                let distribution = started.0.distribution.clone();
                let control = started.0.control.as_ref().map(|it| it.control.clone());
                tokio::spawn(async move {
                    predecessor.settled().await;
                    distribution.forget(&predecessor_name());
                    predecessor.gone().await;
                    if let Some(control) = control {
                        control.collect();
                    }
                });
                Ok(started)
            }
            Err(failure) => Err(predecessor.give_up(failure).await),
        }
    }

    async fn assemble(
        settings: &Settings,
        log: Log,
        mut folder: DataFolder,
        sockets: Sockets,
        predecessor: Option<&mut Predecessor>,
    ) -> Result<(Self, Places), Failure> {
        let listen = sockets.listeners.local_addrs().to_vec();
        let address = sockets.api.local_addr();
        let address = address.or_fail(|| "asking for the API's address".into())?;
        let distribution: Arc<dyn Distribution> = Arc::new(
            Embedded::new(folder.path().join("artifacts"))
                .or_fail(|| "opening the artifacts".into())?,
        );
        let node = Node::default();
        let control = open_control(settings, &sockets, &node, &distribution).await?;
        let started = async {
            if let Some(predecessor) = predecessor {
                take_over(&control, &*distribution, predecessor, &listen).await?;
            }
            let listeners = sockets.listeners.copy();
            let listeners = listeners.or_fail(|| "copying the listening sockets".into())?;
            let settings = node_settings(settings, listeners, &control, log);
            let started = Supervisor::start(settings, distribution.clone()).await;
            started.map_err(|error| Failure::failed(error.to_string()))
        };
        match started.await {
            Ok(supervisor) => put(&node, supervisor),
            Err(failure) => {
                control.close().await;
                return Err(failure);
            }
        }
        let token_file = folder.path().join(profile::TOKEN_FILE);
        control
            .admin_token(&token_file)
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        let controlled = Controlled::serve(control, &sockets, log)?;
        folder.announce(&address.to_string());
        let places = Places {
            listen,
            api: address,
            token_file,
        };
        let platform = Self {
            settings: settings.clone(),
            log,
            folder,
            distribution,
            node,
            control: Some(controlled),
            sockets,
        };
        Ok((platform, places))
    }

    /// The data folder in use.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// Has the program that `caller` names take the place of this platform.
    ///
    /// # Errors
    /// Why it did not; this platform goes on as before.
    pub async fn hand_over(
        &mut self,
        caller: &mut Caller,
    ) -> Result<(Successor, Upgraded), String> {
        if std::process::id() == 1 {
            return Err("this platform is process 1, and with it everything would end: start it below an init (containers: `--init`)".into());
        }
        let program = caller.request.program.clone();
        let api = self.sockets.api.as_fd();
        let prepared =
            Successor::prepare(&program, self.offer()?, api, &self.sockets.listeners).await;
        let (mut successor, version) = prepared?;
        let say = |text: String| UpgradeWord::Progress(text);
        let ready = format!("midge {version} is ready to take over");
        caller.say(&say(ready)).await;

        let paused = Instant::now();
        self.close_control().await;
        let progress = async |text| caller.say(&say(text)).await;
        let succeeded = successor.succeed(self.folder.lock(), progress).await;
        match succeeded {
            Ok(pid) => {
                let upgraded = Upgraded {
                    from: env!("CARGO_PKG_VERSION").to_owned(),
                    to: version,
                    pid,
                    api_pause_ms: paused.elapsed().as_millis() as u64,
                };
                Ok((successor, upgraded))
            }
            Err(why) => {
                successor.end().await;
                match self.open_control_again().await {
                    Ok(()) => Err(why),
                    Err(failure) => Err(format!(
                        "{why}; apps are served, but the control plane of the running platform cannot go on either: {}",
                        failure.what
                    )),
                }
            }
        }
    }

    /// Leaves the sockets and the data folder to `successor`, which serves by now, and finishes what is in flight.
    pub async fn leave(self, successor: Successor) {
        let Self {
            folder,
            sockets,
            node,
            ..
        } = self;
        drop((folder, sockets));
        let (settle, settled) = oneshot::channel();
        let supervisor = take(&node);
        let left = async {
            if let Some(supervisor) = supervisor {
                // Nobody listening means that the successor has gone.
                let tell = move || {
                    let _ = settle.send(());
                };
                supervisor.leave(tell).await;
            }
        };
        let telling = async {
            let _ = settled.await;
            successor.settled().await;
        };
        tokio::select! {
            () = left => {}
            () = telling => {}
        }
    }

    /// Lets what is in flight finish within the grace period, and ends everything.
    pub async fn stop(mut self) {
        drop(self.sockets);
        let supervisor = take(&self.node);
        let drained = async {
            if let Some(supervisor) = supervisor {
                supervisor.stop().await;
            }
        };
        // The API's callers wait for nodes, and nodes for nobody: both end together.
        match self.control.take() {
            Some(controlled) => controlled.close(drained).await,
            None => drained.await,
        }
        self.folder.leave();
    }

    fn offer(&self) -> Result<Offer, String> {
        let Self {
            settings, sockets, ..
        } = self;
        let api = sockets.api.local_addr();
        Ok(Offer {
            form: FORM,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data: settings.data.clone(),
            asked_listen: settings.listen.addresses(),
            asked_api: settings.api,
            listen: sockets.listeners.local_addrs().to_vec(),
            api: api.map_err(|error| format!("the API's address cannot be asked for: {error}"))?,
            workers: sockets.listeners.workers(),
        })
    }

    /// Begins to forget what is of no use any more.
    fn collect(&self) {
        if let Some(controlled) = &self.control {
            controlled.control.collect();
        }
    }

    async fn close_control(&mut self) {
        if let Some(controlled) = self.control.take() {
            controlled.close(async {}).await;
        }
    }

    async fn open_control_again(&mut self) -> Result<(), Failure> {
        let Self {
            settings,
            sockets,
            node,
            distribution,
            log,
            ..
        } = self;
        let control = open_control(settings, sockets, node, distribution).await?;
        self.control = Some(Controlled::serve(control, sockets, *log)?);
        self.collect();
        if let Ok(address) = self.sockets.api.local_addr() {
            self.folder.announce(&address.to_string());
        }
        Ok(())
    }
}

impl Controlled {
    fn serve(control: Control, sockets: &Sockets, log: Log) -> Result<Self, Failure> {
        let api = serve(&control, &sockets.api)?;
        let notices = tokio::spawn(tell(control.clone(), log));
        Ok(Self {
            control,
            api,
            notices,
        })
    }

    /// Finishes what the API has in flight, beside `meanwhile`, and closes the records.
    async fn close(self, meanwhile: impl Future<Output = ()>) {
        let _ = self.api.shutdown.send(());
        let ((), _) = tokio::join!(meanwhile, self.api.served);
        self.control.close().await;
        self.notices.abort();
    }
}

async fn open_control(
    settings: &Settings,
    sockets: &Sockets,
    node: &Node,
    distribution: &Arc<dyn Distribution>,
) -> Result<Control, Failure> {
    let port = sockets.listeners.local_addrs()[0].port();
    let opened = Control::open(
        control_settings(settings, port, node.clone()),
        distribution.clone(),
    );
    opened.await.map_err(|error| unopened(settings, &error))
}

/// Makes ready for serving in the place of `predecessor`, which serves meanwhile. From here on no deployment is called
/// live before its connections take no more requests.
async fn take_over(
    control: &Control,
    distribution: &dyn Distribution,
    predecessor: &mut Predecessor,
    listen: &[SocketAddr],
) -> Result<(), Failure> {
    let compiling = control.make_served(async |done, all| {
        let text = format!("native code made for {done} of {all} uploads that are served");
        // If it is gone, the next word to it says so.
        let _ = predecessor.say(&ToPredecessor::Progress(text)).await;
    });
    // What is not made by then is made when a request asks for it.
    let wait = limits::SUCCESSION_COMPILE.default.duration();
    let _ = tokio::time::timeout(wait, compiling).await;
    let listen: Vec<_> = listen.iter().map(SocketAddr::to_string).collect();
    distribution.report(NodeReport {
        status: NodeStatus {
            name: predecessor_name(),
            generation: control.first_generation(),
            workers: 0,
            worker_restarts: 0,
            listen: listen.join(", "),
        },
        refusals: Vec::new(),
    });
    Ok(())
}

/// What a platform that leaves is called as long as it has connections.
fn predecessor_name() -> String {
    format!("{} (leaving)", machine_name())
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

fn listen_for_api(address: SocketAddr) -> Result<std::net::TcpListener, Failure> {
    std::net::TcpListener::bind(address).map_err(|error| {
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

fn serve(control: &Control, listener: &std::net::TcpListener) -> Result<Api, Failure> {
    let listener = listener.try_clone().and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    let listener = listener.or_fail(|| "listening for the API".into())?;
    let (shutdown, stopping) = oneshot::channel();
    let control = control.clone();
    let served = tokio::spawn(async move { control.serve(listener, ended(stopping)).await });
    Ok(Api { shutdown, served })
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
