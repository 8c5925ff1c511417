//! Where a request of a guest's goes: the one parser for what guests name, and the patterns by which manifests grant it.
//!
//! What was parsed here is what is matched, resolved, connected and written on the wire; nothing looks at the text again.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{AppName, NameError};

/// The domain within which the apps of a tenant call each other: `http://NAME.app.internal`.
const APPS: &str = "app.internal";
/// The domain that stands for things inside the platform. No resolver is asked for a name below it.
const INTERNAL: &str = "internal";

/// A scheme of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HttpScheme {
    Http,
    Https,
}

/// A host and port that a request goes to, in its one spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    pub scheme: HttpScheme,
    pub host: DestinationHost,
    pub port: u16,
}

/// A host as a guest names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationHost {
    /// In lower case, without a dot at its end.
    Name(String),
    Address(IpAddr),
}

/// Why an authority is none that a request may go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    #[error("it names no host")]
    NoHost,
    #[error("it has a user name or password")]
    UserInfo,
    #[error("its port is not a number from 1 to 65535")]
    Port,
    #[error("its host is not a name in ASCII; write an international one in its `xn--` form")]
    Host,
    #[error("its host is an IPv4 address in an odd spelling; write four decimal numbers")]
    OddAddress,
    #[error("its host is no IPv6 address")]
    Address,
}

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

impl HttpScheme {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for HttpScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Destination {
    /// What `authority`, a host with or without a port, means under `scheme`.
    pub fn parse(scheme: HttpScheme, authority: &str) -> Result<Self, DestinationError> {
        if authority.contains('@') {
            return Err(DestinationError::UserInfo);
        }
        let (host, port) = split(authority)?;
        let port = match port {
            None => scheme.default_port(),
            Some(port) => parse_port(port)?,
        };
        let host = parse_host(host)?;
        Ok(Self { scheme, host, port })
    }

    /// The app of the same tenant that this means; none if it lies outside of the platform.
    ///
    /// # Errors
    /// It lies inside, and is no app's.
    pub fn app(&self) -> Option<Result<AppName, NameError>> {
        let DestinationHost::Name(name) = &self.host else {
            return None;
        };
        if !is_below(name, INTERNAL) {
            return None;
        }
        let plain = self.scheme == HttpScheme::Http && self.port == self.scheme.default_port();
        let label = name
            .strip_suffix(APPS)
            .and_then(|rest| rest.strip_suffix('.'));
        match label {
            Some(label) if plain => Some(label.parse()),
            _ => Some(Err(NameError::Shape(self.to_string()))),
        }
    }

    /// As the `host` header says it: without a port that the scheme implies.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

impl fmt::Display for DestinationHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Host and port as they are written; the brackets of an IPv6 address stay.
fn split(authority: &str) -> Result<(&str, Option<&str>), DestinationError> {
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or(DestinationError::Address)?;
        let (host, rest) = authority.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(DestinationError::Address),
        };
    }
    Ok(match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    })
}

fn parse_port(text: &str) -> Result<u16, DestinationError> {
    let plain = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if plain && port > 0 => Ok(port),
        _ => Err(DestinationError::Port),
    }
}

fn parse_host(text: &str) -> Result<DestinationHost, DestinationError> {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let address: Ipv6Addr = inner.parse().map_err(|_| DestinationError::Address)?;
        return Ok(DestinationHost::Address(address.into()));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(DestinationError::NoHost);
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    // What ends in a number is an address to some resolvers (WHATWG URL, "ends in a number checker"), so only the one
    // spelling that everyone reads alike is one.
    if is_number(last) {
        let address: Ipv4Addr = name.parse().map_err(|_| DestinationError::OddAddress)?;
        return Ok(DestinationHost::Address(address.into()));
    }
    let is_label = |label: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fits)
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(DestinationError::Host);
    }
    Ok(DestinationHost::Name(name.to_ascii_lowercase()))
}

/// Whether some resolver would take this label for a number: decimal, octal or hexadecimal.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or(label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// Whether `name` is `domain` with at least a label before it.
fn is_below(name: &str, domain: &str) -> bool {
    let before = name.strip_suffix(domain);
    before.is_some_and(|before| before.len() > 1 && before.ends_with('.'))
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

    fn https(authority: &str) -> Result<Destination, DestinationError> {
        Destination::parse(HttpScheme::Https, authority)
    }

    #[test]
    fn a_destination_has_one_spelling() {
        let check = |authority: &str, expected: &str| {
            let found = https(authority).map(|to| to.to_string());
            assert_eq!(found.as_deref(), Ok(expected), "{authority}");
        };
        check("api.example.com", "https://api.example.com");
        check("API.Example.COM:443", "https://api.example.com");
        check("api.example.com.", "https://api.example.com");
        check("api.example.com:8443", "https://api.example.com:8443");
        check("api.example.com:00443", "https://api.example.com");
        check("xn--bcher-kva.example", "https://xn--bcher-kva.example");
        check("a_b.example", "https://a_b.example");
        check("192.0.2.1:80", "https://192.0.2.1:80");
        check("[2001:DB8::0001]:444", "https://[2001:db8::1]:444");
        check("[::1]", "https://[::1]");
        check("1.com", "https://1.com");
        check("0x1.com", "https://0x1.com");
        assert_eq!(
            Destination::parse(HttpScheme::Http, "a:443")
                .unwrap()
                .to_string(),
            "http://a:443"
        );
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_no_destination() {
        use DestinationError::*;
        let check = |authority: &str, expected: DestinationError| {
            assert_eq!(https(authority), Err(expected), "{authority:?}");
        };
        check("", NoHost);
        check(".", NoHost);
        check(":443", NoHost);
        check("user@host", UserInfo);
        check("user:pass@host", UserInfo);
        check("host:port@other", UserInfo);
        for port in [
            "", "0", "65536", "99999", "-1", "+443", "4 43", "443a", "000443", "443:1",
        ] {
            check(&format!("host:{port}"), Port);
        }
        for host in [
            "a b",
            "a\\b",
            "a/b",
            "a?b",
            "a#b",
            "a%2fb",
            "a\r\nb",
            "a\0b",
            "a..b",
            ".a",
            "bücher.example",
            "a,b",
            "a*b",
            "*",
            "ⓛocalhost",
            "a\u{202e}b",
        ] {
            check(host, Host);
        }
        check(&"a".repeat(64), Host);
        check(&vec!["a".repeat(60); 5].join("."), Host);
        for host in [
            "2130706433",
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "127.0.0.0x1",
            "1.2.3.4.5",
            "256.0.0.1",
            "127.0.0.01",
            "0",
            "00000000001",
            "0x",
            "a.1",
            "a.0x1f",
            "127.0.0.1..",
            "1..2",
        ] {
            let found = https(host);
            assert!(matches!(found, Err(OddAddress | Host)), "{host}: {found:?}");
        }
        for host in [
            "[::1",
            "[",
            "[]",
            "[::1]x",
            "[127.0.0.1]",
            "[fe80::1%eth0]",
            "[::1]]",
            "[g::]",
        ] {
            check(host, Address);
        }
        check("::1", Port);
    }

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

    #[test]
    fn an_app_of_the_tenant_is_known_by_its_name() {
        let app = |authority: &str| {
            Destination::parse(HttpScheme::Http, authority)
                .unwrap()
                .app()
        };
        assert_eq!(app("shop.app.internal"), Some(Ok("shop".parse().unwrap())));
        assert_eq!(app("example.com"), None);
        assert_eq!(app("app.internal.example.com"), None);
        assert!(app("x.queue.internal").unwrap().is_err());
        assert!(app("a.b.app.internal").unwrap().is_err());
        assert!(app("app.internal").unwrap().is_err());
        assert!(app("shop.app.internal:81").unwrap().is_err());
        assert!(https("shop.app.internal").unwrap().app().unwrap().is_err());
    }
}
