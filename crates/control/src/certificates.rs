//! Tenants' certificates: which a tenant may bring, how they are kept, and for which hosts nodes show them.
//!
//! A certificate is shown for hosts of its tenant's own apps and for no others, whatever else it names: so none takes
//! another tenant's host over, whoever was first. [Why nodes get them as they do](../../../docs/decisions/certificates.md).

mod hosts;
mod serving;

use model::api::{CertificateSummary, NewCertificate};
use model::{CertificateName, Digest, Host, TenantName, limits};
use rusqlite::Connection;

use crate::certificate::{Named, Unusable, judge};
use crate::control::Platform;
use crate::keys::Keys;
use crate::records::certificates::{self as records, Kept};
use crate::records::{RecordsError, apps, tenants};
use hosts::{check_name, shown};

#[cfg(test)]
pub(crate) use serving::tell_ended_since;
pub(crate) use serving::{Certificates, tell_ended};

/// Why a certificate was not taken, or is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("the certificate names {found} hosts; it may name {most}")]
    TooManyHosts { found: usize, most: u64 },
    #[error("the certificate names `{0}`, which is not a host")]
    NoHost(String),
    #[error(
        "the certificate names `{name}`, which lies within the platform's domain `{domain}`: there a tenant's may name the hosts of its own apps, each in full, such as `{own}`"
    )]
    Reserved {
        name: String,
        domain: Host,
        own: String,
    },
    #[error("the certificate names `{0}`, which is for calls inside the platform")]
    Internal(String),
    #[error(
        "the certificate names `{0}`, a host that another tenant's app has; bring one without it"
    )]
    TakenByOther(Host),
    #[error("the tenant has {0} certificates, and may have no more; delete one first")]
    TooMany(u64),
    #[error("the tenants of this platform have {0} certificates together, and may have no more")]
    TooManyInAll(u64),
    #[error("there is no tenant `{0}`")]
    NoTenant(TenantName),
    #[error("`{tenant}` has no certificate `{name}`")]
    NoCertificate {
        tenant: TenantName,
        name: CertificateName,
    },
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
    #[error("the certificate could not be looked at")]
    Interrupted,
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Takes a certificate, in the place of the tenant's one of this name; the second answer is whether there was none.
pub(crate) async fn set(
    platform: &Platform,
    tenant: TenantName,
    name: CertificateName,
    new: NewCertificate,
    by: String,
) -> Result<(CertificateSummary, bool), CertificateError> {
    let now_ms = platform.now();
    let (keys, domain) = (platform.keys.clone(), platform.settings.domain.clone());
    let (whose, called) = (tenant.clone(), name.clone());
    // A long chain or a large RSA key takes a while.
    let judging =
        tokio::task::spawn_blocking(move || take(&whose, called, &new, &domain, now_ms, &keys));
    let (hosts, kept) = judging.await.map_err(|_| CertificateError::Interrupted)??;
    let whose = tenant.clone();
    let is_new = platform
        .records
        .write(move |t| {
            if !tenants::exists(t, &whose)? {
                return Err(CertificateError::NoTenant(whose));
            }
            for host in hosts {
                let claimed = apps::on_host(t, &host)?;
                if claimed.iter().any(|claimed| claimed.id.tenant != whose) {
                    return Err(CertificateError::TakenByOther(host));
                }
            }
            let is_new = !records::exists(t, &whose, &kept.summary.name)?;
            if is_new {
                check_room(t, &whose)?;
            }
            records::put(t, &whose, &kept, &by)?;
            Ok(is_new)
        })
        .await?;
    platform.certificates.changed(&tenant);
    let all = list(platform, tenant.clone()).await?;
    let found = all.into_iter().find(|summary| summary.name == name);
    // Somebody may have deleted it just now.
    let found = found.ok_or(CertificateError::NoCertificate { tenant, name })?;
    Ok((found, is_new))
}

/// A tenant's certificates, by name.
pub(crate) async fn list(
    platform: &Platform,
    tenant: TenantName,
) -> Result<Vec<CertificateSummary>, CertificateError> {
    platform
        .records
        .read(move |c| {
            if !tenants::exists(c, &tenant)? {
                return Err(CertificateError::NoTenant(tenant));
            }
            let all = records::of(c, &tenant)?;
            let mut all: Vec<_> = all.into_iter().map(|kept| kept.summary).collect();
            let mut shown = shown(&all, &apps::hosts(c, &tenant)?);
            for summary in &mut all {
                summary.shown_for = shown.remove(&summary.name).unwrap_or_default();
            }
            Ok(all)
        })
        .await
}

/// Forgets a certificate: new connections are not shown it any longer.
pub(crate) async fn delete(
    platform: &Platform,
    tenant: TenantName,
    name: CertificateName,
) -> Result<(), CertificateError> {
    let whose = tenant.clone();
    platform
        .records
        .write(move |t| {
            if records::delete(t, &whose, &name)? {
                return Ok(());
            }
            let tenant = whose;
            Err(CertificateError::NoCertificate { tenant, name })
        })
        .await?;
    platform.certificates.changed(&tenant);
    Ok(())
}

/// What is kept of a certificate that may be brought, and the hosts that nobody else may have.
fn take(
    tenant: &TenantName,
    name: CertificateName,
    new: &NewCertificate,
    domain: &Host,
    now_ms: u64,
    keys: &Keys,
) -> Result<(Vec<Host>, Kept), CertificateError> {
    let [chain, key] = ["chain", "key"];
    // Before anything else looks at them.
    for (name, text) in [(chain, &new.chain), (key, &new.key)] {
        if text.len() > limits::CERTIFICATE.default.as_usize() {
            let name = name.to_owned();
            return Err(Unusable::TooLarge { name }.into());
        }
    }
    let certificates = certificates_in(&new.chain);
    let named = |name, text| Named { name, text };
    let judged = judge(named(chain, &certificates), named(key, &new.key))?;
    if let Some(unusable) = judged.out_of_time(chain, integer_ms(now_ms)) {
        return Err(unusable.into());
    }
    let most = limits::CERTIFICATE_HOSTS.default;
    if judged.names.len() as u64 > most {
        let found = judged.names.len();
        return Err(CertificateError::TooManyHosts { found, most });
    }
    let mut hosts = Vec::new();
    for name in &judged.names {
        hosts.extend(check_name(tenant, name, domain)?);
    }
    let place = place(tenant, &name, &judged.fingerprint);
    let sealed = keys.secrets.seal(&place, new.key.as_bytes());
    let summary = CertificateSummary {
        name,
        hosts: judged.names,
        shown_for: Vec::new(),
        not_before_ms: u64::try_from(judged.begins_ms).unwrap_or(0),
        not_after_ms: u64::try_from(judged.ends_ms).unwrap_or(0),
        fingerprint: judged.fingerprint,
        created_ms: now_ms,
    };
    let kept = Kept {
        summary,
        chain: certificates,
        key: sealed.map_err(CertificateError::Random)?,
    };
    Ok((hosts, kept))
}

/// The certificates of a text and nothing else of it: a key that lies beside them is not to be kept in the clear.
fn certificates_in(text: &str) -> String {
    let mut found = String::new();
    let mut within = false;
    for line in text.lines().map(str::trim_end) {
        within |= line == "-----BEGIN CERTIFICATE-----";
        if within {
            found.push_str(line);
            found.push('\n');
        }
        within &= line != "-----END CERTIFICATE-----";
    }
    found
}

fn check_room(c: &Connection, tenant: &TenantName) -> Result<(), CertificateError> {
    let most = limits::CERTIFICATES_TENANT.default;
    if records::count(c, Some(tenant))? >= most {
        return Err(CertificateError::TooMany(most));
    }
    let most = limits::CERTIFICATES_TENANTS.default;
    if records::count(c, None)? >= most {
        return Err(CertificateError::TooManyInAll(most));
    }
    Ok(())
}

/// What a sealed key is bound to: it opens nowhere else.
fn place(tenant: &TenantName, name: &CertificateName, fingerprint: &Digest) -> String {
    format!("certificate {tenant}/{name} {fingerprint}")
}

fn integer_ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_chain_the_certificates_alone_are_kept() {
        let one = "-----BEGIN CERTIFICATE-----\nb25l\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        let check = |text: String, expected: String| {
            assert_eq!(certificates_in(&text), expected, "{text}");
        };
        check(one.into(), one.into());
        check(format!("{key}{one}"), one.into());
        check(
            format!("{one}subject = a\n{key}{one}"),
            format!("{one}{one}"),
        );
        check(format!("{one}{key}").replace('\n', "\r\n"), one.into());
        check(key.into(), String::new());
        check(String::new(), String::new());
    }
}
