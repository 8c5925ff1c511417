//! What nodes are to show of tenants' certificates, kept up with what tenants set and which hosts their apps have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::api::CertificateSummary;
use model::pipe::{self, Certificate};
use model::{Host, TenantName, limits};
use tokio::sync::{Notify, watch};

use super::hosts::shown;
use super::place;
use crate::control::Platform;
use crate::keys::Keys;
use crate::records::certificates::{self as records, Kept};
use crate::records::{Records, RecordsError, apps};
use crate::settings::Notice;

/// What nodes are to show of tenants' certificates. Clones share it.
#[derive(Clone)]
pub(crate) struct Certificates(Arc<Inner>);

struct Inner {
    records: Records,
    keys: Arc<Keys>,
    notice: Notice,
    serving: watch::Sender<pipe::Certificates>,
    /// Of each tenant that has any, also if none is shown.
    of: Mutex<BTreeMap<TenantName, Vec<Arc<Certificate>>>>,
    /// Those to look at again.
    changed: Mutex<BTreeSet<TenantName>>,
    wake: Notify,
}

impl Certificates {
    /// Reads all of them. Changes after this count once [`Self::follow`] runs.
    pub async fn open(
        records: Records,
        keys: Arc<Keys>,
        notice: Notice,
    ) -> Result<Self, RecordsError> {
        let tenants = records.read(records::tenants).await?;
        let this = Self(Arc::new(Inner {
            records,
            keys,
            notice,
            serving: watch::Sender::default(),
            of: Mutex::default(),
            changed: Mutex::default(),
            wake: Notify::new(),
        }));
        for tenant in &tenants {
            this.look(tenant).await?;
        }
        this.tell();
        Ok(this)
    }

    /// What is shown now, and whatever follows.
    pub fn serving(&self) -> watch::Receiver<pipe::Certificates> {
        self.0.serving.subscribe()
    }

    /// Looks again at the certificates of a tenant, soon.
    pub fn changed(&self, tenant: &TenantName) {
        let mut changed = self.0.changed.lock().expect("no holder panics");
        changed.insert(tenant.clone());
        self.0.wake.notify_one();
    }

    /// The same, after an app of the tenant's may have other hosts: nothing to do for who has no certificates.
    pub fn moved(&self, tenant: &TenantName) {
        let has_any = self.of().contains_key(tenant);
        if has_any {
            self.changed(tenant);
        }
    }

    /// Keeps up with what changes, until it is aborted.
    pub async fn follow(self) {
        const RETRY: Duration = Duration::from_millis(500);
        loop {
            self.0.wake.notified().await;
            let tenants = std::mem::take(&mut *self.0.changed.lock().expect("no holder panics"));
            let mut failed = false;
            for tenant in tenants {
                if let Err(error) = self.look(&tenant).await {
                    (self.0.notice)(&format!(
                        "the certificates of the tenant `{tenant}` cannot be looked at: {error}"
                    ));
                    self.changed(&tenant);
                    failed = true;
                }
            }
            self.tell();
            if failed {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn look(&self, tenant: &TenantName) -> Result<(), RecordsError> {
        // From here on a deployment has it looked at again: what is read below may be older.
        self.of().entry(tenant.clone()).or_default();
        let asked = tenant.clone();
        let read = self.0.records.read(move |c| {
            let all = records::of(c, &asked)?;
            Ok::<_, RecordsError>((all, apps::hosts(c, &asked)?))
        });
        let (all, hosts) = read.await?;
        if all.is_empty() {
            self.of().remove(tenant);
        } else {
            let ready = self.ready(tenant, all, &hosts);
            self.of().insert(tenant.clone(), ready);
        }
        Ok(())
    }

    /// Those of a tenant that are shown for any of these hosts.
    fn ready(
        &self,
        tenant: &TenantName,
        all: Vec<Kept>,
        hosts: &BTreeSet<Host>,
    ) -> Vec<Arc<Certificate>> {
        let summaries: Vec<_> = all.iter().map(|kept| kept.summary.clone()).collect();
        let mut shown = shown(&summaries, hosts);
        let mut ready = Vec::with_capacity(shown.len());
        for Kept {
            summary,
            chain,
            key,
        } in all
        {
            let Some(hosts) = shown.remove(&summary.name) else {
                continue;
            };
            let place = place(tenant, &summary.name, &summary.fingerprint);
            let opened = self.0.keys.secrets.open(&place, &key);
            match opened.map(String::from_utf8) {
                Ok(Ok(key)) => {
                    let names = hosts.iter().map(Host::to_string).collect();
                    ready.push(Arc::new(Certificate::new(names, chain, key)));
                }
                _ => (self.0.notice)(&format!(
                    "the key of the certificate `{}` of the tenant `{tenant}` cannot be opened with `keys/secrets`, and it is not shown; put that file back from a backup, or have the certificate set again",
                    summary.name
                )),
            }
        }
        ready
    }

    fn tell(&self) {
        let all: Vec<_> = self.of().values().flatten().cloned().collect();
        self.0.serving.send_if_modified(|serving| {
            let ids =
                |all: &[Arc<Certificate>]| -> Vec<_> { all.iter().map(|it| it.id()).collect() };
            let other = ids(serving) != ids(&all);
            *serving = Arc::new(all);
            other
        });
    }

    fn of(&self) -> MutexGuard<'_, BTreeMap<TenantName, Vec<Arc<Certificate>>>> {
        self.0.of.lock().expect("no holder panics")
    }
}

/// Tells the operator of each certificate that has ended, once, for as long as the platform runs.
pub(crate) async fn tell_ended(platform: Arc<Platform>) {
    let mut told_ms = 0;
    loop {
        told_ms = tell_ended_since(&platform, told_ms).await;
        tokio::time::sleep(limits::CERTIFICATE_ENDS.default.duration()).await;
    }
}

/// Tells of those that have ended after `told_ms`; returns until when that is told.
pub(crate) async fn tell_ended_since(platform: &Platform, told_ms: u64) -> u64 {
    let now_ms = platform.now();
    let ended = platform
        .records
        .read(move |c| records::ended(c, told_ms, now_ms));
    // Whatever keeps it from being read is told of elsewhere.
    let Ok(ended) = ended.await else {
        return told_ms;
    };
    for (tenant, CertificateSummary { name, hosts, .. }) in ended {
        let hosts = hosts.join(", ");
        platform.notice(format!(
            "the certificate `{name}` of the tenant `{tenant}`, for {hosts}, has ended: clients refuse it until a newer one is set"
        ));
    }
    now_ms
}
