//! Which hosts a tenant's certificate may name, and for which it is shown. No records, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::api::CertificateSummary;
use model::{AppId, CertificateName, Host, TenantName};

use super::CertificateError;
use crate::routes;

/// The host that a tenant's certificate names in full; none if it is a `*` with what follows.
///
/// # Errors
/// If no app of the tenant's can have such a host.
pub(super) fn check_name(
    tenant: &TenantName,
    name: &str,
    domain: &Host,
) -> Result<Option<Host>, CertificateError> {
    let wild = name.strip_prefix("*.");
    let host: Host = wild
        .unwrap_or(name)
        .parse()
        .map_err(|_| CertificateError::NoHost(name.escape_default().to_string()))?;
    if routes::is_internal(&host) {
        return Err(CertificateError::Internal(name.to_owned()));
    }
    let own = |app: &str| {
        let id = AppId::new(tenant.clone(), app.parse().ok()?);
        routes::own_host(&id, domain).ok()
    };
    let label = name.split('.').next().unwrap_or_default();
    let is_own = wild.is_none() && own(label).as_ref() == Some(&host);
    if host.is_within(domain) && !is_own {
        let own = own("app").map_or_else(|| format!("app.{domain}"), |own| own.to_string());
        return Err(CertificateError::Reserved {
            name: name.to_owned(),
            domain: domain.clone(),
            own,
        });
    }
    Ok(wild.is_none().then_some(host))
}

/// Which of a tenant's certificates is shown for which of its apps' hosts: one that names the host in full before one with
/// a `*`, and of those the one that ends last.
pub(super) fn shown(
    all: &[CertificateSummary],
    hosts: &BTreeSet<Host>,
) -> BTreeMap<CertificateName, Vec<Host>> {
    let mut best: HashMap<&str, &CertificateSummary> = HashMap::new();
    for certificate in all {
        for name in &certificate.hosts {
            let best = best.entry(name).or_insert(certificate);
            if certificate.not_after_ms > best.not_after_ms {
                *best = certificate;
            }
        }
    }
    let mut shown: BTreeMap<CertificateName, Vec<Host>> = BTreeMap::new();
    for host in hosts {
        let (_, rest) = host.as_str().split_once('.').unwrap_or_default();
        let exact = best.get(host.as_str());
        let found = exact.or_else(|| best.get(format!("*.{rest}").as_str()));
        if let Some(certificate) = found {
            let hosts = shown.entry(certificate.name.clone()).or_default();
            hosts.push(host.clone());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use model::Digest;

    use super::*;

    #[test]
    fn a_tenant_may_name_hosts_that_its_apps_can_have_and_no_others() {
        let domain: Host = "midge.example".parse().unwrap();
        let check = |tenant: &str, name: &str, expected: &str| {
            let found = match check_name(&tenant.parse().unwrap(), name, &domain) {
                Ok(Some(host)) => host.to_string(),
                Ok(None) => "any".to_owned(),
                Err(error) => error.to_string(),
            };
            let fits = found.contains(expected);
            assert!(fits, "{tenant} {name}: {found}\nis not\n{expected}");
        };
        check("alice", "shop.com", "shop.com");
        check("alice", "*.shop.com", "any");
        check(
            "alice",
            "shop.alice.midge.example",
            "shop.alice.midge.example",
        );
        check("default", "shop.midge.example", "shop.midge.example");
        let reserved = "lies within the platform's domain";
        for name in [
            "midge.example",
            "*.midge.example",
            "*.alice.midge.example",
            "alice.midge.example",
            "shop.bob.midge.example",
            "a.shop.alice.midge.example",
            "-.alice.midge.example",
        ] {
            let expected = match name {
                "-.alice.midge.example" => "is not a host",
                _ => reserved,
            };
            check("alice", name, expected);
        }
        check(
            "alice",
            "shop.midge.example",
            "such as `app.alice.midge.example`",
        );
        check("default", "*.midge.example", reserved);
        check(
            "default",
            "shop.alice.midge.example",
            "such as `app.midge.example`",
        );
        check("alice", "notmidge.example", "notmidge.example");
        check("alice", "x.app.internal", "inside the platform");
        check("alice", "*.internal", "inside the platform");
        for name in [
            "*",
            "a.*.b",
            "**.a",
            "*a.b",
            "a b",
            "",
            "1.2.3.4:5",
            "é.com",
        ] {
            check("alice", name, "is not a host");
        }
    }

    #[test]
    fn a_host_is_shown_what_names_it_best() {
        let certificate = |name: &str, hosts: &[&str], ends| CertificateSummary {
            name: name.parse().unwrap(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            shown_for: Vec::new(),
            not_before_ms: 0,
            not_after_ms: ends,
            fingerprint: Digest::of(name.as_bytes()),
            created_ms: 0,
        };
        let all = [
            certificate("a", &["shop.com", "*.shop.com"], 10),
            certificate("b", &["*.shop.com", "cart.shop.com"], 20),
            certificate("c", &["cart.shop.com", "other.com"], 15),
        ];
        let check = |host: &str, expected: Option<&str>| {
            let hosts = BTreeSet::from([host.parse().unwrap()]);
            let found: Vec<_> = shown(&all, &hosts).into_keys().collect();
            let found = found.first().map(CertificateName::as_str);
            assert_eq!(found, expected, "{host}");
        };
        check("shop.com", Some("a"));
        check("cart.shop.com", Some("b"));
        check("more.shop.com", Some("b"));
        check("a.more.shop.com", None);
        check("other.com", Some("c"));
        check("third.com", None);
        check("com", None);
    }
}
