//! Tenants' secrets: kept sealed in the records, and held open for the nodes, whose guests read them.
//!
//! Every node is told every secret that is set. Which app may read which is said by the grants of its version.
//! [Why nodes get them as they do](../../../docs/decisions/secrets.md).

use std::collections::BTreeMap;
use std::sync::Arc;

use model::api::{Live, SecretChanged, SecretSummary};
use model::{
    AppName, Secret, SecretError, SecretId, SecretName, SecretText, SecretsRevision, Size,
    TenantName, limits,
};
use rusqlite::Connection;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::control::Platform;
use crate::keys::Keys;
use crate::live::{self, Mark};
use crate::records::secrets::{self as records, Kept, Listed};
use crate::records::{Records, RecordsError, incarnations, tenants};
use crate::settings::Notice;

/// What a secret counts for besides its value.
const KEPT_ABOUT: u64 = 256;

/// Why a secret was not set, or is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretsError {
    #[error(transparent)]
    Value(#[from] SecretError),
    #[error("the tenant has {0} secrets, and may have no more; delete one first")]
    TooMany(u64),
    #[error("the secrets of this platform have no more room together than {0}")]
    NoRoom(Size),
    #[error("there is no tenant `{0}`")]
    NoTenant(TenantName),
    #[error("`{}` has no secret `{}`", .0.tenant, .0.name)]
    NoSecret(SecretId),
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// What nodes are told of secrets.
pub(crate) struct Secrets {
    serving: watch::Sender<Arc<model::Secrets>>,
    /// Held from a change of the records until nodes are told: they hear of changes in the order of their numbers.
    changing: Mutex<()>,
}

impl Secrets {
    /// Opens all of them, and tells the nodes.
    pub async fn open(
        records: &Records,
        keys: &Keys,
        serving: watch::Sender<Arc<model::Secrets>>,
        notice: &Notice,
    ) -> Result<Self, RecordsError> {
        let (revision, all, incarnations) = records
            .read(|c| {
                let (revision, all) = (records::revision(c)?, records::all(c)?);
                Ok::<_, RecordsError>((revision, all, incarnations::all(c)?))
            })
            .await?;
        let mut opened = BTreeMap::new();
        for kept in all {
            match open(&kept, keys) {
                Some(text) => {
                    let (id, revision) = (kept.id, kept.revision);
                    let secret = Secret {
                        id: id.clone(),
                        incarnation: incarnations.of_tenant(&id.tenant),
                        revision,
                        text,
                    };
                    opened.insert(id, Arc::new(secret));
                }
                None => notice(&format!(
                    "the secret `{}` of the tenant `{}` cannot be opened with `keys/secrets`, and no app reads it; put that file back from a backup, or have the secret set again",
                    kept.id.name, kept.id.tenant
                )),
            }
        }
        serving.send_replace(Arc::new(model::Secrets {
            revision,
            all: opened,
        }));
        Ok(Self {
            serving,
            changing: Mutex::default(),
        })
    }

    /// Nothing else changes meanwhile.
    pub async fn changing(&self) -> Changing<'_> {
        Changing {
            secrets: self,
            _alone: self.changing.lock().await,
        }
    }
}

/// The right to change secrets.
pub(crate) struct Changing<'a> {
    secrets: &'a Secrets,
    _alone: MutexGuard<'a, ()>,
}

impl Changing<'_> {
    /// The records have none of this tenant's any longer, since this revision.
    pub fn forget(self, tenant: &TenantName, revision: SecretsRevision) {
        self.tell(revision, |all| all.retain(|id, _| id.tenant != *tenant));
    }

    /// Tells the nodes what the records have since this revision.
    fn tell(
        self,
        revision: SecretsRevision,
        change: impl FnOnce(&mut BTreeMap<SecretId, Arc<Secret>>),
    ) {
        self.secrets.serving.send_modify(|serving| {
            let secrets = Arc::make_mut(serving);
            secrets.revision = revision;
            change(&mut secrets.all);
        });
    }
}

fn open(kept: &Kept, keys: &Keys) -> Option<SecretText> {
    let opened = keys.secrets.open(&place(&kept.id), &kept.value).ok()?;
    SecretText::new(Zeroizing::new(opened)).ok()
}

/// Sets a secret, in the place of the tenant's one of this name, and waits for the nodes to have it; the second answer is
/// whether there was none.
pub(crate) async fn set(
    platform: &Platform,
    id: SecretId,
    text: SecretText,
    by: String,
) -> Result<(SecretChanged, bool), SecretsError> {
    let started = Instant::now();
    let sealed = platform
        .keys
        .secrets
        .seal(&place(&id), text.expose().as_bytes());
    let (value, bytes) = (
        sealed.map_err(SecretsError::Random)?,
        text.expose().len() as u64,
    );
    let (kept_id, set_ms) = (id.clone(), platform.now());
    let changing = platform.secrets.changing().await;
    let (revision, incarnation, is_new) = platform
        .records
        .write(move |t| {
            let id = kept_id;
            if !tenants::exists(t, &id.tenant)? {
                return Err(SecretsError::NoTenant(id.tenant));
            }
            let is_new = records::find(t, &id)?.is_none();
            let revision = records::next_revision(t)?;
            let kept = Kept {
                id,
                revision,
                value,
                bytes,
                set_ms,
            };
            records::put(t, &kept, &by)?;
            check_room(t, &kept.id.tenant)?;
            let incarnation = incarnations::of_tenant(t, &kept.id.tenant)?;
            Ok((revision, incarnation, is_new))
        })
        .await?;
    changing.tell(revision, |all| {
        let secret = Secret {
            id: id.clone(),
            incarnation,
            revision,
            text,
        };
        all.insert(id.clone(), Arc::new(secret));
    });
    let listed = Listed {
        name: id.name,
        revision,
        set_ms,
    };
    let changed = told(platform, &id.tenant, listed, revision, started).await;
    Ok((changed, is_new))
}

/// A tenant's secrets, by name.
pub(crate) async fn list(
    platform: &Platform,
    tenant: TenantName,
) -> Result<Vec<SecretSummary>, SecretsError> {
    let whose = tenant.clone();
    let all = platform
        .records
        .read(move |c| {
            if tenants::exists(c, &whose)? {
                Ok(records::of(c, &whose)?)
            } else {
                Err(SecretsError::NoTenant(whose))
            }
        })
        .await?;
    let mut granted = granted(platform, &tenant);
    let mut summary = |listed: Listed| {
        let granted = granted.remove(&listed.name).unwrap_or_default();
        summary(listed, granted)
    };
    Ok(all.into_iter().map(&mut summary).collect())
}

/// Forgets a secret, and waits for the nodes to have done so.
pub(crate) async fn delete(
    platform: &Platform,
    id: SecretId,
) -> Result<SecretChanged, SecretsError> {
    let started = Instant::now();
    let gone = id.clone();
    let changing = platform.secrets.changing().await;
    let (listed, revision) = platform
        .records
        .write(move |t| {
            let Some(listed) = records::find(t, &gone)? else {
                return Err(SecretsError::NoSecret(gone));
            };
            records::delete(t, &gone)?;
            Ok((listed, records::next_revision(t)?))
        })
        .await?;
    changing.tell(revision, |all| {
        all.remove(&id);
    });
    Ok(told(platform, &id.tenant, listed, revision, started).await)
}

/// Those of `wanted` that the tenant has not set.
pub(crate) fn missing<'a>(
    c: &Connection,
    tenant: &TenantName,
    wanted: impl IntoIterator<Item = &'a SecretName>,
) -> Result<Vec<SecretName>, RecordsError> {
    let mut missing = Vec::new();
    for name in wanted {
        let id = SecretId {
            tenant: tenant.clone(),
            name: name.clone(),
        };
        if records::find(c, &id)?.is_none() {
            missing.push(id.name);
        }
    }
    Ok(missing)
}

/// What became of a change, once every node has it or there is no more time.
async fn told(
    platform: &Platform,
    tenant: &TenantName,
    listed: Listed,
    revision: u64,
    started: Instant,
) -> SecretChanged {
    let wait = limits::API_WAIT.default;
    let live: Live = live::reached(platform, Mark::Secrets(revision), started, wait).await;
    let apps = granted(platform, tenant).remove(&listed.name);
    SecretChanged {
        secret: summary(listed, apps.unwrap_or_default()),
        live,
    }
}

fn summary(listed: Listed, granted: Vec<AppName>) -> SecretSummary {
    SecretSummary {
        name: listed.name,
        revision: listed.revision,
        set_ms: listed.set_ms,
        granted,
    }
}

/// By secret, the tenant's apps that are served and granted it.
fn granted(platform: &Platform, tenant: &TenantName) -> BTreeMap<SecretName, Vec<AppName>> {
    let catalog = platform.deployer.catalog();
    let mut granted: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in catalog.entries().filter(|entry| entry.id.tenant == *tenant) {
        for name in &entry.grant.secrets {
            let apps = granted.entry(name.clone()).or_default();
            apps.push(entry.id.app.clone());
        }
    }
    granted.values_mut().for_each(|apps| apps.sort());
    granted
}

/// Whether what is there now is within bounds.
fn check_room(c: &Connection, tenant: &TenantName) -> Result<(), SecretsError> {
    let most = limits::SECRETS_TENANT.default;
    if records::usage(c, Some(tenant))?.0 > most {
        return Err(SecretsError::TooMany(most));
    }
    let most = limits::SECRETS_TENANTS.default;
    let (count, bytes) = records::usage(c, None)?;
    if bytes.0 + count * KEPT_ABOUT > most.0 {
        return Err(SecretsError::NoRoom(most));
    }
    Ok(())
}

/// What a sealed secret is bound to: it opens nowhere else.
fn place(SecretId { tenant, name }: &SecretId) -> String {
    format!("secret {tenant}/{name}")
}
