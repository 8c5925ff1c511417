//! Limits of a tenant over the API: shown to who reads the whole tenant, changed by who runs the platform.

use std::sync::Arc;

use axum::extract::State;
use model::api::{NewTenantLimits, TenantLimitsChanged, TenantLimitsSummary, Verb};

use super::problem::Refused;
use super::request::{Json, Place};
use crate::auth::{Caller, Reach};
use crate::control::Platform;
use crate::tenant_limits::{self, LimitsError};

type Control = State<Arc<Platform>>;

/// `GET /v1/tenants/{tenant}/limits`
pub(super) async fn show(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<axum::Json<TenantLimitsSummary>, Refused> {
    let tenant = place.tenant()?;
    caller.check(Verb::Read, Reach::Tenant(&tenant))?;
    Ok(axum::Json(tenant_limits::show(&platform, tenant).await?))
}

/// `PATCH /v1/tenants/{tenant}/limits`: what is left out stays, and what is `null` is the platform's again.
pub(super) async fn change(
    State(platform): Control,
    caller: Caller,
    place: Place,
    Json(new): Json<NewTenantLimits>,
) -> Result<axum::Json<TenantLimitsChanged>, Refused> {
    let tenant = place.tenant()?;
    caller.check(Verb::Admin, Reach::Platform)?;
    Ok(axum::Json(
        tenant_limits::set(&platform, tenant, new).await?,
    ))
}

impl From<LimitsError> for Refused {
    fn from(error: LimitsError) -> Self {
        let (status, code, title) = match error {
            LimitsError::Records(error) => return error.into(),
            LimitsError::NoTenant(_) => (404, "tenant-not-found", "there is no such thing"),
            LimitsError::AboveCeiling { .. } | LimitsError::NoSlots => {
                (422, "limit-out-of-range", "the limits were not changed")
            }
        };
        Self::new(status, code, title, error.to_string())
    }
}
