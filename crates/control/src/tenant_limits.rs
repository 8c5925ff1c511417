//! Limits of single tenants: kept in the records, shown beside the platform's, and told to the nodes.
//!
//! How many apps a tenant may have is seen to where one comes to be (`versions`). Its slots are its workers' matter, what its
//! stores may hold that of the node's writer.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use model::api::{LimitSummary, NewTenantLimits, TenantLimitsChanged, TenantLimitsSummary};
use model::{LimitsRevision, NewLimit, OwnLimits, Size, TenantName, limits};
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::Instant;

use crate::control::Platform;
use crate::live::{self, Mark};
use crate::records::{Records, RecordsError, apps, tenant_limits as records, tenants};
use crate::settings::NodeLimits;

/// Why a tenant's limits were not changed, or are not shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitsError {
    #[error("`{name}` is {asked}; a tenant may be given {ceiling}, {reason}, and no more")]
    AboveCeiling {
        name: &'static str,
        asked: String,
        ceiling: String,
        reason: &'static str,
    },
    #[error("`slots` is 0; without one the tenant's apps answer nothing: give it 1 or more")]
    NoSlots,
    #[error("there is no tenant `{0}`")]
    NoTenant(TenantName),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// What nodes are told of tenants' limits.
pub(crate) struct TenantLimits {
    serving: watch::Sender<Arc<model::TenantLimits>>,
    /// Held from a change of the records until nodes are told: they hear of changes in the order of their numbers.
    changing: Mutex<()>,
}

impl TenantLimits {
    /// Tells the nodes all that are kept.
    pub async fn open(
        records: &Records,
        serving: watch::Sender<Arc<model::TenantLimits>>,
    ) -> Result<Self, RecordsError> {
        let (revision, all) = records
            .read(|c| Ok::<_, RecordsError>((records::revision(c)?, records::all(c)?)))
            .await?;
        serving.send_replace(Arc::new(model::TenantLimits {
            revision,
            all: all.into_iter().collect(),
        }));
        Ok(Self {
            serving,
            changing: Mutex::default(),
        })
    }

    /// Nothing else changes meanwhile.
    pub async fn changing(&self) -> Changing<'_> {
        Changing {
            limits: self,
            _alone: self.changing.lock().await,
        }
    }
}

/// The right to change tenants' limits.
pub(crate) struct Changing<'a> {
    limits: &'a TenantLimits,
    _alone: MutexGuard<'a, ()>,
}

impl Changing<'_> {
    /// The records have none of this tenant's any longer, since this revision.
    pub fn forget(self, tenant: &TenantName, revision: LimitsRevision) {
        self.tell(revision, |all| {
            all.remove(tenant);
        });
    }

    /// Tells the nodes what the records have since this revision.
    fn tell(
        self,
        revision: LimitsRevision,
        change: impl FnOnce(&mut BTreeMap<TenantName, OwnLimits>),
    ) {
        self.limits.serving.send_modify(|serving| {
            let limits = Arc::make_mut(serving);
            limits.revision = revision;
            change(&mut limits.all);
        });
    }
}

/// Changes what a tenant may have, and waits for the nodes to hold to it.
pub(crate) async fn set(
    platform: &Platform,
    tenant: TenantName,
    new: NewTenantLimits,
) -> Result<TenantLimitsChanged, LimitsError> {
    let started = Instant::now();
    let bounds = Bounds::of(&platform.settings.node_limits);
    bounds.check(&new)?;
    let changing = platform.tenant_limits.changing().await;
    let whose = tenant.clone();
    let (revision, own, used) = platform
        .records
        .write(move |t| {
            if !tenants::exists(t, &whose)? {
                return Err(LimitsError::NoTenant(whose));
            }
            let before = records::of(t, &whose)?;
            let own = OwnLimits {
                apps: new.apps.after(before.apps),
                slots: new.slots.after(before.slots),
                kv_store: new.kv_store.after(before.kv_store),
            };
            records::put(t, &whose, own)?;
            let revision = records::next_revision(t)?;
            Ok((revision, own, apps::count_of(t, &whose)?))
        })
        .await?;
    changing.tell(revision, |all| match own == OwnLimits::default() {
        true => drop(all.remove(&tenant)),
        false => drop(all.insert(tenant, own)),
    });
    let wait = limits::API_WAIT.default;
    let live = live::reached(platform, Mark::Limits(revision), started, wait).await;
    Ok(TenantLimitsChanged {
        limits: bounds.summary(own, used),
        live,
    })
}

/// What a tenant may have, and what it has of it.
pub(crate) async fn show(
    platform: &Platform,
    tenant: TenantName,
) -> Result<TenantLimitsSummary, LimitsError> {
    let (own, used) = platform
        .records
        .read(move |c| {
            if !tenants::exists(c, &tenant)? {
                return Err(LimitsError::NoTenant(tenant));
            }
            Ok((records::of(c, &tenant)?, apps::count_of(c, &tenant)?))
        })
        .await?;
    let bounds = Bounds::of(&platform.settings.node_limits);
    Ok(bounds.summary(own, used))
}

/// What tenants have without limits of their own, and the most that one may be given.
struct Bounds {
    apps: Bound<u64>,
    slots: Bound<u64>,
    kv_store: Bound<Size>,
}

struct Bound<T> {
    name: &'static str,
    default: T,
    ceiling: T,
    /// What the ceiling is.
    reason: &'static str,
}

impl Bounds {
    fn of(node: &NodeLimits) -> Self {
        Self {
            apps: Bound {
                name: "apps",
                default: limits::APPS.default,
                ceiling: limits::APPS.default,
                reason: "as many as the whole platform",
            },
            slots: Bound {
                name: "slots",
                default: node.tenant_slots.min(node.slots),
                ceiling: node.slots,
                reason: "all that one worker has (`node.slots`)",
            },
            kv_store: Bound {
                name: "kv-store",
                default: node.kv_store,
                ceiling: limits::KV_STORE.ceiling,
                reason: "the most that any store may hold",
            },
        }
    }

    fn check(&self, new: &NewTenantLimits) -> Result<(), LimitsError> {
        self.apps.check(new.apps)?;
        self.slots.check(new.slots)?;
        self.kv_store.check(new.kv_store)?;
        match new.slots {
            NewLimit::Own(0) => Err(LimitsError::NoSlots),
            NewLimit::Own(_) | NewLimit::Default | NewLimit::Keep => Ok(()),
        }
    }

    fn summary(&self, own: OwnLimits, apps_used: u64) -> TenantLimitsSummary {
        TenantLimitsSummary {
            apps: self.apps.summary(own.apps, Some(apps_used)),
            slots: self.slots.summary(own.slots, None),
            kv_store: self.kv_store.summary(own.kv_store, None),
        }
    }
}

impl<T: Copy + Ord + Display> Bound<T> {
    fn check(&self, new: NewLimit<T>) -> Result<(), LimitsError> {
        match new {
            NewLimit::Own(asked) if asked > self.ceiling => Err(LimitsError::AboveCeiling {
                name: self.name,
                asked: asked.to_string(),
                ceiling: self.ceiling.to_string(),
                reason: self.reason,
            }),
            NewLimit::Own(_) | NewLimit::Default | NewLimit::Keep => Ok(()),
        }
    }

    /// The ceiling may have been lowered since the tenant was given more.
    fn summary(&self, own: Option<T>, used: Option<T>) -> LimitSummary<T> {
        LimitSummary {
            value: own.unwrap_or(self.default).min(self.ceiling),
            own: own.is_some(),
            default: self.default,
            ceiling: self.ceiling,
            used,
        }
    }
}
