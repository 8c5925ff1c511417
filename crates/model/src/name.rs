//! Names that people choose: of tenants, of apps and of what is theirs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name in bytes: a name becomes one DNS label, and RFC 1035 §2.3.4 gives a label 63.
pub const MAX_NAME_BYTES: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name may not be empty")]
    Empty,
    #[error("a name may have {MAX_NAME_BYTES} bytes; this one has {0}")]
    TooLong(usize),
    #[error(
        "a name is made of the letters a-z, digits and `-`, and begins and ends with a letter or digit; `{0}` is not"
    )]
    Shape(String),
}

fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends_well = !text.starts_with('-') && !text.ends_with('-');
    // `xn--` names are the encoded form of international ones: two spellings of one name.
    if ends_well && text.bytes().all(inner) && !text.starts_with("xn--") {
        Ok(())
    } else {
        Err(NameError::Shape(text.escape_default().to_string()))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Who owns apps: one DNS label in lower case, at most 63 bytes.
    TenantName
}
name! {
    /// An app's name within its tenant: one DNS label in lower case, at most 63 bytes.
    AppName
}

name! {
    /// A certificate's name within its tenant, of the same form.
    CertificateName
}

name! {
    /// A key-value store's name within its app, of the same form.
    StoreName
}

name! {
    /// A secret's name within its tenant, of the same form.
    SecretName
}

impl TenantName {
    /// The tenant that exists from the first start, and that commands mean when none is named.
    pub fn default_tenant() -> Self {
        Self("default".into())
    }

    /// Whether this is the tenant whose apps answer directly below the platform's domain.
    pub fn is_default(&self) -> bool {
        &*self.0 == "default"
    }
}

/// How many tenants, or apps, of a name were deleted before this one. What one keeps is not the next one's, though they
/// are called the same.
pub type Incarnation = u32;

/// One app of one tenant; written `tenant/app`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppId {
    pub tenant: TenantName,
    pub app: AppName,
}

impl AppId {
    pub fn new(tenant: TenantName, app: AppName) -> Self {
        Self { tenant, app }
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.app)
    }
}

impl FromStr for AppId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (tenant, app) = text
            .split_once('/')
            .ok_or_else(|| NameError::Shape(text.to_owned()))?;
        Ok(Self {
            tenant: tenant.parse()?,
            app: app.parse()?,
        })
    }
}

impl TryFrom<String> for AppId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<AppId> for String {
    fn from(id: AppId) -> String {
        id.to_string()
    }
}

/// Whose it is what outlives a request: one app's, and not that of any of its name before it or after it. Written
/// `tenant/app`, or `tenant/app/N` if N were before it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    pub app: AppId,
    pub incarnation: Incarnation,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation {
            0 => self.app.fmt(f),
            number => write!(f, "{}/{number}", self.app),
        }
    }
}

impl FromStr for Owner {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let numbered = text.rsplit_once('/').and_then(|(app, number)| {
            let incarnation = number.parse().ok().filter(|number| *number != 0)?;
            Some((app.parse().ok()?, incarnation))
        });
        let (app, incarnation) = match numbered {
            Some(numbered) => numbered,
            None => (text.parse()?, 0),
        };
        Ok(Self { app, incarnation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels_in_lower_case() {
        let long = "a".repeat(63);
        for good in ["a", "shop", "a-b", "0", "con", long.as_str()] {
            assert!(good.parse::<AppName>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "../x",
            ".",
            "a/b",
            "a\0",
            "é",
            "😀",
            "%2f",
            "a_b",
            " a",
            "xn--a",
            "\u{202e}a",
            &too_long,
        ] {
            assert!(bad.parse::<AppName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_app_id_is_written_tenant_slash_app() {
        let id: AppId = "alice/shop".parse().unwrap();
        assert_eq!(id.to_string(), "alice/shop");
        assert!("shop".parse::<AppId>().is_err());
        assert!("a/b/c".parse::<AppId>().is_err());
    }

    #[test]
    fn an_owner_is_written_with_its_number_unless_it_is_the_first() {
        for (text, app, incarnation) in [
            ("a/shop", "a/shop", 0),
            ("a/shop/1", "a/shop", 1),
            ("a/7", "a/7", 0),
            ("a/7/4294967295", "a/7", u32::MAX),
        ] {
            let owner: Owner = text.parse().unwrap();
            assert_eq!(
                (owner.app.to_string().as_str(), owner.incarnation),
                (app, incarnation)
            );
            assert_eq!(owner.to_string(), text);
        }
        for bad in [
            "",
            "a",
            "a/",
            "/1",
            "a/shop/",
            "a/shop/x",
            "a/shop/0",
            "a/shop/4294967296",
            "a/b/1/2",
        ] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
    }
}
