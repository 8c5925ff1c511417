//! The control plane as a whole: what it is made with, how it opens, and how it ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use distribution::{Distribution, DistributionError};
use model::{ArtifactKey, Digest, Generation, Route, limits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, Pending};
use crate::catalog::{self, CatalogError};
use crate::certificates::{self, Certificates};
use crate::collect;
use crate::deploy::{Deployer, Deployments};
use crate::failures::Failures;
use crate::keys::{KeyError, Keys, PublicKeys};
use crate::mend;
use crate::natives::{self, Natives, has_digest};
use crate::pins::Pins;
use crate::receiving::Receiving;
use crate::records::{Records, RecordsError, versions};
use crate::secrets::Secrets;
use crate::settings::{Clock, ControlSettings};
use crate::stores::{self, StoresError};
use crate::tenant_limits::TenantLimits;
use crate::tokens;
use crate::turns::Turns;

/// Why the control plane cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "while making ready the data folder `{}`: {error}; see to the disk and to who may read and write there",
        path.display()
    )]
    Folder {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("a control plane needs {0}")]
    Setting(&'static str),
    #[error(
        "the records `{}` are missing or empty, but the artifacts of deployed apps are there: this is what is left of a data folder. Restore a backup into another folder with `midge restore`; or remove this one to begin anew",
        .0.display()
    )]
    RecordsLost(PathBuf),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("while looking whose stores there are: {0}")]
    Stores(#[from] StoresError),
    #[error("while handing the catalog and what was restored to the nodes: {0}")]
    Distribution(#[from] DistributionError),
}

/// The control plane. Clones share it.
#[derive(Clone)]
pub struct Control(Arc<Platform>);

/// What every part of the control plane works with.
pub(crate) struct Platform {
    pub settings: ControlSettings,
    pub records: Records,
    pub distribution: Arc<dyn Distribution>,
    pub keys: Arc<Keys>,
    pub natives: Natives,
    pub deployer: Deployer,
    pub certificates: Certificates,
    pub secrets: Secrets,
    pub tenant_limits: TenantLimits,
    pub pins: Pins,
    pub receiving: Receiving,
    pub failures: Failures,
    pub pending: Pending,
    /// For files that are not yet what they are to become.
    pub temporary: PathBuf,
    /// Changes under way, which outlive the connection that asked for them.
    pub changes: TaskTracker,
    /// The generation that was published at the start.
    pub first_generation: Generation,
    clock: Clock,
    tasks: TaskTracker,
    closing: CancellationToken,
    stop: CancellationToken,
}

impl Control {
    /// Opens or makes everything in the data folder, publishes the whole catalog, and begins to make in the
    /// background what native code is missing.
    pub async fn open(
        settings: ControlSettings,
        distribution: Arc<dyn Distribution>,
    ) -> Result<Self, OpenError> {
        Self::open_at(settings, distribution, Arc::new(system_time)).await
    }

    /// As [`Self::open`], with a clock of the caller's.
    pub async fn open_at(
        settings: ControlSettings,
        distribution: Arc<dyn Distribution>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        check(&settings)?;
        let temporary = settings.data.join("temporary");
        make_folders(&settings.data, &temporary).map_err(|error| OpenError::Folder {
            path: settings.data.clone(),
            error,
        })?;
        let keys = Arc::new(Keys::open(&settings.data.join("keys"))?);
        let path = settings.data.join("records.db");
        check_not_lost(&path, &*distribution).await?;
        let opened = tokio::task::spawn_blocking(move || Records::open(&path)).await;
        let records = opened.map_err(|_| RecordsError::Closed)??;
        adopt_restored(&settings.data, &*distribution).await?;
        let of_nobody = stores::of_nobody(&records, &*settings.kv).await?;
        let catalog = catalog::open(&records, settings.domain.clone(), settings.ceiling).await?;
        distribution
            .publish(catalog::whole(&catalog, &keys))
            .await?;

        let opening = Certificates::open(records.clone(), keys.clone(), settings.notice.clone());
        let certificates = opening.await?;
        let serving = settings.secrets.clone();
        let secrets = Secrets::open(&records, &keys, serving, &settings.notice).await?;
        let tenant_limits = TenantLimits::open(&records, settings.tenant_limits.clone()).await?;
        let first_generation = catalog.generation();
        let natives = Natives {
            records: records.clone(),
            distribution: distribution.clone(),
            keys: keys.clone(),
            command: settings.compile_command.clone(),
            builds: settings.build.clone(),
            temporary: temporary.clone(),
            turns: Turns::new(),
        };
        let (deployer, moving) = Deployments {
            records: records.clone(),
            distribution: distribution.clone(),
            keys: keys.clone(),
            domain: settings.domain.clone(),
            ceiling: settings.ceiling,
            certificates: certificates.clone(),
            catalog,
        }
        .start();
        let platform = Arc::new(Platform {
            settings,
            records,
            distribution,
            keys,
            natives,
            deployer,
            certificates: certificates.clone(),
            secrets,
            tenant_limits,
            receiving: Receiving::default(),
            pins: Pins::default(),
            failures: Failures::default(),
            pending: Pending::default(),
            temporary,
            changes: TaskTracker::new(),
            first_generation,
            clock,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        platform.spawn(moving);
        platform.spawn(certificates.follow());
        platform.spawn(certificates::tell_ended(platform.clone()));
        let mends = platform.distribution.mends();
        platform.spawn(mend::run(platform.clone(), mends));
        platform.spawn(tell_stopped(platform.clone()));
        platform.spawn(look_through(platform.clone()));
        platform.spawn(stores::forget_all(platform.clone(), of_nobody));
        Ok(Self(platform))
    }

    /// Begins to forget what no version names, now and then. Not before every process is gone that may want what an
    /// older platform compiled.
    pub fn collect(&self) {
        self.0.spawn(collect::run(self.0.clone()));
    }

    /// What nodes check catalogs and native code with.
    pub fn keys(&self) -> PublicKeys {
        self.0.keys.public()
    }

    /// What clients that speak TLS are shown of tenants' certificates, now and whenever that changes.
    pub fn certificates(&self) -> watch::Receiver<model::pipe::Certificates> {
        self.0.certificates.serving()
    }

    /// The generation that was published at the start.
    pub fn first_generation(&self) -> Generation {
        self.0.first_generation
    }

    /// Keeps a token for everything in the file at `path`, which only its owner reads: the one that is there, if
    /// it holds, else a new one.
    pub async fn admin_token(&self, path: &Path) -> Result<(), AdminTokenError> {
        tokens::keep_admin(&self.0, path)
            .await
            .map_err(|error| AdminTokenError(error.to_string()))
    }

    /// Sees to it that there is native code for what is served now, as far as it can be made; `progress` hears how many
    /// uploads are to be compiled and how many have been.
    pub async fn make_served(&self, mut progress: impl AsyncFnMut(usize, usize)) {
        let platform = &self.0;
        let Ok(served) = platform.records.read(versions::served_wasms).await else {
            // The background says so.
            return;
        };
        let mut missing = Vec::new();
        for wasm in served {
            // Each look at the bytes would lengthen the pause; who is served by damaged code has it mended.
            if !platform.natives.is_kept(wasm).await.unwrap_or(false) {
                missing.push(wasm);
            }
        }
        for (done, wasm) in missing.iter().enumerate() {
            progress(done, missing.len()).await;
            let _pin = platform.pins.pin(*wasm).await;
            // As above.
            let _ = platform.natives.ensure(None, *wasm).await;
        }
    }

    /// Answers the API's requests until `shutdown`, then finishes those in flight within [`limits::GRACE`].
    pub async fn serve(
        &self,
        listener: tokio::net::TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        api::serve(self.0.clone(), listener, shutdown).await;
    }

    /// Ends every task and closes the records. What was acknowledged is on disk.
    pub async fn close(&self) {
        let platform = &self.0;
        let deadline = tokio::time::Instant::now() + limits::GRACE.default.duration();
        platform.closing.cancel();
        platform.changes.close();
        // What takes longer is cut off; the records keep what was committed.
        let _ = tokio::time::timeout_at(deadline, platform.changes.wait()).await;
        platform.stop.cancel();
        platform.tasks.close();
        let _ = tokio::time::timeout_at(deadline, platform.tasks.wait()).await;
        platform.records.close().await;
    }

    pub(crate) fn platform(&self) -> &Arc<Platform> {
        &self.0
    }
}

/// Why the admin token's file was not written.
#[derive(Debug, thiserror::Error)]
#[error("the admin token cannot be kept: {0}")]
pub struct AdminTokenError(String);

impl Platform {
    /// Now, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Tells the operator.
    pub fn notice(&self, text: String) {
        (self.settings.notice)(&text);
    }

    /// Where an app answers.
    pub fn urls(&self, routes: &[Route]) -> Vec<String> {
        let urls = routes.iter().map(|route| self.settings.public.of(route));
        urls.collect()
    }

    /// Cancelled when the platform begins to stop: what only waits or follows ends.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            // Ended early or at its end: either way it is over.
            let _ = stop.run_until_cancelled(task).await;
        });
    }
}

/// The time that the machine shows, in milliseconds since 1970-01-01T00:00:00Z.
pub fn system_time() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

/// New records in an old folder would serve nothing of what was deployed, and soon forget it on every node.
async fn check_not_lost(records: &Path, distribution: &dyn Distribution) -> Result<(), OpenError> {
    let there = std::fs::metadata(records).is_ok_and(|file| file.len() > 0);
    if there || distribution.list().await?.is_empty() {
        Ok(())
    } else {
        Err(OpenError::RecordsLost(records.to_owned()))
    }
}

fn check(settings: &ControlSettings) -> Result<(), OpenError> {
    if settings.build.is_empty() {
        return Err(OpenError::Setting("at least one build to compile for"));
    }
    if settings.compile_command.is_empty() {
        return Err(OpenError::Setting("a command that starts a compile child"));
    }
    Ok(())
}

/// Makes the folders, and forgets the temporary files of a process that died.
fn make_folders(data: &Path, temporary: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(data)?;
    match std::fs::remove_dir_all(temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir(temporary)
}

/// Hands over the uploads that a restored backup brought, each once.
async fn adopt_restored(data: &Path, distribution: &dyn Distribution) -> Result<(), OpenError> {
    let folder = data.join(crate::restore::UPLOADS);
    let failed = |error| OpenError::Folder {
        path: folder.clone(),
        error,
    };
    let mut files = match tokio::fs::read_dir(&folder).await {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    while let Some(file) = files.next_entry().await.map_err(failed)? {
        let name = file.file_name();
        let digest = name.to_str().and_then(|name| name.strip_suffix(".wasm"));
        if let Some(digest) = digest.and_then(|text| text.parse::<Digest>().ok()) {
            let key = ArtifactKey::Wasm(digest);
            distribution.put(&key, &file.path()).await?;
        }
    }
    tokio::fs::remove_dir_all(&folder).await.map_err(failed)
}

/// Tells of records that take no more.
async fn tell_stopped(platform: Arc<Platform>) {
    let why = platform.records.stopped().await;
    platform.notice(why.to_string());
}

/// Looks at everything that is kept, what is served now first: makes native code that is damaged or missing, which after an
/// upgrade of the engine is all of it, and tells of damaged uploads.
async fn look_through(platform: Arc<Platform>) {
    let wasms = match platform.records.read(versions::wasms).await {
        Ok(wasms) => wasms,
        Err(error) => return platform.notice(format!("native code cannot be checked: {error}")),
    };
    for wasm in wasms {
        let _pin = platform.pins.pin(wasm).await;
        let short = wasm.short();
        let upload = platform.distribution.fetch(&ArtifactKey::Wasm(wasm)).await;
        let flaw = match upload {
            Ok(upload) => (!has_digest(upload, wasm).await).then(|| "damaged on disk".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(flaw) = flaw {
            platform.notice(format!(
                "the upload `{short}` cannot be used ({flaw}); deploy it again, which sends it anew"
            ));
        }
        match platform.natives.repair(wasm).await {
            Ok(true) => platform.notice(natives::made_anew(&wasm)),
            Ok(false) => {}
            Err(error) => platform.notice(natives::not_made(&wasm, &error)),
        }
    }
}

/// The address of a client, as the connection knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub SocketAddr);
