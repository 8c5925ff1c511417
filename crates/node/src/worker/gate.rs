//! The gate: what hyper lets through and RFC 9112 or our limits do not. Pure: a request's head in, a cleaned head and
//! the authority it means out, or why not.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Uri, Version};
use model::{Outcome, limits};

/// Whose word on where a request comes from is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// The platform's alone: what a request says of itself is removed.
    Removed,
    /// The request's too: it comes from the operator's own proxy.
    Believed,
}

/// Lets a request in: its target is in origin form afterwards, it has one `host` header, and what is between this
/// client and us alone is gone.
///
/// Returns the authority that the client named, with its port if it named one.
pub fn admit(parts: &mut Parts, forwarded: Forwarded) -> Result<HeaderValue, Outcome> {
    let multiplexed = parts.version == Version::HTTP_2;
    let known_version = multiplexed || matches!(parts.version, Version::HTTP_10 | Version::HTTP_11);
    let method_length = parts.method.as_str().len();
    if !known_version || method_length > limits::REQUEST_METHOD.default.as_usize() {
        return Err(Outcome::BadRequest);
    }
    if multiplexed {
        check_size(&parts.headers)?;
        check_length(&parts.headers)?;
        join_cookies(&mut parts.headers);
    }
    let host = host(parts)?;
    let target = target(&parts.method, &parts.uri)?;
    check_encoding(&parts.headers)?;
    check_expectation(&parts.headers)?;
    remove_what_ends_here(&mut parts.headers, forwarded);
    match (target, host) {
        (Target::Origin, Some(host)) => Ok(host),
        (Target::Origin, None) => Err(Outcome::BadRequest),
        // RFC 9113 §8.3.1: they must not differ.
        (Target::Absolute { authority, .. }, Some(host))
            if multiplexed && !authority.as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            Err(Outcome::BadRequest)
        }
        // RFC 9112 §3.2.2: the target wins over the header.
        (Target::Absolute { authority, path }, _) => {
            parts.uri = Uri::from(path);
            parts.headers.insert(HOST, authority.clone());
            Ok(authority)
        }
    }
}

enum Target {
    Origin,
    Absolute {
        authority: HeaderValue,
        path: PathAndQuery,
    },
}

/// What hyper checks of HTTP/1.1 as it reads a head.
fn check_size(headers: &HeaderMap) -> Result<(), Outcome> {
    let bytes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum::<usize>();
    let fits = bytes <= limits::REQUEST_HEAD.default.as_usize()
        && headers.len() as u64 <= limits::REQUEST_FIELDS.default;
    if fits {
        Ok(())
    } else {
        Err(Outcome::HeadersTooLarge)
    }
}

/// What the screen checks of HTTP/1.1: one length, in digits. h2 takes an empty one for nought.
fn check_length(headers: &HeaderMap) -> Result<(), Outcome> {
    match only(headers, &CONTENT_LENGTH)? {
        Some(length) if !is_length(length.as_bytes()) => Err(Outcome::BadRequest),
        _ => Ok(()),
    }
}

/// Whether this is a `content-length`: one digit fewer than the largest number that fits.
pub fn is_length(text: &[u8]) -> bool {
    (1..=19).contains(&text.len()) && text.iter().all(u8::is_ascii_digit)
}

/// The one header of this name, if there is any.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Outcome> {
    let mut found = headers.get_all(name).into_iter();
    match (found.next(), found.next()) {
        (only, None) => Ok(only),
        _ => Err(Outcome::BadRequest),
    }
}

/// RFC 9113 §8.2.3: a `cookie` header may come in pieces, and must be one again for who does not speak HTTP/2.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let crumbs: Vec<_> = crumbs.collect();
    if crumbs.len() < 2 {
        return;
    }
    let whole = crumbs.join(&b"; "[..]);
    let whole = HeaderValue::from_bytes(&whole).expect("header values joined by `; ` are one");
    headers.insert(COOKIE, whole);
}

/// The one `host` header; only HTTP/1.0 and HTTP/2 may do without.
fn host(parts: &Parts) -> Result<Option<HeaderValue>, Outcome> {
    match only(&parts.headers, &HOST)? {
        Some(host) if is_authority(host.as_bytes()) => Ok(Some(host.clone())),
        None if matches!(parts.version, Version::HTTP_10 | Version::HTTP_2) => Ok(None),
        _ => Err(Outcome::BadRequest),
    }
}

fn target(method: &Method, uri: &Uri) -> Result<Target, Outcome> {
    let path = uri.path_and_query();
    let path_length = path.map_or(0, |path| path.as_str().len());
    let authority_length = uri.authority().map_or(0, |a| a.as_str().len());
    if path_length + authority_length > limits::REQUEST_TARGET.default.as_usize() {
        return Err(Outcome::TargetTooLong);
    }
    if *method == Method::CONNECT {
        return Err(Outcome::BadRequest);
    }
    let path = path.filter(|path| {
        path.as_str().starts_with('/') || (*path == "*" && *method == Method::OPTIONS)
    });
    match (uri.scheme(), uri.authority(), path) {
        (None, None, Some(_)) => Ok(Target::Origin),
        (Some(scheme), Some(authority), Some(path))
            if (*scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
                && is_authority(authority.as_str().as_bytes()) =>
        {
            Ok(Target::Absolute {
                authority: HeaderValue::from_str(authority.as_str())
                    .expect("an authority has only visible ASCII"),
                path: path.clone(),
            })
        }
        _ => Err(Outcome::BadRequest),
    }
}

/// Whether this is a host and at most a port: no userinfo, no path, no list.
fn is_authority(text: &[u8]) -> bool {
    let host_end = match text {
        [b'[', rest @ ..] => rest
            .iter()
            .position(|b| *b == b']')
            .map_or(0, |end| end + 2),
        _ => text.iter().position(|b| *b == b':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(host_end);
    is_host(host) && (port.is_empty() || is_port(port))
}

fn is_host(host: &[u8]) -> bool {
    match host {
        [b'[', address @ .., b']'] => std::str::from_utf8(address)
            .is_ok_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        // 253 characters of RFC 1035's, and a trailing dot.
        _ => {
            (1..=254).contains(&host.len())
                && host
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        }
    }
}

/// `:` and a number that a port can have.
fn is_port(text: &[u8]) -> bool {
    match text {
        [b':', digits @ ..] if (1..=5).contains(&digits.len()) => {
            digits.iter().all(u8::is_ascii_digit)
                && digits
                    .iter()
                    .fold(0u32, |number, digit| number * 10 + u32::from(digit - b'0'))
                    <= 65_535
        }
        _ => false,
    }
}

/// `chunked` and nothing else: hyper decodes no other coding, and a guest would not know that it has to. HTTP/2 has none.
fn check_encoding(headers: &HeaderMap) -> Result<(), Outcome> {
    match only(headers, &TRANSFER_ENCODING)? {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Err(Outcome::BadRequest)
        }
        _ => Ok(()),
    }
}

fn check_expectation(headers: &HeaderMap) -> Result<(), Outcome> {
    let unknown = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(EXPECT).into_iter().any(unknown) {
        Err(Outcome::ExpectationFailed)
    } else {
        Ok(())
    }
}

fn remove_what_ends_here(headers: &mut HeaderMap, forwarded: Forwarded) {
    let mut gone: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        if ends_here(name.as_str().as_bytes(), forwarded) {
            gone.push(name.clone());
        }
    }
    if gone.is_empty() {
        return;
    }
    let nominated = headers
        .get_all(CONNECTION)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // What frames and addresses the message is not the client's to take away.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH);
    gone.extend(nominated);
    for name in gone {
        headers.remove(name);
    }
}

/// Whether a header is for us and not for the guest. Names are in lower case.
fn ends_here(name: &[u8], forwarded: Forwarded) -> bool {
    match name {
        b"connection" | b"keep-alive" | b"te" | b"transfer-encoding" | b"upgrade"
        | b"http2-settings" | b"expect" => true,
        [b'p', ..] => name.starts_with(b"proxy-"),
        [b'm', ..] => begins_folded(name, b"midge-"),
        b"forwarded" => forwarded == Forwarded::Removed,
        // Under CGI, `x_forwarded_for` and `x-forwarded-for` are the same variable: a proxy that sets the one may
        // have passed the other on from outside.
        [b'x', ..] => {
            begins_folded(name, b"x-forwarded-")
                && (forwarded == Forwarded::Removed || name.contains(&b'_'))
        }
        _ => false,
    }
}

/// Removes trailers that only a head may have: they would frame, route or authorize what has been let in already
/// (RFC 9110 §6.5.1).
pub fn clean_trailers(trailers: &mut HeaderMap) {
    let only_in_a_head = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with("content-")
            || matches!(
                name,
                "host" | "authorization" | "cookie" | "trailer" | "proxy"
            )
            || ends_here(name.as_bytes(), Forwarded::Removed)
    };
    let gone: Vec<HeaderName> = trailers.keys().filter(only_in_a_head).cloned().collect();
    for name in gone {
        trailers.remove(name);
    }
}

fn begins_folded(name: &[u8], prefix: &[u8]) -> bool {
    let fold = |b: &u8| if *b == b'_' { b'-' } else { *b };
    name.len() >= prefix.len() && name.iter().map(fold).zip(prefix).all(|(a, b)| a == *b)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// A request written as `METHOD target` and header lines.
    fn parts(text: &str) -> Parts {
        let mut lines = text.lines().map(str::trim);
        let (method, target) = lines.next().unwrap().split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(target);
        for line in lines {
            let (name, value) = line.split_once(':').unwrap();
            request = request.header(name, value.trim());
        }
        request.body(()).unwrap().into_parts().0
    }

    fn admitted(text: &str, forwarded: Forwarded) -> Result<(Parts, String), Outcome> {
        let mut parts = parts(text);
        let authority = admit(&mut parts, forwarded)?;
        Ok((parts, authority.to_str().unwrap().to_owned()))
    }

    #[test]
    fn over_http2_the_target_names_the_host() {
        let admitted = |text: &str| {
            let mut parts = parts(text);
            parts.version = Version::HTTP_2;
            let authority = admit(&mut parts, Forwarded::Removed)?;
            assert_eq!(parts.headers.get_all(HOST).iter().count(), 1);
            let cookie = parts.headers.get(COOKIE).cloned();
            Ok::<_, Outcome>((authority, parts.uri.to_string(), cookie))
        };
        let check = |text: &str, host: &str, target: &str, cookie: Option<&str>| {
            let (found, path, crumbs) = admitted(text).unwrap();
            assert_eq!((found.to_str().unwrap(), path.as_str()), (host, target));
            assert_eq!(crumbs.as_ref().map(|c| c.to_str().unwrap()), cookie);
        };
        check("GET http://a.test/x?y", "a.test", "/x?y", None);
        check("GET https://a.test/\nhost: A.test", "a.test", "/", None);
        check("GET /\nhost: a.test:81", "a.test:81", "/", None);
        let crumbs = "GET http://a.test/\ncookie: a=1\ncookie: b=2\ncookie: c=3";
        check(crumbs, "a.test", "/", Some("a=1; b=2; c=3"));
        let bad = |text: &str, outcome| assert_eq!(admitted(text).unwrap_err(), outcome, "{text}");
        bad("GET http://a.test/\nhost: b.test", Outcome::BadRequest);
        bad("GET http://u@a.test/", Outcome::BadRequest);
        bad("GET /", Outcome::BadRequest);
        bad("GET http://a.test/\ncontent-length:", Outcome::BadRequest);
        bad(
            "GET http://a.test/\ncontent-length: +1",
            Outcome::BadRequest,
        );
        bad("CONNECT a.test:80", Outcome::BadRequest);
        let many = "\nx: y".repeat(101);
        bad(
            &format!("GET http://a.test/{many}"),
            Outcome::HeadersTooLarge,
        );
        let long = "y".repeat(65 << 10);
        bad(
            &format!("GET http://a.test/\nx: {long}"),
            Outcome::HeadersTooLarge,
        );
    }

    #[test]
    fn a_request_names_one_host_and_one_target() {
        let check = |text: &str, expected: Result<(&str, &str), Outcome>| {
            let found = admitted(text, Forwarded::Removed).map(|(parts, authority)| {
                let hosts: Vec<_> = parts.headers.get_all(HOST).iter().collect();
                assert_eq!(hosts, [authority.as_str()], "{text}");
                assert_eq!((parts.uri.scheme(), parts.uri.authority()), (None, None));
                (authority, parts.uri.to_string())
            });
            let expected = expected.map(|(a, b)| (a.to_owned(), b.to_owned()));
            assert_eq!(found, expected, "{text}");
        };
        let bad = Err(Outcome::BadRequest);
        check("GET /\nhost: a.test", Ok(("a.test", "/")));
        check("GET /x?y\nhost: a.test:80", Ok(("a.test:80", "/x?y")));
        check(
            "GET //evil.test/x\nhost: a.test",
            Ok(("a.test", "//evil.test/x")),
        );
        check("OPTIONS *\nhost: a.test", Ok(("a.test", "*")));
        check("BREW /\nhost: a_b.test.", Ok(("a_b.test.", "/")));
        check("GET /\nhost: [::1]:8080", Ok(("[::1]:8080", "/")));
        check(
            "GET http://b.test/x?y\nhost: a.test",
            Ok(("b.test", "/x?y")),
        );
        check(
            "GET https://b.test:8443\nhost: b.test",
            Ok(("b.test:8443", "/")),
        );

        check("GET /", bad);
        check("GET /\nhost: a.test\nhost: a.test", bad);
        check("GET http://b.test/", bad);
        check("GET http://b.test/\nhost: a.test\nhost: b.test", bad);
        check("GET http://u@b.test/\nhost: b.test", bad);
        check("GET http://u:p@b.test/\nhost: b.test", bad);
        check("GET ftp://b.test/\nhost: b.test", bad);
        check("GET *\nhost: a.test", bad);
        check("GET b.test\nhost: a.test", bad);
        check("GET b.test:80\nhost: a.test", bad);
        check("CONNECT b.test:80\nhost: b.test:80", bad);
        check("CONNECT /\nhost: b.test:80", bad);
        check(&format!("{} /\nhost: a.test", "A".repeat(33)), bad);
        let long = |bytes: usize| format!("GET /{}\nhost: a.test", "x".repeat(bytes - 1));
        assert!(admitted(&long(16 << 10), Forwarded::Removed).is_ok());
        check(&long((16 << 10) + 1), Err(Outcome::TargetTooLong));
    }

    #[test]
    fn http_1_0_may_name_its_host_in_the_target_alone() {
        let mut named = parts("GET http://b.test/x");
        named.version = Version::HTTP_10;
        assert_eq!(admit(&mut named, Forwarded::Removed).unwrap(), "b.test");
        assert_eq!(named.headers[HOST], "b.test");
        let mut nameless = parts("GET /");
        nameless.version = Version::HTTP_10;
        assert_eq!(
            admit(&mut nameless, Forwarded::Removed),
            Err(Outcome::BadRequest)
        );
        let mut other = parts("GET /\nhost: a.test");
        other.version = Version::HTTP_3;
        assert_eq!(
            admit(&mut other, Forwarded::Removed),
            Err(Outcome::BadRequest)
        );
    }

    #[test]
    fn a_host_is_a_name_or_address_and_at_most_a_port() {
        for good in [
            "a",
            "A.b-c.D",
            "1.2.3.4:1",
            "a:0",
            "a:65535",
            "a:00080",
            "[::1]",
            "[2001:db8::1]:80",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        let long = "a".repeat(255);
        for bad in [
            "",
            ":80",
            "a:",
            "a:x",
            "a:+1",
            "a:65536",
            "a:99999",
            "a:000080",
            "a:80:80",
            "a,b",
            "a b",
            "a/b",
            "u@a",
            "a@",
            "a?b",
            "a#b",
            "a\\b",
            "a%2eb",
            "[",
            "[]",
            "[::1",
            "[::1]x",
            "[::1]:",
            "[g]",
            "::1",
            "[1.2.3.4]",
            "[fe80::1%25eth0]",
            "é",
            "a\u{0}",
            &long,
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn only_what_the_platform_can_do_is_expected_and_encoded() {
        let check = |lines: &str, expected: Result<(), Outcome>| {
            let text = format!("POST /\nhost: a.test\n{lines}");
            let found = admitted(&text, Forwarded::Removed).map(|_| ());
            assert_eq!(found, expected, "{lines}");
        };
        let bad = Err(Outcome::BadRequest);
        check("transfer-encoding: chunked", Ok(()));
        check("transfer-encoding: Chunked", Ok(()));
        check("transfer-encoding: gzip, chunked", bad);
        check("transfer-encoding: chunked, identity", bad);
        check("transfer-encoding: chunked;q=1", bad);
        check("transfer-encoding: xchunked", bad);
        check("transfer-encoding:", bad);
        check(
            "transfer-encoding: chunked\ntransfer-encoding: chunked",
            bad,
        );
        check("expect: 100-Continue", Ok(()));
        check("expect: 200-ok", Err(Outcome::ExpectationFailed));
        check("expect: 100-continue, x", Err(Outcome::ExpectationFailed));
        check(
            "expect: 100-continue\nexpect: x",
            Err(Outcome::ExpectationFailed),
        );
    }

    #[test]
    fn what_is_between_the_client_and_us_ends_here() {
        let check = |lines: &str, forwarded: Forwarded, left: &[&str]| {
            let text = format!("POST /\nhost: a.test\n{lines}");
            let (parts, _) = admitted(&text, forwarded).unwrap();
            let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
            names.retain(|name| *name != "host");
            names.sort();
            assert_eq!(names, left, "{lines}");
        };
        use Forwarded::{Believed, Removed};
        check("accept: a\naccept: b", Removed, &["accept"]);
        check("a_b: 1\na-b: 2", Removed, &["a-b", "a_b"]);
        check(
            "connection: close\nkeep-alive: x\nupgrade: h2c\nhttp2-settings: x\nte: trailers",
            Removed,
            &[],
        );
        check(
            "proxy-authorization: x\nproxy-connection: x\nproxy: x",
            Removed,
            &["proxy"],
        );
        check(
            "connection: X-Secret , close,,@\nx-secret: 1\nx-other: 1",
            Removed,
            &["x-other"],
        );
        check(
            "connection: a\nconnection: b\na: 1\nb: 1\nc: 1",
            Removed,
            &["c"],
        );
        check(
            "connection: host, content-length\ncontent-length: 0",
            Removed,
            &["content-length"],
        );
        check(
            "transfer-encoding: chunked\ntrailer: x\nexpect: 100-continue",
            Removed,
            &["trailer"],
        );
        let outside = "forwarded: for=1\nx-forwarded-for: 1\nX_Forwarded-Proto: https\nx-forwarded-anything: 1\n\
                       midge-event: 1\nmidge_Event: 1\nx-forwarde: 1\nmidge: 1";
        check(outside, Removed, &["midge", "x-forwarde"]);
        check(
            outside,
            Believed,
            &[
                "forwarded",
                "midge",
                "x-forwarde",
                "x-forwarded-anything",
                "x-forwarded-for",
            ],
        );
    }

    #[test]
    fn trailers_do_not_change_what_the_head_has_said() {
        let mut trailers = HeaderMap::new();
        for name in [
            "checksum",
            "content-length",
            "content-type",
            "host",
            "authorization",
            "cookie",
            "transfer-encoding",
            "connection",
            "forwarded",
            "x_forwarded_for",
            "midge-event",
        ] {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        clean_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["checksum"]);
    }
}
