//! A deployment from the wish to `live`: which version, its native code, the move of the pointer, the nodes' word.

use model::api::{Deployed, Live, NewDeployment};
use model::{AppId, Generation, Revision, Version, limits};
use tokio::time::Instant;

use crate::auth::Caller;
use crate::control::Platform;
use crate::deploy::{DeployError, Leave, Move};
use crate::live::{self, Mark};
use crate::natives::NativeError;
use crate::records::{RecordsError, apps, deployments, versions};
use crate::{secrets, stores};

/// Why a deployment was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RolloutError {
    #[error(transparent)]
    Deploy(#[from] DeployError),
    #[error(transparent)]
    Native(#[from] NativeError),
}

impl From<RecordsError> for RolloutError {
    fn from(error: RecordsError) -> Self {
        Self::Deploy(error.into())
    }
}

/// Deploys a version, or the one before the present one, and waits for the nodes to serve it.
pub(crate) async fn deploy(
    platform: &Platform,
    caller: &Caller,
    id: AppId,
    new: NewDeployment,
) -> Result<Deployed, RolloutError> {
    let started = Instant::now();
    let (version, expect) = resolve(platform, &id, &new).await?;
    let _pin = platform.pins.pin(version.wasm).await;
    platform
        .natives
        .ensure(Some(&id.tenant), version.wasm)
        .await?;
    let wanted = Move {
        id: id.clone(),
        version: version.number,
        cause: new.cause,
        expect,
        by: caller.token.clone(),
        at_ms: platform.now(),
    };
    let deployment = platform.deployer.deploy(wanted).await?;
    let wait = new.wait.unwrap_or(limits::API_WAIT.default);
    let mark = Mark::Generation(deployment.generation);
    let live = live::reached(platform, mark, started, wait).await;
    let (asked, wanted) = (id.clone(), version.manifest.grant.secrets);
    let (routes, secrets_missing) = platform
        .records
        .read(move |c| {
            let missing = secrets::missing(c, &asked.tenant, &wanted)?;
            Ok::<_, RecordsError>((apps::routes_of(c, &asked)?, missing))
        })
        .await?;
    Ok(Deployed {
        deployment,
        live: seen_by(caller, &id, live),
        urls: platform.urls(&routes),
        secrets_missing,
    })
}

/// Deletes an app and waits for the nodes to serve it no longer.
pub(crate) async fn delete(
    platform: &Platform,
    caller: &Caller,
    id: AppId,
) -> Result<Live, RolloutError> {
    let started = Instant::now();
    let deleted = platform.deployer.delete(id.clone()).await?;
    let live = served(platform, deleted.generation, started).await;
    stores::forget(platform, &deleted.owner).await;
    Ok(seen_by(caller, &id, live))
}

/// Deletes a tenant and waits for the nodes to serve none of its apps any longer.
pub(crate) async fn leave(platform: &Platform, leave: Leave) -> Result<Live, DeployError> {
    let started = Instant::now();
    let tenant = leave.tenant.clone();
    let left = {
        let secrets = platform.secrets.changing().await;
        let limits = platform.tenant_limits.changing().await;
        let left = platform.deployer.leave(leave).await?;
        secrets.forget(&tenant, left.secrets);
        limits.forget(&tenant, left.limits);
        left
    };
    let live = served(platform, left.generation, started).await;
    for owner in &left.owners {
        stores::forget(platform, owner).await;
    }
    Ok(live)
}

/// Waits for the nodes to serve a generation.
async fn served(platform: &Platform, generation: Generation, started: Instant) -> Live {
    let mark = Mark::Generation(generation);
    live::reached(platform, mark, started, limits::API_WAIT.default).await
}

/// What an app serves now, and how far it has come.
pub(crate) async fn now(
    platform: &Platform,
    caller: &Caller,
    id: &AppId,
) -> Result<Option<Deployed>, RolloutError> {
    let asked = id.clone();
    let found = platform
        .records
        .read(move |c| {
            let app = apps::find(c, &asked)?.ok_or_else(|| DeployError::NoApp(asked.clone()))?;
            let Some(deployment) = deployments::find(c, &asked, app.present())? else {
                return Ok(None);
            };
            let version = versions::find(c, &asked, deployment.version)?;
            let wanted = version.map(|version| version.manifest.grant.secrets);
            let missing = secrets::missing(c, &asked.tenant, &wanted.unwrap_or_default())?;
            let routes = apps::routes_of(c, &asked)?;
            Ok::<_, DeployError>(Some((deployment, routes, missing)))
        })
        .await?;
    Ok(found.map(|(deployment, routes, secrets_missing)| {
        let reports = platform.distribution.reports();
        let mark = Mark::Generation(deployment.generation);
        let live = live::count(&reports.borrow(), mark, Instant::now());
        Deployed {
            deployment,
            live: seen_by(caller, id, live),
            urls: platform.urls(&routes),
            secrets_missing,
        }
    }))
}

/// The version that is meant, and the revision that the pointer must be at.
async fn resolve(
    platform: &Platform,
    id: &AppId,
    new: &NewDeployment,
) -> Result<(Version, Option<Revision>), DeployError> {
    let (id, named, mut expect) = (id.clone(), new.version, new.expect);
    platform
        .records
        .read(move |c| {
            let app = apps::find(c, &id)?.ok_or_else(|| DeployError::NoApp(id.clone()))?;
            let number = match (named, app.version) {
                (Some(number), _) => number,
                (None, None) => return Err(DeployError::NothingBefore(id)),
                (None, Some(present)) => {
                    // What came before is true of this revision; after another, it is something else.
                    expect.get_or_insert(app.present());
                    let before = deployments::before(c, &id, present)?;
                    before.ok_or_else(|| DeployError::NothingBefore(id.clone()))?
                }
            };
            match versions::find(c, &id, number)? {
                Some(version) => Ok((version, expect)),
                None => Err(DeployError::NoVersion {
                    id,
                    version: number,
                }),
            }
        })
        .await
}

/// Nodes tell of every tenant's apps; who is not the operator learns only of the app asked for.
fn seen_by(caller: &Caller, id: &AppId, mut live: Live) -> Live {
    if caller.scope.tenant.is_some() {
        let id = id.to_string();
        live.refusals.retain(|text| text.contains(&id));
    }
    live
}
