//! Versions: from a manifest and an upload to a number.

use capabilities::interfaces;
use model::api::NewVersion;
use model::{
    AppId, AppName, Digest, GuestKind, Import, ManifestError, TenantName, Version, limits,
};
use rusqlite::Connection;

use crate::control::Platform;
use crate::natives::NativeError;
use crate::records::{RecordsError, apps, deployments, tenant_limits, tenants, uploads, versions};
use crate::routes::{self, RouteRefusal};
use crate::tokens::{self, AuthError};

/// Why a version was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VersionError {
    #[error("there is no tenant `{0}`")]
    NoTenant(TenantName),
    #[error(
        "the manifest is of `{manifest}`, but was sent for `{app}`; send it to that app, or change `name`"
    )]
    OtherName { manifest: AppName, app: AppName },
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    #[error("{0}")]
    Route(#[from] RouteRefusal),
    #[error("the artifact `{0}` was not uploaded by this tenant; upload it first")]
    NoArtifact(Digest),
    #[error("the platform has {0} apps, and may have no more; delete one, or ask its operator")]
    TooManyApps(u64),
    #[error(
        "the tenant `{tenant}` may have {}, and has {found}; delete one, or ask the platform's operator for more", apps_of(*.most)
    )]
    TooManyOfTenant {
        tenant: TenantName,
        found: u64,
        most: u64,
    },
    #[error(
        "its manifest asks for `[reuse]`, which is for services of `wasi:http` 0.3; leave it out, or build it for WASI 0.3"
    )]
    NoReuse,
    #[error(
        "it imports {}, which nothing grants; leave out `strict` to link what refuses every call",
        list(.0)
    )]
    NotGranted(Vec<String>),
    #[error(transparent)]
    Native(#[from] NativeError),
    #[error(transparent)]
    Ended(#[from] AuthError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Makes the next version of an app, and the app if there is none. Its native code is made and kept when this returns.
pub(crate) async fn create(
    platform: &Platform,
    by: &str,
    id: AppId,
    new: NewVersion,
) -> Result<Version, VersionError> {
    let NewVersion {
        manifest,
        wasm,
        strict,
    } = new;
    if manifest.name != id.app {
        return Err(VersionError::OtherName {
            manifest: manifest.name,
            app: id.app,
        });
    }
    manifest.check(&platform.settings.ceiling)?;
    routes::claims(&id, &manifest, &platform.settings.domain)?;

    let _pin = platform.pins.pin(wasm).await;
    let wasm_bytes = admit(platform, &id, wasm).await?;
    let inspection = platform.natives.ensure(Some(&id.tenant), wasm).await?;
    if manifest.reuse.is_some() && inspection.kind != GuestKind::HttpService {
        return Err(VersionError::NoReuse);
    }
    let found = inspection.imports.into_iter();
    let imports: Vec<_> = found
        .map(|import| interfaces::under(import, &manifest.grant))
        .collect();
    let denied = imports.iter().filter_map(|import| match import {
        Import::Denied { name } => Some(name.clone()),
        Import::Free { .. } | Import::Granted { .. } => None,
    });
    let denied: Vec<_> = denied.collect();
    if strict && !denied.is_empty() {
        return Err(VersionError::NotGranted(denied));
    }

    let (created_ms, created_by) = (platform.now(), by.to_owned());
    let kept = platform.settings.versions_kept;
    platform
        .records
        .write(move |t| {
            // Both may have ended while the upload was compiled.
            tokens::holds(t, &created_by, created_ms)?;
            if !tenants::exists(t, &id.tenant)? {
                return Err(VersionError::NoTenant(id.tenant));
            }
            // So many may have been made meanwhile, or the tenant be allowed fewer.
            check_room(t, &id)?;
            let version = Version {
                number: apps::next_version(t, &id)?,
                manifest,
                wasm,
                wasm_bytes,
                kind: inspection.kind,
                imports,
                created_ms,
                created_by,
            };
            versions::add(t, &id, &version)?;
            let mut served = Vec::new();
            if let Some(present) = apps::find(t, &id)?.and_then(|app| app.version) {
                served.push(present);
                served.extend(deployments::before(t, &id, present)?);
            }
            versions::retain(t, &id, kept, &served)?;
            Ok(version)
        })
        .await
}

/// Whether the tenant may make a version of this upload; its size. Its grace begins anew, so that it stays.
async fn admit(platform: &Platform, id: &AppId, wasm: Digest) -> Result<u64, VersionError> {
    let (id, now) = (id.clone(), platform.now());
    platform
        .records
        .write(move |t| {
            if !tenants::exists(t, &id.tenant)? {
                return Err(VersionError::NoTenant(id.tenant));
            }
            let bytes = uploads::find(t, &id.tenant, &wasm)?;
            let bytes = bytes.ok_or(VersionError::NoArtifact(wasm))?;
            check_room(t, &id)?;
            uploads::add(t, &id.tenant, &wasm, bytes, now)?;
            Ok(bytes)
        })
        .await
}

/// Whether there may be this app: one that there is may have another version, whatever was made of the limits meanwhile.
fn check_room(c: &Connection, id: &AppId) -> Result<(), VersionError> {
    if apps::find(c, id)?.is_some() {
        return Ok(());
    }
    if let Some(most) = tenant_limits::of(c, &id.tenant)?.apps {
        let found = apps::count_of(c, &id.tenant)?;
        if found >= most {
            let tenant = id.tenant.clone();
            return Err(VersionError::TooManyOfTenant {
                tenant,
                found,
                most,
            });
        }
    }
    let most = limits::APPS.default;
    if apps::count(c)? >= most {
        return Err(VersionError::TooManyApps(most));
    }
    Ok(())
}

fn apps_of(most: u64) -> String {
    match most {
        1 => "1 app".to_owned(),
        most => format!("{most} apps"),
    }
}

fn list(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
