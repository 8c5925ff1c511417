//! The secrets of a node's tenants, in memory alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use model::{Incarnation, Secret, SecretId, SecretName, TenantName};

/// Every secret that is set. Clones share them; each read meets what was put last.
#[derive(Clone, Default)]
pub struct Secrets(Arc<RwLock<HashMap<TenantName, OfTenant>>>);

type OfTenant = BTreeMap<SecretName, Arc<Secret>>;

impl Secrets {
    /// What the secret of this name is, if that tenant has set it, and not another of its name. Whether somebody may know is
    /// for the caller to say.
    pub fn get(
        &self,
        tenant: &TenantName,
        incarnation: Incarnation,
        name: &SecretName,
    ) -> Option<Arc<Secret>> {
        let all = self.all();
        let secret = all.get(tenant)?.get(name)?;
        (secret.incarnation == incarnation).then(|| secret.clone())
    }

    /// Takes a secret, in the place of what there was of its name.
    pub fn put(&self, secret: Arc<Secret>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let SecretId { tenant, name } = secret.id.clone();
        all.entry(tenant).or_default().insert(name, secret);
    }

    pub fn forget(&self, id: &SecretId) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_tenant) = all.get_mut(&id.tenant) {
            of_tenant.remove(&id.name);
            if of_tenant.is_empty() {
                all.remove(&id.tenant);
            }
        }
    }

    fn all(&self) -> RwLockReadGuard<'_, HashMap<TenantName, OfTenant>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_meets_what_was_put_last_and_nothing_of_another_tenants() {
        let secrets = Secrets::default();
        let id = |tenant: &str, name: &str| SecretId {
            tenant: tenant.parse().unwrap(),
            name: name.parse().unwrap(),
        };
        let put = |id: SecretId, revision: u64, text: &str| {
            let (incarnation, text) = (2, text_of(text));
            secrets.put(Arc::new(Secret {
                id,
                incarnation,
                revision,
                text,
            }));
        };
        let check = |id: &SecretId, expected: Option<&str>| {
            for other in [1, 3] {
                assert_eq!(secrets.get(&id.tenant, other, &id.name), None);
            }
            let found = secrets.get(&id.tenant, 2, &id.name);
            let found = found.as_ref().map(|secret| secret.text.expose());
            assert_eq!(found, expected, "{id:?}");
        };
        let (alices, bobs) = (id("alice", "key"), id("bob", "key"));
        put(alices.clone(), 1, "one");
        check(&bobs, None);
        put(bobs.clone(), 2, "two");
        put(alices.clone(), 3, "three");
        check(&alices, Some("three"));
        check(&bobs, Some("two"));
        check(&id("alice", "other"), None);
        secrets.forget(&alices);
        secrets.forget(&alices);
        check(&alices, None);
        check(&bobs, Some("two"));
        assert_eq!(secrets.all().len(), 1);
    }

    fn text_of(text: &str) -> model::SecretText {
        model::SecretText::new(text.as_bytes().to_vec().into()).unwrap()
    }
}
