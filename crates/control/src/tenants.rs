//! Tenants: how one comes to be, and whether there is one.

use model::{TenantName, limits};

use crate::control::Platform;
use crate::records::{RecordsError, tenants};

/// Why a tenant was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TenantError {
    #[error("there is a tenant `{0}` already")]
    Exists(TenantName),
    #[error("the platform has {0} tenants, and may have no more")]
    TooMany(u64),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Makes a tenant, which has nothing yet.
pub(crate) async fn create(platform: &Platform, tenant: TenantName) -> Result<(), TenantError> {
    platform
        .records
        .write(move |t| {
            if tenants::exists(t, &tenant)? {
                return Err(TenantError::Exists(tenant));
            }
            let most = limits::TENANTS.default;
            if tenants::count(t)? >= most {
                return Err(TenantError::TooMany(most));
            }
            Ok(tenants::add(t, &tenant)?)
        })
        .await
}

pub(crate) async fn exists(platform: &Platform, tenant: &TenantName) -> Result<bool, RecordsError> {
    let tenant = tenant.clone();
    platform
        .records
        .read(move |c| tenants::exists(c, &tenant))
        .await
}
