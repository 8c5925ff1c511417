//! Deployments: one task moves every pointer, one after the other, so that generations form one line.
//!
//! A move is one transaction of the records (pointer, history, routes, generation and its signed delta); only then
//! is it told to distribution. A start in between publishes the whole catalog again.

use std::sync::Arc;
use std::time::Duration;

use distribution::{Distribution, Publication};
use model::{
    AppId, AppLimits, Catalog, Change, Deployment, DeploymentCause, Generation, Host,
    LimitsRevision, Owner, Revision, SecretsRevision, Signed, TenantName, VersionNumber, limits,
};
use rusqlite::Transaction;
use tokio::sync::{mpsc, oneshot, watch};

use crate::catalog::{self, entry};
use crate::certificates::Certificates;
use crate::keys::Keys;
use crate::records::{
    Records, RecordsError, apps, deployments, generations, incarnations, secrets, tenant_limits,
    tenants, versions,
};
use crate::routes::{self, RouteRefusal};
use crate::tokens::{self, AuthError};

/// Why a pointer was not moved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    #[error("there is no app `{0}`")]
    NoApp(AppId),
    #[error("`{id}` has no version {version}; it may have been deleted to keep the newest ones")]
    NoVersion { id: AppId, version: VersionNumber },
    #[error("`{0}` served no other version before this one; say which version to serve")]
    NothingBefore(AppId),
    #[error(
        "`{id}` is at revision {found}, not {expected}: somebody deployed it meanwhile; look, and try again"
    )]
    Moved {
        id: AppId,
        expected: Revision,
        found: Revision,
    },
    #[error("{0}")]
    Route(#[from] RouteRefusal),
    #[error("there is no tenant `{0}`")]
    NoTenant(TenantName),
    #[error(
        "the tenant `{tenant}` has {apps} apps; delete them first, or say that they go with it"
    )]
    HasApps { tenant: TenantName, apps: usize },
    #[error("{0} deployments wait already; try again in a few seconds")]
    QueueFull(u64),
    #[error("the platform is stopping; try again when it is back")]
    Stopping,
    #[error(transparent)]
    Ended(#[from] AuthError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// What is to be done with a pointer.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub id: AppId,
    pub version: VersionNumber,
    pub cause: DeploymentCause,
    pub expect: Option<Revision>,
    pub by: String,
    pub at_ms: u64,
}

/// A tenant that is to go.
#[derive(Debug, Clone)]
pub(crate) struct Leave {
    pub tenant: TenantName,
    /// What becomes of its apps.
    pub apps: AppsOfTenant,
    pub at_ms: u64,
}

/// What becomes of the apps of a tenant that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppsOfTenant {
    /// While there are any, it stays.
    Keep,
    Delete,
}

/// What went with a tenant.
#[derive(Debug)]
pub(crate) struct Left {
    /// Whose stores are nobody's now.
    pub owners: Vec<Owner>,
    pub generation: Generation,
    /// The change of secrets that this was.
    pub secrets: SecretsRevision,
    /// The change of tenants' limits that this was.
    pub limits: LimitsRevision,
}

/// What is left of an app.
#[derive(Debug)]
pub(crate) struct Deleted {
    /// Whose stores are nobody's now.
    pub owner: Owner,
    pub generation: Generation,
}

enum Order {
    Deploy(Move, oneshot::Sender<Result<Deployment, DeployError>>),
    Delete(AppId, oneshot::Sender<Result<Deleted, DeployError>>),
    Leave(Leave, oneshot::Sender<Result<Left, DeployError>>),
}

/// The way to the task that moves pointers.
#[derive(Clone)]
pub(crate) struct Deployer {
    orders: mpsc::Sender<Order>,
    catalog: watch::Receiver<Catalog>,
}

impl Deployer {
    /// Moves an app's pointer. Nodes know of it when this returns, unless distribution failed; then they will.
    pub async fn deploy(&self, wanted: Move) -> Result<Deployment, DeployError> {
        self.submit(|reply| Order::Deploy(wanted, reply)).await
    }

    /// Deletes an app. Nodes know of it as above.
    pub async fn delete(&self, id: AppId) -> Result<Deleted, DeployError> {
        self.submit(|reply| Order::Delete(id, reply)).await
    }

    /// Deletes a tenant. Nodes know of it as above.
    pub async fn leave(&self, leave: Leave) -> Result<Left, DeployError> {
        self.submit(|reply| Order::Leave(leave, reply)).await
    }

    /// The newest generation.
    pub fn generation(&self) -> Generation {
        self.catalog.borrow().generation()
    }

    /// What is served by it.
    pub fn catalog(&self) -> Catalog {
        self.catalog.borrow().clone()
    }

    async fn submit<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, DeployError>>) -> Order,
    ) -> Result<T, DeployError> {
        let (reply, answer) = oneshot::channel();
        self.orders
            .try_send(order(reply))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => {
                    DeployError::QueueFull(limits::DEPLOYS_WAITING.default)
                }
                mpsc::error::TrySendError::Closed(_) => DeployError::Stopping,
            })?;
        answer.await.unwrap_or(Err(DeployError::Stopping))
    }
}

/// The task that moves pointers, and what it holds.
pub(crate) struct Deployments {
    pub records: Records,
    pub distribution: Arc<dyn Distribution>,
    pub keys: Arc<Keys>,
    pub domain: Host,
    pub ceiling: AppLimits,
    pub certificates: Certificates,
    /// The newest generation, published.
    pub catalog: Catalog,
}

impl Deployments {
    /// The task, to be run until it ends, which it does when every [`Deployer`] is gone or it is aborted.
    pub fn start(self) -> (Deployer, impl Future<Output = ()> + Send) {
        let (orders, queue) = mpsc::channel(limits::DEPLOYS_WAITING.default as usize);
        let (newest, catalog) = watch::channel(self.catalog.clone());
        let deployer = Deployer { orders, catalog };
        (deployer, self.work(queue, newest))
    }

    async fn work(mut self, mut queue: mpsc::Receiver<Order>, newest: watch::Sender<Catalog>) {
        const RETRY: Duration = Duration::from_millis(500);
        let mut published = true;
        loop {
            let order = tokio::select! {
                order = queue.recv() => order,
                () = tokio::time::sleep(RETRY), if !published => {
                    published = self.publish(catalog::whole(&self.catalog, &self.keys)).await;
                    continue;
                }
            };
            match order {
                None => return,
                Some(Order::Deploy(wanted, reply)) => {
                    let tenant = wanted.id.tenant.clone();
                    let made = self.make(move |t, mover| mover.deploy(t, wanted)).await;
                    self.certificates.moved(&tenant);
                    published = self.tell(&made, published).await;
                    newest.send_replace(self.catalog.clone());
                    // Who asked may have gone away; the move stands.
                    let _ = reply.send(made.map(|(deployment, _)| deployment));
                }
                Some(Order::Delete(id, reply)) => {
                    let tenant = id.tenant.clone();
                    let made = self.make(move |t, mover| mover.delete(t, id)).await;
                    self.certificates.moved(&tenant);
                    published = self.tell(&made, published).await;
                    newest.send_replace(self.catalog.clone());
                    let _ = reply.send(made.map(|(generation, _)| generation));
                }
                Some(Order::Leave(leave, reply)) => {
                    let tenant = leave.tenant.clone();
                    let made = self.make(move |t, mover| mover.leave(t, leave)).await;
                    self.certificates.changed(&tenant);
                    published = self.tell(&made, published).await;
                    newest.send_replace(self.catalog.clone());
                    let _ = reply.send(made.map(|(left, _)| left));
                }
            }
        }
    }

    /// One transaction; the catalog is the new one only if it was committed.
    async fn make<T: Send + 'static>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>, &Mover) -> Result<(T, Publication), DeployError>
        + Send
        + 'static,
    ) -> Result<(T, Publication), DeployError> {
        let mover = Mover {
            catalog: self.catalog.clone(),
            keys: self.keys.clone(),
            domain: self.domain.clone(),
            ceiling: self.ceiling,
        };
        let made = self.records.write(move |t| change(t, &mover)).await?;
        self.catalog = made.1.catalog.clone();
        Ok(made)
    }

    /// Whether distribution has everything there is.
    async fn tell<T>(&self, made: &Result<(T, Publication), DeployError>, published: bool) -> bool {
        match made {
            Err(_) => published,
            Ok((_, publication)) if published => self.publish(publication.clone()).await,
            // A generation before this one is missing there: only the whole leads over the gap.
            Ok(_) => {
                self.publish(catalog::whole(&self.catalog, &self.keys))
                    .await
            }
        }
    }

    async fn publish(&self, publication: Publication) -> bool {
        self.distribution.publish(publication).await.is_ok()
    }
}

/// What a transaction needs to know.
struct Mover {
    catalog: Catalog,
    keys: Arc<Keys>,
    domain: Host,
    ceiling: AppLimits,
}

impl Mover {
    fn deploy(
        &self,
        t: &Transaction<'_>,
        wanted: Move,
    ) -> Result<(Deployment, Publication), DeployError> {
        let id = wanted.id;
        // It may have ended while the version was compiled.
        tokens::holds(t, &wanted.by, wanted.at_ms)?;
        let app = apps::find(t, &id)?.ok_or_else(|| DeployError::NoApp(id.clone()))?;
        let found = app.present();
        if let Some(expected) = wanted.expect.filter(|expected| *expected != found) {
            return Err(DeployError::Moved {
                id,
                expected,
                found,
            });
        }
        let Some(version) = versions::find(t, &id, wanted.version)? else {
            let version = wanted.version;
            return Err(DeployError::NoVersion { id, version });
        };
        let claims = routes::claims(&id, &version.manifest, &self.domain)?;
        routes::check_free(t, &id, &claims)??;
        apps::set_routes(t, &id, &claims)?;
        let deployment = Deployment {
            revision: app.revision + 1,
            version: version.number,
            cause: wanted.cause,
            generation: self.catalog.generation() + 1,
            at_ms: wanted.at_ms,
            by: wanted.by,
        };
        apps::point(t, &id, deployment.revision, deployment.version)?;
        deployments::add(t, &id, &deployment)?;
        let routes = claims.into_iter().map(|(route, _)| route).collect();
        let which = incarnations::of(t, &id)?;
        let entry = entry(
            id,
            which,
            deployment.revision,
            version,
            routes,
            &self.ceiling,
        );
        let publication = self.change(t, vec![Change::Put(Arc::new(entry))])?;
        Ok((deployment, publication))
    }

    fn delete(
        &self,
        t: &Transaction<'_>,
        id: AppId,
    ) -> Result<(Deleted, Publication), DeployError> {
        let app = apps::find(t, &id)?.ok_or_else(|| DeployError::NoApp(id.clone()))?;
        let owner = incarnations::owner(t, app.id)?;
        apps::delete(t, &id)?;
        let publication = self.change(t, vec![Change::Remove(id)])?;
        let generation = publication.catalog.generation();
        Ok((Deleted { owner, generation }, publication))
    }

    fn leave(&self, t: &Transaction<'_>, leave: Leave) -> Result<(Left, Publication), DeployError> {
        let tenant = leave.tenant;
        if !tenants::exists(t, &tenant)? {
            return Err(DeployError::NoTenant(tenant));
        }
        let apps = apps::list(t, Some(&tenant))?.into_iter().map(|app| app.id);
        let apps: Vec<AppId> = apps.collect();
        if leave.apps == AppsOfTenant::Keep && !apps.is_empty() {
            let apps = apps.len();
            return Err(DeployError::HasApps { tenant, apps });
        }
        let mut owners = Vec::with_capacity(apps.len());
        for app in &apps {
            owners.push(incarnations::owner(t, app.clone())?);
            apps::delete(t, app)?;
        }
        tenants::delete(t, &tenant, leave.at_ms)?;
        let removed = apps.into_iter().map(Change::Remove);
        let publication = self.change(t, removed.collect())?;
        let generation = publication.catalog.generation();
        let left = Left {
            owners,
            generation,
            secrets: secrets::next_revision(t)?,
            limits: tenant_limits::next_revision(t)?,
        };
        Ok((left, publication))
    }

    fn change(
        &self,
        t: &Transaction<'_>,
        changes: Vec<Change>,
    ) -> Result<Publication, RecordsError> {
        let (catalog, delta) = self.catalog.change(changes);
        let head = delta.head;
        let delta = Signed::sign(&delta, &self.keys.catalog);
        generations::add(t, &head, Some(&delta))?;
        Ok(Publication {
            delta: Some(delta),
            head: Signed::sign(&head, &self.keys.catalog),
            catalog,
        })
    }
}
