//! The whole platform in this process: how it starts, takes another's place, makes way for another, and stops.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use control::Control;
use distribution::{Distribution, NodeReport};
use model::api::NodeStatus;
use model::limits;
use model::upgrade::{FORM, Offer, ToPredecessor, UpgradeWord, Upgraded};
use node::Supervisor;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::certificates::Certificates;
use crate::config::Settings;
use crate::data_folder::DataFolder;
use crate::failure::{Failure, While as _};
use crate::profile;
use crate::sockets::Sockets;
use crate::succession::{Caller, Inheritance, Predecessor, Successor};
use crate::telemetry::Log;
use crate::wiring::{self, Lent, Node};

/// The whole platform on this machine, running.
pub struct Platform {
    settings: Settings,
    log: Log,
    folder: DataFolder,
    distribution: Arc<dyn Distribution>,
    node: Node,
    /// None while a successor has the records.
    control: Option<Controlled>,
    certificates: Certificates,
    lent: Lent,
    /// What a successor is handed.
    sockets: Sockets,
    /// Whose place this takes, until it was told that it may leave.
    predecessor: Option<Predecessor>,
    /// Says what became of it since.
    before: watch::Receiver<Before>,
}

/// What there is of the platform whose place this one took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Before {
    /// Its connections may take another request.
    Serves,
    /// They take none; what is in flight is finished.
    Settled,
    Gone,
}

/// The control plane and what serves it.
struct Controlled {
    control: Control,
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
        let sockets = Sockets::bind(settings)?;
        Self::assemble(settings, log, folder, sockets, None).await
    }

    /// As [`Self::start`], beside a running platform and with its sockets and its data folder; it serves as well until it
    /// is told by [`Self::is_ready`] that it may leave.
    ///
    /// # Errors
    /// Nothing of it is left running, and the running platform was told why.
    pub async fn succeed(
        settings: &Settings,
        log: Log,
        inheritance: Inheritance,
    ) -> Result<(Self, Places), Failure> {
        let Inheritance {
            sockets,
            mut predecessor,
        } = inheritance;
        let assembled = match predecessor.folder(settings).await {
            Ok(folder) => {
                let before = Some(&mut predecessor);
                Self::assemble(settings, log, folder, sockets, before).await
            }
            Err(failure) => Err(failure),
        };
        match assembled {
            Ok((mut platform, places)) => {
                platform.predecessor = Some(predecessor);
                Ok((platform, places))
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
        let places = Places {
            listen: sockets.listeners.local_addrs().to_vec(),
            api: sockets.api_address()?,
            token_file: folder.path().join(profile::TOKEN_FILE),
        };
        let mut certificates = Certificates::open(&settings.tls.certificates, log)?;
        let distribution = wiring::distribution(&folder)?;
        let node = Node::default();
        let (limits, to_workers) = watch::channel(Arc::default());
        let (stores, stores_folder) = wiring::stores(settings, limits.subscribe()).await?;
        let port = sockets.port();
        let (secrets, to_guests) = watch::channel(Arc::default());
        let lent = Lent {
            stores: stores.clone(),
            secrets,
            limits,
        };
        let control = wiring::control(settings, port, &node, &lent, &distribution, log).await?;
        join(&mut certificates, settings, &control);
        let ticket_keys = predecessor.as_ref().and_then(|it| it.ticket_keys.clone());
        let serve = async {
            match predecessor {
                Some(predecessor) => {
                    let listen = &places.listen;
                    take_over(&control, &lent, &*distribution, predecessor, listen).await;
                }
                None => control.collect(),
            }
            let kept = control.admin_token(&places.token_file).await;
            kept.map_err(|error| Failure::failed(error.to_string()))?;
            let listeners = sockets.listeners.copy();
            let listeners = listeners.or_fail(|| "copying the listening sockets".into())?;
            let handed = wiring::Handed {
                listeners,
                certificates: certificates.serving(),
                secrets: to_guests,
                limits: to_workers,
                ticket_keys,
                stores: (stores.clone(), stores_folder),
            };
            wiring::supervisor(settings, handed, &control, &distribution, log).await
        };
        match serve.await {
            Ok(supervisor) if supervisor.generation() > control.first_generation() => {
                let failure = older_records(settings, &supervisor, &control);
                supervisor.stop().await;
                control.close().await;
                return Err(failure);
            }
            Ok(supervisor) => node.put(supervisor),
            Err(failure) => {
                control.close().await;
                return Err(failure);
            }
        }
        let controlled = Controlled::serve(control, &sockets)?;
        folder.announce(&places.api.to_string());
        let platform = Self {
            settings: settings.clone(),
            log,
            folder,
            distribution,
            node,
            control: Some(controlled),
            certificates,
            lent,
            sockets,
            predecessor: None,
            before: watch::Sender::new(Before::Gone).subscribe(),
        };
        Ok((platform, places))
    }

    /// The data folder in use.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// Nothing can go wrong with this start any more: the platform whose place it takes may leave.
    pub async fn is_ready(&mut self) {
        let Some(mut predecessor) = self.predecessor.take() else {
            return;
        };
        let pid = std::process::id();
        // If it has died meanwhile, this one is needed all the more.
        let _ = predecessor.say(&ToPredecessor::Serving { pid }).await;
        let distribution = self.distribution.clone();
        let control = self.control.as_ref().map(|it| it.control.clone());
        let (before, watched) = watch::channel(Before::Serves);
        self.before = watched;
        tokio::spawn(async move {
            predecessor.settled().await;
            distribution.forget(&predecessor_name());
            before.send_replace(Before::Settled);
            predecessor.gone().await;
            before.send_replace(Before::Gone);
            // Its workers may want what an older build compiled for as long as it lives.
            if let Some(control) = control {
                control.collect();
            }
        });
    }

    /// Ends a start that came to nothing; the platform whose place it was to take is told why, and goes on.
    pub async fn give_up(mut self, failure: Failure) -> Failure {
        let predecessor = self.predecessor.take();
        self.stop().await;
        match predecessor {
            Some(predecessor) => predecessor.give_up(failure).await,
            None => failure,
        }
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
        if *self.before.borrow() < Before::Settled {
            let waiting = "the process before this one has connections yet: waiting for them";
            caller.say(&UpgradeWord::Progress(waiting.into())).await;
            // Else the next one would call a deployment live that those connections do not meet.
            self.before_is(Before::Settled).await;
        }
        let program = caller.request.program.clone();
        let api = self.sockets.api.as_fd();
        let offer = self.offer().map_err(|failure| failure.what)?;
        let prepared = Successor::prepare(&program, offer, api, &self.sockets.listeners);
        let (mut successor, version) = prepared.await?;
        let ready = format!("midge {version} is ready to take over");
        caller.say(&UpgradeWord::Progress(ready)).await;

        let paused = Instant::now();
        if let Some(controlled) = self.control.take() {
            controlled.close(async {}).await;
        }
        let progress = async |text| caller.say(&UpgradeWord::Progress(text)).await;
        match successor.succeed(self.folder.lock(), progress).await {
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

    /// Leaves the sockets and the data folder to `successor`, which serves by now, and finishes what is in flight: within
    /// the grace period once `hurry` has come, or once the successor is gone.
    pub async fn leave(self, successor: Successor, hurry: impl Future<Output = ()>) {
        drop(self.sockets);
        let (settle, settled) = oneshot::channel();
        let (folder, mut before) = (self.folder, self.before);
        let settled = async move {
            // Nobody left to say so means the same.
            let _ = settled.await;
            // Whoever starts on this folder from now on has no need to wait for these connections.
            drop(folder);
        };
        let hurry = async {
            tokio::select! {
                () = hurry => {}
                () = successor.see_off(settled) => {}
            }
        };
        if let Some(supervisor) = self.node.take() {
            let tell = move || {
                let _ = settle.send(());
            };
            supervisor.leave(tell, hurry).await;
        }
        // The successor waits for all that are before it by waiting for this one.
        let _ = before.wait_for(|before| *before == Before::Gone).await;
    }

    /// As [`Self::stop`], but the API goes on until the workers have ended: who follows a log hears all of it.
    pub async fn stop_heard_out(self) {
        drop(self.sockets);
        end_workers(&self.node).await;
        if let Some(controlled) = self.control {
            controlled.close(async {}).await;
        }
        self.folder.leave();
    }

    /// Lets what is in flight finish within the grace period, and ends everything.
    pub async fn stop(self) {
        drop(self.sockets);
        let drained = end_workers(&self.node);
        // The API's callers wait for nodes, and nodes for nobody: both end together.
        match self.control {
            Some(controlled) => controlled.close(drained).await,
            None => drained.await,
        }
        self.folder.leave();
    }

    async fn before_is(&mut self, at_least: Before) {
        // Nobody left to say so means that it is gone.
        let _ = self.before.wait_for(|before| *before >= at_least).await;
    }

    fn offer(&self) -> Result<Offer, Failure> {
        let Self {
            settings, sockets, ..
        } = self;
        Ok(Offer {
            form: FORM,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data: settings.data.clone(),
            asked_listen: settings.listen.addresses(),
            asked_tls: settings.tls.listen.clone(),
            asked_api: settings.api,
            listen: sockets.listeners.local_addrs().to_vec(),
            api: sockets.api_address()?,
            workers: sockets.listeners.workers(),
            ticket_keys: self.node.ticket_keys(),
        })
    }

    async fn open_control_again(&mut self) -> Result<(), Failure> {
        let Self {
            settings,
            sockets,
            node,
            distribution,
            certificates,
            lent,
            ..
        } = self;
        let port = sockets.port();
        let control = wiring::control(settings, port, node, lent, distribution, self.log).await?;
        control.collect();
        join(certificates, settings, &control);
        self.control = Some(Controlled::serve(control, sockets)?);
        self.folder
            .announce(&self.sockets.api_address()?.to_string());
        Ok(())
    }
}

impl Controlled {
    fn serve(control: Control, sockets: &Sockets) -> Result<Self, Failure> {
        let listener = sockets.api.try_clone().and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        let listener = listener.or_fail(|| "listening for the API".into())?;
        let (shutdown, stopping) = oneshot::channel();
        let serving = control.clone();
        let served = tokio::spawn(async move { serving.serve(listener, ended(stopping)).await });
        Ok(Self {
            control,
            shutdown,
            served,
        })
    }

    /// Finishes what the API has in flight, beside `meanwhile`, and closes the records.
    async fn close(self, meanwhile: impl Future<Output = ()>) {
        let _ = self.shutdown.send(());
        let ((), _) = tokio::join!(meanwhile, self.served);
        self.control.close().await;
    }
}

/// Lets the requests in flight finish within the grace period.
async fn end_workers(node: &Node) {
    if let Some(supervisor) = node.take() {
        supervisor.stop().await;
    }
}

/// Has tenants' certificates shown, if anybody can see them.
fn join(certificates: &mut Certificates, settings: &Settings, control: &Control) {
    if !settings.tls.listen.is_empty() {
        certificates.join(control.certificates());
    }
}

/// The records must know all that was served: each deployment is in them before a node hears of it.
fn older_records(settings: &Settings, supervisor: &Supervisor, control: &Control) -> Failure {
    let (data, known) = (settings.data.display(), control.first_generation());
    let served = supervisor.generation();
    Failure::failed(format!(
        "the records in `{data}/records.db` are not those that were written last: they know deployments up to generation {known}, and generation {served} was served"
    ))
    .hint(format!(
        "they, or `records.db-wal`, were changed on disk or put back from an older copy; restore a backup into an empty folder with `midge restore`, or, if the older copy is meant, remove `{data}/node/catalog`"
    ))
}

/// Makes ready for serving in the place of `predecessor`, which serves meanwhile. From here on no deployment, no secret and no
/// limit is called live before its connections take no more requests.
async fn take_over(
    control: &Control,
    lent: &Lent,
    distribution: &dyn Distribution,
    predecessor: &mut Predecessor,
    listen: &[SocketAddr],
) {
    let compiling = control.make_served(async |done, all| {
        let text = format!("native code made for {done} of {all} uploads that are served");
        // If it is gone, this one is needed all the more.
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
            secrets: lent.secrets.borrow().revision,
            limits: lent.limits.borrow().revision,
            workers: 0,
            worker_restarts: 0,
            listen: listen.join(", "),
        },
        refusals: Vec::new(),
    });
}

/// What a platform that leaves is called as long as it has connections.
fn predecessor_name() -> String {
    format!("{} (leaving)", wiring::machine_name())
}

/// Ends when told to, or when nobody is left who could.
async fn ended(stopping: oneshot::Receiver<()>) {
    let _ = stopping.await;
}
