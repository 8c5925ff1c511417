//! Secrets over the API: set, listed without their values, deleted. No answer holds a value.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::StatusCode;
use model::api::{SecretChanged, SecretSummary, Verb};
use model::{SecretId, SecretText};
use zeroize::Zeroizing;

use super::problem::Refused;
use super::request::{self, Place};
use crate::auth::{Caller, Reach};
use crate::control::Platform;
use crate::secrets::{self, SecretsError};

type Control = State<Arc<Platform>>;

/// `GET /v1/tenants/{tenant}/secrets`
pub(super) async fn list(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<axum::Json<Vec<SecretSummary>>, Refused> {
    let tenant = place.tenant()?;
    caller.check(Verb::Read, Reach::Tenant(&tenant))?;
    Ok(axum::Json(secrets::list(&platform, tenant).await?))
}

/// `PUT /v1/tenants/{tenant}/secrets/{name}`: the body is the value.
pub(super) async fn set(
    State(platform): Control,
    caller: Caller,
    place: Place,
    request: Request,
) -> Result<(StatusCode, axum::Json<SecretChanged>), Refused> {
    let id = secret(&caller, &place, Verb::Deploy)?;
    request::check_media(request.headers(), &["application/octet-stream"])?;
    let (parts, body) = request.into_parts();
    let body = request::read(&platform, &parts, body).await?;
    let text = SecretText::new(Zeroizing::new(body.to_vec())).map_err(SecretsError::from)?;
    let (changed, is_new) = secrets::set(&platform, id, text, caller.token).await?;
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok((status, axum::Json(changed)))
}

/// `DELETE /v1/tenants/{tenant}/secrets/{name}`
pub(super) async fn delete(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<axum::Json<SecretChanged>, Refused> {
    let id = secret(&caller, &place, Verb::Admin)?;
    Ok(axum::Json(secrets::delete(&platform, id).await?))
}

/// The secret that the path names, if the caller may do this to it.
fn secret(caller: &Caller, place: &Place, verb: Verb) -> Result<SecretId, Refused> {
    let tenant = place.tenant()?;
    caller.check(verb, Reach::Tenant(&tenant))?;
    let name = place.part("name")?;
    Ok(SecretId { tenant, name })
}

impl From<SecretsError> for Refused {
    fn from(error: SecretsError) -> Self {
        let (status, code, title) = match &error {
            SecretsError::Records(_) | SecretsError::Random(_) => {
                return match error {
                    SecretsError::Records(error) => error.into(),
                    other => Self::internal(other),
                };
            }
            SecretsError::Value(model::SecretError::TooLarge(_)) => (413, "secret-too-large", SET),
            SecretsError::Value(_) => (422, "secret-unusable", SET),
            SecretsError::TooMany(_) => (409, "too-many-secrets", SET),
            SecretsError::NoRoom(_) => (507, "secrets-full", SET),
            SecretsError::NoTenant(_) => (404, "tenant-not-found", NONE),
            SecretsError::NoSecret(_) => (404, "secret-not-found", NONE),
        };
        Self::new(status, code, title, error.to_string())
    }
}

const SET: &str = "the secret was not set";
const NONE: &str = "there is no such thing";
