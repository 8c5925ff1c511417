//! Routes: which host and path lead to an app.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a host or a path prefix was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error(
        "`{0}` is not a host; write a DNS name in lower case such as `shop.example.com`, without scheme, port or path"
    )]
    Host(String),
    #[error(
        "`{0}` is not a path prefix; it begins with `/` and has no `//`, `.` or `..` segments, query, `%` or `\\`"
    )]
    Path(String),
}

/// A host that requests name: a DNS name in lower case, without port or trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(Arc<str>);

impl Host {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this host is `domain` or lies below it.
    pub fn is_within(&self, domain: &Host) -> bool {
        self == domain
            || self
                .0
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.ends_with('.'))
    }
}

impl FromStr for Host {
    type Err = RouteError;
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // RFC 1035 §2.3.4: 255 octets on the wire, 253 characters in text.
        if text.len() <= 253 && !text.is_empty() && text.split('.').all(label) {
            Ok(Self(text.into()))
        } else {
            Err(RouteError::Host(
                text.chars()
                    .take(300)
                    .collect::<String>()
                    .escape_default()
                    .to_string(),
            ))
        }
    }
}

/// The beginning of a path, whole segments: `/api` covers `/api` and `/api/x`, not `/apix`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPrefix(Arc<str>);

impl PathPrefix {
    pub fn root() -> Self {
        Self("/".into())
    }

    /// The prefix, without a trailing slash unless it is the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn covers(&self, path: &str) -> bool {
        if &*self.0 == "/" {
            return true;
        }
        path.strip_prefix(&*self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Default for PathPrefix {
    fn default() -> Self {
        Self::root()
    }
}

impl FromStr for PathPrefix {
    type Err = RouteError;
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let wrong = || {
            RouteError::Path(
                text.chars()
                    .take(300)
                    .collect::<String>()
                    .escape_default()
                    .to_string(),
            )
        };
        if text == "/" {
            return Ok(Self::root());
        }
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let segments = trimmed.strip_prefix('/').ok_or_else(wrong)?;
        // `%` is refused, so that a prefix has one spelling and matches what the router compares.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b);
        let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(plain);
        if trimmed.len() <= limits::ROUTE_PATH.default.as_usize()
            && segments.split('/').all(segment)
        {
            Ok(Self(trimmed.into()))
        } else {
            Err(wrong())
        }
    }
}

macro_rules! text_form {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = RouteError;
            fn try_from(text: String) -> Result<Self, RouteError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.as_ref().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
text_form!(Host);
text_form!(PathPrefix);

/// A host and a path prefix that lead to an app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub host: Host,
    #[serde(default)]
    pub path: PathPrefix,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_whole_segments() {
        let check = |prefix: &str, path: &str, covers: bool| {
            assert_eq!(
                prefix.parse::<PathPrefix>().unwrap().covers(path),
                covers,
                "{prefix} {path}"
            );
        };
        check("/", "/", true);
        check("/", "/x", true);
        check("/api", "/api", true);
        check("/api", "/api/", true);
        check("/api", "/api/x", true);
        check("/api/", "/api", true);
        check("/api", "/apix", false);
        check("/api", "/", false);
    }

    #[test]
    fn hosts_and_prefixes_have_one_spelling() {
        for bad in [
            "",
            "Shop.example.com",
            "a..b",
            "a.",
            ".a",
            "a:80",
            "a/b",
            "*.a",
            "-a.b",
            "u@h",
            "a b",
            "bücher.de",
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
        for bad in [
            "", "api", "//", "/a//b", "/../a", "/a/.", "/a?b", "/%61", "/a\\b", "/a b",
        ] {
            assert!(bad.parse::<PathPrefix>().is_err(), "{bad}");
        }
    }
}
