//! Destinations that a manifest grants to an app's requests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::destination::{APPS, INTERNAL, is_below, parse_port};
use crate::{Destination, DestinationError, DestinationHost, HttpScheme};

/// A host and port, or a family of them, that a manifest grants: `https://api.example.com`,
/// `https://*.example.com:8443`, `https://*`, `http://NAME.app.internal`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpGrant {
    scheme: HttpScheme,
    host: HostPattern,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum HostPattern {
    Only(DestinationHost),
    /// Every name that ends in this and has a label more.
    Below(String),
    /// Every host outside of the platform.
    Any,
}

/// Why a text is no grant of outgoing requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpGrantError {
    #[error("`{0}` does not begin with `http://` or `https://`")]
    Scheme(String),
    #[error(
        "`{0}` names more than a scheme, host and port; which path is asked for cannot be granted"
    )]
    Path(String),
    #[error(
        "`{0}`: `*` stands for whole labels at the beginning alone, as in `https://*.example.com`"
    )]
    Wildcard(String),
    #[error("`{0}`: {1}")]
    Destination(String, DestinationError),
    #[error("`{0}`: an app of the same tenant is `http://NAME.app.internal`, without a port")]
    Internal(String),
}

impl HttpGrant {
    /// Whether a request may go there.
    pub fn covers(&self, to: &Destination) -> bool {
        let host = match (&self.host, &to.host) {
            (HostPattern::Only(only), host) => only == host,
            (HostPattern::Below(domain), DestinationHost::Name(name)) => is_below(name, domain),
            (HostPattern::Below(_), DestinationHost::Address(_)) => false,
            (HostPattern::Any, _) => to.app().is_none(),
        };
        host && (self.scheme, self.port) == (to.scheme, to.port)
    }
}

impl FromStr for HttpGrant {
    type Err = HttpGrantError;

    fn from_str(text: &str) -> Result<Self, HttpGrantError> {
        let shown = || text.chars().take(300).collect::<String>();
        let (scheme, authority) = if let Some(rest) = text.strip_prefix("https://") {
            (HttpScheme::Https, rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (HttpScheme::Http, rest)
        } else {
            return Err(HttpGrantError::Scheme(shown()));
        };
        if authority.contains(['/', '?', '#']) {
            return Err(HttpGrantError::Path(shown()));
        }
        let odd = |error| HttpGrantError::Destination(shown(), error);
        let port_of = |rest: &str| match rest.strip_prefix(':') {
            Some(port) => parse_port(port).map_err(odd),
            None if rest.is_empty() => Ok(scheme.default_port()),
            None => Err(HttpGrantError::Wildcard(shown())),
        };
        let grant = match authority.strip_prefix('*') {
            Some(rest) => match rest.strip_prefix('.') {
                Some(domain) => {
                    let below =
                        Destination::parse(scheme, domain).map_err(|error| match error {
                            DestinationError::Host if domain.contains('*') => {
                                HttpGrantError::Wildcard(shown())
                            }
                            error => odd(error),
                        })?;
                    let DestinationHost::Name(name) = below.host else {
                        return Err(HttpGrantError::Wildcard(shown()));
                    };
                    Self {
                        scheme,
                        host: HostPattern::Below(name),
                        port: below.port,
                    }
                }
                None => Self {
                    scheme,
                    host: HostPattern::Any,
                    port: port_of(rest)?,
                },
            },
            None if authority.contains('*') => return Err(HttpGrantError::Wildcard(shown())),
            None => {
                let only = Destination::parse(scheme, authority).map_err(odd)?;
                if matches!(only.app(), Some(Err(_))) {
                    return Err(HttpGrantError::Internal(shown()));
                }
                Self {
                    scheme,
                    host: HostPattern::Only(only.host),
                    port: only.port,
                }
            }
        };
        match &grant.host {
            HostPattern::Below(domain)
                if (domain == INTERNAL || is_below(domain, INTERNAL))
                    && (domain != APPS || grant.port != 80 || scheme != HttpScheme::Http) =>
            {
                Err(HttpGrantError::Internal(shown()))
            }
            _ => Ok(grant),
        }
    }
}

impl fmt::Display for HttpGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        match &self.host {
            HostPattern::Only(host) => host.fmt(f)?,
            HostPattern::Below(domain) => write!(f, "*.{domain}")?,
            HostPattern::Any => f.write_str("*")?,
        }
        if self.port == self.scheme.default_port() {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

impl TryFrom<String> for HttpGrant {
    type Error = HttpGrantError;

    fn try_from(text: String) -> Result<Self, HttpGrantError> {
        text.parse()
    }
}

impl From<HttpGrant> for String {
    fn from(grant: HttpGrant) -> Self {
        grant.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_covers_what_it_names_and_nothing_near_it() {
        let check = |grant: &str, yes: &[&str], no: &[&str]| {
            let grant: HttpGrant = grant.parse().unwrap();
            for (list, expected) in [(yes, true), (no, false)] {
                for url in list {
                    let (scheme, authority) = url.split_once("://").unwrap();
                    let scheme = match scheme {
                        "http" => HttpScheme::Http,
                        _ => HttpScheme::Https,
                    };
                    let to = Destination::parse(scheme, authority).unwrap();
                    assert_eq!(grant.covers(&to), expected, "{grant} {url}");
                }
            }
        };
        check(
            "https://api.example.com",
            &["https://api.example.com", "https://API.example.com.:443"],
            &[
                "http://api.example.com",
                "http://api.example.com:443",
                "https://api.example.com:444",
                "https://xapi.example.com",
                "https://a.api.example.com",
                "https://example.com",
                "https://api.example.com.evil.test",
                "https://api.example.comx",
            ],
        );
        check(
            "https://*.example.com:8443",
            &["https://a.example.com:8443", "https://a.b.example.com:8443"],
            &[
                "https://example.com:8443",
                "https://aexample.com:8443",
                "https://a.example.com",
                "https://a.example.com.evil.test:8443",
                "http://a.example.com:8443",
            ],
        );
        check(
            "https://*",
            &["https://a", "https://192.0.2.1", "https://[2001:db8::1]"],
            &["https://a:444", "http://a", "https://a.internal"],
        );
        check(
            "http://*",
            &["http://a", "http://internal"],
            &["http://shop.app.internal", "http://x.queue.internal"],
        );
        check(
            "http://10.0.0.1",
            &["http://10.0.0.1"],
            &["http://10.0.0.2"],
        );
        check(
            "http://shop.app.internal",
            &["http://shop.app.internal", "http://SHOP.app.internal."],
            &["http://cart.app.internal", "http://a.shop.app.internal"],
        );
        check(
            "http://*.app.internal",
            &["http://shop.app.internal"],
            &["http://app.internal", "http://shop.app.internal:81"],
        );
    }

    #[test]
    fn what_is_no_grant_is_refused_with_the_reason() {
        let check = |text: &str, part: &str| {
            let error = text.parse::<HttpGrant>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("api.example.com", "begin with `http://`");
        check("ftp://a", "begin with `http://`");
        check("HTTPS://a", "begin with `http://`");
        check("https://a/", "which path");
        check("https://a/b", "which path");
        check("https://a?b", "which path");
        check("https://", "no host");
        check("https://*.", "no host");
        check("https://me@a", "user name");
        check("https://a:0", "port");
        check("https://*x", "stands for whole labels");
        check("https://a.*.b", "stands for whole labels");
        check("https://*.*", "stands for whole labels");
        check("https://*.1.2.3.4", "stands for whole labels");
        check("https://127.1", "odd spelling");
        check("https://bücher.example", "xn--");
        check("https://shop.app.internal", "http://NAME.app.internal");
        check("http://shop.app.internal:81", "http://NAME.app.internal");
        check("http://a.b.app.internal", "http://NAME.app.internal");
        check("http://x.internal", "http://NAME.app.internal");
        check("http://*.internal", "http://NAME.app.internal");
        check("https://*.app.internal", "http://NAME.app.internal");
    }

    #[test]
    fn a_grant_is_written_as_it_is_read() {
        for text in [
            "https://api.example.com",
            "http://*.example.com:8080",
            "https://*",
            "http://*:8080",
            "http://[2001:db8::1]:8080",
            "http://shop.app.internal",
        ] {
            assert_eq!(text.parse::<HttpGrant>().unwrap().to_string(), text);
        }
    }
}
