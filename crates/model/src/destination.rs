//! Where a request of a guest's goes: the one parser for what guests name.
//!
//! What was parsed here is what is matched, resolved, connected and written on the wire; nothing looks at the text again.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{AppName, NameError};

/// The domain within which the apps of a tenant call each other: `http://NAME.app.internal`.
pub(crate) const APPS: &str = "app.internal";
/// The domain that stands for things inside the platform. No resolver is asked for a name below it.
pub(crate) const INTERNAL: &str = "internal";

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

pub(crate) fn parse_port(text: &str) -> Result<u16, DestinationError> {
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
pub(crate) fn is_below(name: &str, domain: &str) -> bool {
    let before = name.strip_suffix(domain);
    before.is_some_and(|before| before.len() > 1 && before.ends_with('.'))
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
