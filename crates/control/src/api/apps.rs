//! Apps: lists, one, and its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use model::api::{AppSummary, Live, Verb};
use model::{AppId, Owner, Route, VersionNumber};

use super::problem::Refused;
use super::request::Place;
use super::tenants;
use crate::auth::{Caller, Reach};
use crate::control::Platform;
use crate::deploy::DeployError;
use crate::records::apps::App;
use crate::records::{RecordsError, apps, deployments, incarnations};
use crate::rollout;

type Control = State<Arc<Platform>>;

/// `GET /v1/tenants/{tenant}/apps`: those within the caller's scope.
pub(super) async fn list(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<Json<Vec<AppSummary>>, Refused> {
    let tenant = place.tenant()?;
    caller.check(Verb::Read, Reach::Within(&tenant))?;
    tenants::check(&platform, &tenant).await?;
    let (all, mut routes, deployed) = platform
        .records
        .read(move |c| {
            let tenant = Some(&tenant);
            Ok::<_, RecordsError>((
                apps::list(c, tenant)?,
                apps::routes(c, tenant)?,
                deployments::newest(c, tenant)?,
            ))
        })
        .await?;
    let seen = all
        .into_iter()
        .filter(|app| caller.check(Verb::Read, Reach::App(&app.id)).is_ok());
    let summaries = seen.map(|app| {
        let routes = routes.remove(&app.id).unwrap_or_default();
        summary(&platform, app, &routes, &deployed)
    });
    Ok(Json(summaries.collect()))
}

/// `GET /v1/tenants/{tenant}/apps/{app}`
pub(super) async fn one(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<Json<AppSummary>, Refused> {
    let id = place.app()?;
    caller.check(Verb::Read, Reach::App(&id))?;
    let found = platform
        .records
        .read(move |c| {
            let app = apps::find(c, &id)?.ok_or_else(|| DeployError::NoApp(id.clone()))?;
            let routes = apps::routes_of(c, &id)?;
            let deployment = deployments::find(c, &id, app.present())?;
            let deployed = deployment.map(|deployment| (id, deployment.at_ms));
            Ok::<_, DeployError>((app, routes, deployed.into_iter().collect()))
        })
        .await?;
    let (app, routes, deployed) = found;
    Ok(Json(summary(&platform, app, &routes, &deployed)))
}

/// `DELETE /v1/tenants/{tenant}/apps/{app}`
pub(super) async fn delete(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<Json<Live>, Refused> {
    let id = place.app()?;
    caller.check(Verb::Admin, Reach::App(&id))?;
    Ok(Json(rollout::delete(&platform, &caller, id).await?))
}

/// The app that has this name now, if there is one.
pub(super) async fn present(platform: &Platform, id: AppId) -> Result<Owner, Refused> {
    let found = platform.records.read(move |c| match apps::find(c, &id)? {
        Some(_) => Ok(incarnations::owner(c, id)?),
        None => Err(DeployError::NoApp(id)),
    });
    Ok(found.await?)
}

fn summary(
    platform: &Platform,
    app: App,
    routes: &[Route],
    deployed: &BTreeMap<AppId, u64>,
) -> AppSummary {
    AppSummary {
        urls: platform.urls(routes),
        version: app.version,
        revision: app.present(),
        deployed_ms: app
            .version
            .and_then(|_: VersionNumber| deployed.get(&app.id).copied()),
        latest: app.latest,
        tenant: app.id.tenant,
        app: app.id.app,
    }
}
