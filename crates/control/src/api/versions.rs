//! An app's versions: made, listed and shown, never changed.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use http::header::LOCATION;
use model::api::{NewVersion, Verb};
use model::{Version, VersionNumber};

use super::problem::Refused;
use super::request::{Json, Place};
use crate::auth::{Caller, Reach};
use crate::control::Platform;
use crate::deploy::DeployError;
use crate::records::{apps, versions};

type Control = State<Arc<Platform>>;

/// `GET …/apps/{app}/versions`: newest first.
pub(super) async fn list(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<axum::Json<Vec<Version>>, Refused> {
    let id = place.app()?;
    caller.check(Verb::Read, Reach::App(&id))?;
    let found = platform
        .records
        .read(move |c| match apps::find(c, &id)? {
            Some(_) => Ok(versions::list(c, &id)?),
            None => Err(DeployError::NoApp(id)),
        })
        .await?;
    Ok(axum::Json(found))
}

/// `GET …/apps/{app}/versions/{number}`
pub(super) async fn one(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<axum::Json<Version>, Refused> {
    let id = place.app()?;
    caller.check(Verb::Read, Reach::App(&id))?;
    let version = VersionNumber(place.part("number")?);
    let found = platform
        .records
        .read(move |c| {
            if apps::find(c, &id)?.is_none() {
                return Err(DeployError::NoApp(id));
            }
            let found = versions::find(c, &id, version)?;
            found.ok_or(DeployError::NoVersion { id, version })
        })
        .await?;
    Ok(axum::Json(found))
}

/// `POST …/apps/{app}/versions`
pub(super) async fn create(
    State(platform): Control,
    caller: Caller,
    place: Place,
    Json(new): Json<NewVersion>,
) -> Result<impl IntoResponse, Refused> {
    let id = place.app()?;
    caller.check(Verb::Deploy, Reach::App(&id))?;
    let app = format!("/v1/tenants/{}/apps/{}", id.tenant, id.app);
    let version = crate::versions::create(&platform, &caller.token, id, new).await?;
    let location = format!("{app}/versions/{}", version.number);
    let answer = ([(LOCATION, location)], axum::Json(version));
    Ok((StatusCode::CREATED, answer))
}
