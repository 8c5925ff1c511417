//! Secrets: values of a tenant's that are shown to nobody, for the apps that were granted them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::{Incarnation, SecretName, Size, TenantName, limits};

/// Counts the changes of secrets, whosever they are; grows with each and never shrinks.
pub type SecretsRevision = u64;

/// The value of a secret: text. It is wiped from memory when it is dropped, and nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

/// Why something is not a secret's value. Nothing of it is part of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("the value is empty; delete a secret that is not needed any longer")]
    Empty,
    #[error("the value has {0}; a secret may have {limit}", limit = limits::SECRET.default)]
    TooLarge(Size),
    #[error(
        "the value is not text: its byte {0} is not UTF-8; write bytes in base64, and have the app decode them"
    )]
    NotText(usize),
}

impl SecretText {
    /// What `bytes` hold, to the last one.
    pub fn new(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, SecretError> {
        let size = Size(bytes.len() as u64);
        if bytes.is_empty() {
            return Err(SecretError::Empty);
        }
        if size > limits::SECRET.default {
            return Err(SecretError::TooLarge(size));
        }
        if let Err(error) = std::str::from_utf8(&bytes) {
            return Err(SecretError::NotText(error.valid_up_to()));
        }
        let text = String::from_utf8(std::mem::take(&mut *bytes)).expect("it was checked above");
        Ok(Self(Zeroizing::new(text)))
    }

    /// The value, for whoever may have it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.expose().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// A secret of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretId {
    pub tenant: TenantName,
    pub name: SecretName,
}

/// A secret and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    pub id: SecretId,
    /// Which tenant of its name has it.
    pub incarnation: Incarnation,
    /// The change that set it.
    pub revision: SecretsRevision,
    pub text: SecretText,
}

/// Every secret that is set.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// The newest change that counts.
    pub revision: SecretsRevision,
    pub all: BTreeMap<SecretId, Arc<Secret>>,
}

impl SecretName {
    /// Whether a guest that writes `text` means this secret: interfaces whose names have no `-` have `_` in its place.
    pub fn is_written(&self, text: &str) -> bool {
        let dashed = text.bytes().map(|b| if b == b'_' { b'-' } else { b });
        self.as_str().bytes().eq(dashed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: impl Into<Vec<u8>>) -> Result<SecretText, SecretError> {
        SecretText::new(Zeroizing::new(bytes.into()))
    }

    #[test]
    fn a_value_is_text_of_some_length_and_any_characters() {
        let most = limits::SECRET.default.as_usize();
        for good in ["x", " ", "a\0b\nc", "é", &"x".repeat(most)] {
            assert_eq!(text(good).unwrap().expose(), good);
        }
        assert_eq!(text(""), Err(SecretError::Empty));
        let size = Size(most as u64 + 1);
        assert_eq!(text("x".repeat(most + 1)), Err(SecretError::TooLarge(size)));
        assert_eq!(text(b"key\xff"), Err(SecretError::NotText(3)));
    }

    #[test]
    fn a_secret_prints_without_its_value() {
        let secret = Secret {
            id: SecretId {
                tenant: "alice".parse().unwrap(),
                name: "key".parse().unwrap(),
            },
            incarnation: 0,
            revision: 7,
            text: text("hunter2").unwrap(),
        };
        let printed = format!("{secret:?} {:#?}", secret.text);
        assert!(!printed.contains("hunter2"), "{printed}");
        let sent = serde_json::to_string(&secret).unwrap();
        assert_eq!(serde_json::from_str::<Secret>(&sent).unwrap(), secret);
    }

    #[test]
    fn a_name_is_written_with_dashes_or_underscores() {
        let name: SecretName = "stripe-key".parse().unwrap();
        for (written, expected) in [
            ("stripe-key", true),
            ("stripe_key", true),
            ("stripe key", false),
            ("stripekey", false),
            ("Stripe_key", false),
            ("stripe_key_", false),
            ("stripe\0key", false),
            ("", false),
        ] {
            assert_eq!(name.is_written(written), expected, "{written}");
        }
    }
}
