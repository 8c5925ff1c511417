//! Certificates over the API: set, listed without their keys, deleted.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use model::CertificateName;
use model::api::{CertificateSummary, NewCertificate, Verb};

use super::problem::Refused;
use super::request::{Confidential, Place};
use crate::auth::{Caller, Reach};
use crate::certificates;
use crate::control::Platform;

type Control = State<Arc<Platform>>;

/// `GET /v1/tenants/{tenant}/certificates`
pub(super) async fn list(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<axum::Json<Vec<CertificateSummary>>, Refused> {
    let tenant = place.tenant()?;
    caller.check(Verb::Read, Reach::Tenant(&tenant))?;
    Ok(axum::Json(certificates::list(&platform, tenant).await?))
}

/// `PUT /v1/tenants/{tenant}/certificates/{name}`
pub(super) async fn set(
    State(platform): Control,
    caller: Caller,
    place: Place,
    Confidential(new): Confidential<NewCertificate>,
) -> Result<(StatusCode, axum::Json<CertificateSummary>), Refused> {
    let (tenant, name): (_, CertificateName) = (place.tenant()?, place.part("name")?);
    caller.check(Verb::Deploy, Reach::Tenant(&tenant))?;
    let set = certificates::set(&platform, tenant, name, new, caller.token);
    let (summary, is_new) = set.await?;
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok((status, axum::Json(summary)))
}

/// `DELETE /v1/tenants/{tenant}/certificates/{name}`
pub(super) async fn delete(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<StatusCode, Refused> {
    let (tenant, name): (_, CertificateName) = (place.tenant()?, place.part("name")?);
    caller.check(Verb::Admin, Reach::Tenant(&tenant))?;
    certificates::delete(&platform, tenant, name).await?;
    Ok(StatusCode::NO_CONTENT)
}
