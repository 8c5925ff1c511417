//! An app's deployments: the present one, its history, and the next.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use model::Deployment;
use model::api::{Deployed, NewDeployment, Verb};

use super::problem::Refused;
use super::request::{Json, Place};
use crate::auth::{Caller, Reach};
use crate::control::Platform;
use crate::deploy::DeployError;
use crate::records::{apps, deployments};
use crate::rollout;

type Control = State<Arc<Platform>>;

/// `GET …/apps/{app}/deployments`: newest first.
pub(super) async fn list(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<axum::Json<Vec<Deployment>>, Refused> {
    let id = place.app()?;
    caller.check(Verb::Read, Reach::App(&id))?;
    let found = platform
        .records
        .read(move |c| match apps::find(c, &id)? {
            Some(_) => Ok(deployments::list(c, &id)?),
            None => Err(DeployError::NoApp(id)),
        })
        .await?;
    Ok(axum::Json(found))
}

/// `GET …/apps/{app}/deployment`: what is served now.
pub(super) async fn now(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<axum::Json<Deployed>, Refused> {
    let id = place.app()?;
    caller.check(Verb::Read, Reach::App(&id))?;
    match rollout::now(&platform, &caller, &id).await? {
        Some(deployed) => Ok(axum::Json(deployed)),
        None => {
            let detail = format!("`{id}` has versions, but none was deployed yet");
            let title = "nothing is served";
            Err(Refused::new(404, "not-deployed", title, detail))
        }
    }
}

/// `POST …/apps/{app}/deployments`
pub(super) async fn create(
    State(platform): Control,
    caller: Caller,
    place: Place,
    Json(new): Json<NewDeployment>,
) -> Result<impl IntoResponse, Refused> {
    let id = place.app()?;
    caller.check(Verb::Deploy, Reach::App(&id))?;
    let deployed = rollout::deploy(&platform, &caller, id, new).await?;
    Ok((StatusCode::CREATED, axum::Json(deployed)))
}
