//! What the guest is told of where a request came from: `forwarded`, `x-forwarded-for`, `-proto` and `-host`.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName, HeaderValue};

use super::gate::Forwarded;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// One client, as the headers of its requests name it.
pub struct Client {
    scheme: &'static str,
    /// The address as text, shared with the log lines of its requests.
    pub text: Arc<str>,
    address: HeaderValue,
    /// The `forwarded` header of the last authority: a connection seldom names a second one.
    last: RefCell<Option<(HeaderValue, HeaderValue)>>,
}

impl Client {
    pub fn new(address: IpAddr, scheme: &'static str) -> Self {
        // A dual-stack socket shows `1.2.3.4` as `::ffff:1.2.3.4`.
        let text = address.to_canonical().to_string();
        Self {
            scheme,
            address: value(&text),
            text: text.into(),
            last: RefCell::new(None),
        }
    }

    /// Puts the platform's word beside what the gate left, and returns the scheme the client used.
    pub fn sign(
        &self,
        headers: &mut HeaderMap,
        authority: &HeaderValue,
        believed: Forwarded,
    ) -> &'static str {
        match believed {
            Forwarded::Removed => {
                headers.reserve(4);
                headers.insert(FORWARDED, self.forwarded(authority));
                headers.insert(FOR, self.address.clone());
                headers.insert(PROTO, HeaderValue::from_static(self.scheme));
                headers.insert(HOST, authority.clone());
                self.scheme
            }
            Forwarded::Believed => self.sign_after(headers, authority),
        }
    }

    /// As a proxy after another: lists grow by us, and what the first proxy said of the client stays.
    fn sign_after(&self, headers: &mut HeaderMap, authority: &HeaderValue) -> &'static str {
        for (name, ours) in [
            (FOR, self.address.clone()),
            (FORWARDED, self.forwarded(authority)),
        ] {
            let joined = join(headers, &name, &ours);
            headers.insert(name, joined);
        }
        headers.entry(HOST).or_insert_with(|| authority.clone());
        let scheme = match headers.get(PROTO).map(HeaderValue::as_bytes) {
            Some(b"https") => "https",
            Some(_) => "http",
            None => self.scheme,
        };
        headers.insert(PROTO, HeaderValue::from_static(scheme));
        scheme
    }

    fn forwarded(&self, authority: &HeaderValue) -> HeaderValue {
        let mut last = self.last.borrow_mut();
        match &*last {
            Some((named, header)) if named == authority => header.clone(),
            _ => {
                let host = authority
                    .to_str()
                    .expect("the gate lets only ASCII through");
                let client = if self.text.contains(':') {
                    format!("\"[{}]\"", self.text)
                } else {
                    self.text.to_string()
                };
                let by = format!("for={client};host=\"{host}\";proto={}", self.scheme);
                let header = value(&by);
                *last = Some((authority.clone(), header.clone()));
                header
            }
        }
    }
}

fn join(headers: &HeaderMap, name: &HeaderName, ours: &HeaderValue) -> HeaderValue {
    let mut joined = Vec::new();
    for value in headers.get_all(name).iter().chain([ours]) {
        if !joined.is_empty() {
            joined.extend_from_slice(b", ");
        }
        joined.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_bytes(&joined).expect("header values joined by a comma are one")
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("addresses and hosts are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(client: &str, believed: Forwarded, before: &[(HeaderName, &str)], after: [&str; 5]) {
        let client = Client::new(client.parse().unwrap(), "http");
        for _ in 0..2 {
            let mut headers = HeaderMap::new();
            for (name, text) in before {
                headers.append(name, value(text));
            }
            let scheme = client.sign(&mut headers, &value("a.test:80"), believed);
            let header = |name| headers[name].to_str().unwrap();
            let found = [
                header(FORWARDED),
                header(FOR),
                header(PROTO),
                header(HOST),
                scheme,
            ];
            assert_eq!(found, after);
            assert_eq!(headers.len(), 4);
        }
    }

    #[test]
    fn the_guest_sees_the_client_as_the_platform_saw_it() {
        let v4 = "for=1.2.3.4;host=\"a.test:80\";proto=http";
        let v6 = "for=\"[::1]\";host=\"a.test:80\";proto=http";
        let removed = Forwarded::Removed;
        check(
            "1.2.3.4",
            removed,
            &[],
            [v4, "1.2.3.4", "http", "a.test:80", "http"],
        );
        check(
            "::ffff:1.2.3.4",
            removed,
            &[],
            [v4, "1.2.3.4", "http", "a.test:80", "http"],
        );
        check(
            "::1",
            removed,
            &[],
            [v6, "::1", "http", "a.test:80", "http"],
        );
    }

    #[test]
    fn behind_the_operators_proxy_the_first_word_stays() {
        check(
            "1.2.3.4",
            Forwarded::Believed,
            &[
                (FOR, "9.9.9.9"),
                (FOR, "8.8.8.8"),
                (PROTO, "https"),
                (HOST, "shop.test"),
                (FORWARDED, "for=9.9.9.9"),
            ],
            [
                "for=9.9.9.9, for=1.2.3.4;host=\"a.test:80\";proto=http",
                "9.9.9.9, 8.8.8.8, 1.2.3.4",
                "https",
                "shop.test",
                "https",
            ],
        );
        check(
            "1.2.3.4",
            Forwarded::Believed,
            &[(PROTO, "gopher")],
            [
                "for=1.2.3.4;host=\"a.test:80\";proto=http",
                "1.2.3.4",
                "http",
                "a.test:80",
                "http",
            ],
        );
    }
}
