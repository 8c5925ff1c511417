//! Tenants over the API: listed within the caller's scope, made and deleted by who runs the platform.

use std::sync::Arc;

use axum::extract::State;
use http::{StatusCode, Uri};
use model::TenantName;
use model::api::{Live, NewTenant, Verb};
use serde::Deserialize;

use super::problem::Refused;
use super::request::{Json, Place, query};
use crate::auth::{Caller, Reach};
use crate::control::Platform;
use crate::deploy::AppsOfTenant;
use crate::tenants;
use crate::versions::VersionError;

type Control = State<Arc<Platform>>;

/// `GET /v1/tenants`: those within the caller's scope.
pub(super) async fn list(
    State(platform): Control,
    caller: Caller,
) -> Result<axum::Json<Vec<TenantName>>, Refused> {
    let mut all = platform.records.read(crate::records::tenants::list).await?;
    all.retain(|tenant| caller.check(Verb::Read, Reach::Within(tenant)).is_ok());
    Ok(axum::Json(all))
}

/// `POST /v1/tenants`
pub(super) async fn create(
    State(platform): Control,
    caller: Caller,
    Json(new): Json<NewTenant>,
) -> Result<(StatusCode, axum::Json<TenantName>), Refused> {
    caller.check(Verb::Admin, Reach::Platform)?;
    tenants::create(&platform, new.name.clone()).await?;
    Ok((StatusCode::CREATED, axum::Json(new.name)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Deletion {
    #[serde(default)]
    with_apps: bool,
}

/// `DELETE /v1/tenants/{tenant}`
pub(super) async fn delete(
    State(platform): Control,
    caller: Caller,
    place: Place,
    uri: Uri,
) -> Result<axum::Json<Live>, Refused> {
    let tenant = place.tenant()?;
    caller.check(Verb::Admin, Reach::Platform)?;
    let apps = match query(&uri)? {
        Deletion { with_apps: true } => AppsOfTenant::Delete,
        Deletion { with_apps: false } => AppsOfTenant::Keep,
    };
    Ok(axum::Json(tenants::delete(&platform, tenant, apps).await?))
}

/// Whether there is such a tenant.
pub(super) async fn check(platform: &Platform, tenant: &TenantName) -> Result<(), Refused> {
    if tenants::exists(platform, tenant).await? {
        Ok(())
    } else {
        Err(VersionError::NoTenant(tenant.clone()).into())
    }
}
