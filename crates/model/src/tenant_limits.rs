//! Limits of single tenants: what an operator gives one of them instead of the platform's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Size, TenantName};

/// Counts the changes of tenants' limits, whosever they are; grows with each and never shrinks.
pub type LimitsRevision = u64;

/// The limits that a tenant has of its own; where it has none, the platform's hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnLimits {
    /// How many apps it may have.
    pub apps: Option<u64>,
    /// How many instances it may have live in one worker; at least 1.
    pub slots: Option<u64>,
    /// What each of its key-value stores may hold.
    pub kv_store: Option<Size>,
}

/// The limits of every tenant that has any of its own.
#[derive(Debug, Clone, Default)]
pub struct TenantLimits {
    /// The newest change that counts.
    pub revision: LimitsRevision,
    pub all: BTreeMap<TenantName, OwnLimits>,
}

impl TenantLimits {
    /// What the tenant has of its own.
    pub fn of(&self, tenant: &TenantName) -> OwnLimits {
        self.all.get(tenant).copied().unwrap_or_default()
    }

    /// The slots of each tenant that had others `before`; none: as many as the platform gives.
    pub fn slots_since(&self, before: &Self) -> Vec<(TenantName, Option<u64>)> {
        let given_back = before.all.keys().filter(|it| !self.all.contains_key(*it));
        let names = self.all.keys().chain(given_back);
        names
            .filter(|tenant| self.of(tenant).slots != before.of(tenant).slots)
            .map(|tenant| (tenant.clone(), self.of(tenant).slots))
            .collect()
    }
}

/// What becomes of a limit. As JSON: a value, `null`, or nothing at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NewLimit<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// The platform's holds from now on.
    Default,
    /// The tenant has this one of its own from now on.
    Own(T),
}

impl<T> NewLimit<T> {
    pub fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// What the tenant has of its own, after it had `before`.
    pub fn after(self, before: Option<T>) -> Option<T> {
        match self {
            Self::Keep => before,
            Self::Default => None,
            Self::Own(value) => Some(value),
        }
    }
}

impl<T: Serialize> Serialize for NewLimit<T> {
    /// Where it stays as it is, it is to be left out.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Keep | Self::Default => serializer.serialize_none(),
            Self::Own(value) => serializer.serialize_some(value),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for NewLimit<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Option::deserialize(deserializer)?;
        Ok(value.map_or(Self::Default, Self::Own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(all: &[(&str, Option<u64>)]) -> TenantLimits {
        let own = |slots| OwnLimits {
            apps: Some(7),
            slots,
            kv_store: None,
        };
        let all = all.iter().map(|(tenant, slots)| (tenant, own(*slots)));
        TenantLimits {
            revision: 1,
            all: all
                .map(|(tenant, own)| (tenant.parse().unwrap(), own))
                .collect(),
        }
    }

    #[test]
    fn only_slots_that_changed_are_told() {
        let check = |before: &[_], after: &[_], expected: &[(&str, Option<u64>)]| {
            let changed = slots(after).slots_since(&slots(before));
            let changed: Vec<_> = changed.iter().map(|(it, n)| (it.as_str(), *n)).collect();
            assert_eq!(changed, expected);
        };
        let (one, two) = (("alice", Some(1)), ("alice", Some(2)));
        check(&[], &[one], &[one]);
        check(&[one], &[one], &[]);
        check(&[one], &[two, ("bob", Some(3))], &[two, ("bob", Some(3))]);
        check(&[one], &[("alice", None)], &[("alice", None)]);
        check(&[one], &[], &[("alice", None)]);
        check(&[("alice", None)], &[], &[]);
        check(&[], &[("alice", None)], &[]);
    }

    #[test]
    fn a_limit_is_set_taken_back_or_left_as_it_is() {
        let check = |new: NewLimit<u64>, json: &str, expected: Option<u64>| {
            assert_eq!(serde_json::from_str::<NewLimit<u64>>(json).unwrap(), new);
            assert_eq!(serde_json::to_string(&new).unwrap(), json);
            assert_eq!(new.after(Some(5)), expected);
        };
        check(NewLimit::Own(3), "3", Some(3));
        check(NewLimit::Default, "null", None);
        assert_eq!(NewLimit::Keep.after(Some(5)), Some(5));
        assert!(serde_json::from_str::<NewLimit<u64>>("\"3\"").is_err());
    }
}
