//! Tenants: how one comes to be and goes, and whether there is one.

use model::api::Live;
use model::{TenantName, limits};

use crate::control::Platform;
use crate::deploy::{AppsOfTenant, DeployError, Leave};
use crate::records::{RecordsError, tenants};
use crate::rollout;

/// The tenant that a platform begins with, and that commands mean where none is named.
const FIRST: &str = "default";

/// Why a tenant was not made or deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TenantError {
    #[error("there is a tenant `{0}` already")]
    Exists(TenantName),
    #[error("the platform has {0} tenants, and may have no more")]
    TooMany(u64),
    #[error("`{FIRST}` is the tenant that the platform began with, and stays")]
    First,
    #[error(transparent)]
    Deploy(#[from] DeployError),
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

/// Deletes a tenant with its tokens, certificates, secrets, uploads and limits, and, if so wanted, with its apps and what they kept: in one
/// change, all or nothing. Who makes one of the same name later begins with nothing.
pub(crate) async fn delete(
    platform: &Platform,
    tenant: TenantName,
    apps: AppsOfTenant,
) -> Result<Live, TenantError> {
    if tenant.as_str() == FIRST {
        return Err(TenantError::First);
    }
    let at_ms = platform.now();
    let leave = Leave {
        tenant,
        apps,
        at_ms,
    };
    Ok(rollout::leave(platform, leave).await?)
}

pub(crate) async fn exists(platform: &Platform, tenant: &TenantName) -> Result<bool, RecordsError> {
    let tenant = tenant.clone();
    platform
        .records
        .read(move |c| tenants::exists(c, &tenant))
        .await
}
