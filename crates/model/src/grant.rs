//! Grants: what a manifest asks to be lent, and what an app has been lent.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits;
use crate::manifest::ManifestError;
use crate::name::{SecretName, StoreName};
use crate::{Destination, HttpGrant};

/// What an app may touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grants {
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Configuration values, read through `wasi:config` and its kin.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// Key-value stores, each the app's own.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kv: BTreeSet<StoreName>,
    /// Where its requests may go.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub http: BTreeSet<HttpGrant>,
    /// Secrets of the tenant's, by name: read as configuration values are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<SecretName>,
}

impl Grants {
    const NONE: Self = Self {
        env: BTreeMap::new(),
        config: BTreeMap::new(),
        kv: BTreeSet::new(),
        http: BTreeSet::new(),
        secrets: BTreeSet::new(),
    };

    /// Whether requests may go there.
    pub fn covers(&self, to: &Destination) -> bool {
        self.http.iter().any(|grant| grant.covers(to))
    }

    /// Whether every part is within bounds.
    pub(crate) fn check(&self) -> Result<(), ManifestError> {
        for (name, value) in self.env.iter().chain(&self.config) {
            check_value(name, value)?;
        }
        let count = self.kv.len() as u64;
        let limit = limits::KV_STORES.default;
        if count > limit {
            return Err(ManifestError::TooManyStores { count, limit });
        }
        let count = self.http.len() as u64;
        let limit = limits::HTTP_GRANTS.default;
        if count > limit {
            return Err(ManifestError::TooManyDestinations { count, limit });
        }
        self.check_secrets()
    }

    /// Whether there are not too many secrets, and no name reaches both one of them and a configuration value.
    fn check_secrets(&self) -> Result<(), ManifestError> {
        let count = self.secrets.len() as u64;
        let limit = limits::SECRETS_GRANTED.default;
        if count > limit {
            return Err(ManifestError::TooManySecrets { count, limit });
        }
        for secret in &self.secrets {
            if let Some(value) = self.config.keys().find(|value| secret.is_written(value)) {
                return Err(ManifestError::ValueAndSecret {
                    value: value.clone(),
                    secret: secret.clone(),
                });
            }
        }
        Ok(())
    }
}

fn check_value(name: &str, value: &str) -> Result<(), ManifestError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.';
    if name.is_empty() || name.len() > 256 || !name.bytes().all(fits) {
        return Err(ManifestError::ValueName(
            name.chars()
                .take(256)
                .collect::<String>()
                .escape_default()
                .to_string(),
        ));
    }
    if value.contains('\0') {
        return Err(ManifestError::ValueNul(name.to_owned()));
    }
    Ok(())
}

/// What an app of the catalog was granted. Reads and is written as [`Grants`]; one that was granted nothing, as most
/// are, takes no memory for it in any of the processes that hold the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted(Option<Box<Grants>>);

impl Deref for Granted {
    type Target = Grants;

    fn deref(&self) -> &Grants {
        static NONE: Grants = Grants::NONE;
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl From<Grants> for Granted {
    fn from(grants: Grants) -> Self {
        Self((grants != Grants::NONE).then(|| Box::new(grants)))
    }
}

impl Serialize for Granted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Grants::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Granted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Grants::deserialize(deserializer).map(Self::from)
    }
}
