//! Tenants' certificates, as the records keep them: their keys sealed.

use model::api::CertificateSummary;
use model::{CertificateName, TenantName};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{RecordsError, integer, json, json_text, number, parsed};

/// A certificate of a tenant.
pub(crate) struct Kept {
    /// Shown for nothing yet: the routes say what for.
    pub summary: CertificateSummary,
    pub chain: String,
    /// Sealed.
    pub key: Vec<u8>,
}

/// Every certificate of a tenant, by name.
pub(crate) fn of(c: &Connection, tenant: &TenantName) -> Result<Vec<Kept>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT * FROM certificates WHERE tenant = ?1 ORDER BY name")?;
    let rows = ask.query_map([tenant.as_str()], kept)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every tenant that has certificates.
pub(crate) fn tenants(c: &Connection) -> Result<Vec<TenantName>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT DISTINCT tenant FROM certificates ORDER BY tenant")?;
    let rows = ask.query_map([], |row| parsed(row, "tenant"))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Those that ended after `after_ms`, and not after `until_ms`.
pub(crate) fn ended(
    c: &Connection,
    after_ms: u64,
    until_ms: u64,
) -> Result<Vec<(TenantName, CertificateSummary)>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT * FROM certificates WHERE not_after_ms > ?1 AND not_after_ms <= ?2
         ORDER BY tenant, name",
    )?;
    let between = params![integer(after_ms), integer(until_ms)];
    let rows = ask.query_map(between, |row| {
        Ok((parsed(row, "tenant")?, kept(row)?.summary))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many certificates a tenant has, or all tenants have.
pub(crate) fn count(c: &Connection, tenant: Option<&TenantName>) -> Result<u64, RecordsError> {
    let mut ask =
        c.prepare_cached("SELECT count(*) AS n FROM certificates WHERE ?1 IS NULL OR tenant = ?1")?;
    let key = [tenant.map(TenantName::as_str)];
    Ok(ask.query_row(key, |row| number(row, "n"))?)
}

pub(crate) fn exists(
    c: &Connection,
    tenant: &TenantName,
    name: &CertificateName,
) -> Result<bool, RecordsError> {
    let mut ask = c.prepare_cached("SELECT 1 FROM certificates WHERE tenant = ?1 AND name = ?2")?;
    let found = ask.query_row([tenant.as_str(), name.as_str()], |_| Ok(()));
    Ok(found.optional()?.is_some())
}

/// Keeps a certificate, in the place of the one of its name if there is one.
pub(crate) fn put(
    t: &Transaction<'_>,
    tenant: &TenantName,
    kept: &Kept,
    created_by: &str,
) -> Result<(), RecordsError> {
    let summary = &kept.summary;
    t.prepare_cached(
        "INSERT OR REPLACE INTO certificates
         (tenant, name, hosts, chain, key, fingerprint, not_before_ms, not_after_ms, created_ms, created_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        tenant.as_str(),
        summary.name.as_str(),
        json_text(&summary.hosts),
        kept.chain,
        kept.key,
        summary.fingerprint.to_string(),
        integer(summary.not_before_ms),
        integer(summary.not_after_ms),
        integer(summary.created_ms),
        created_by,
    ])?;
    Ok(())
}

/// Whether there was one.
pub(crate) fn delete(
    t: &Transaction<'_>,
    tenant: &TenantName,
    name: &CertificateName,
) -> Result<bool, RecordsError> {
    let mut change =
        t.prepare_cached("DELETE FROM certificates WHERE tenant = ?1 AND name = ?2")?;
    Ok(change.execute([tenant.as_str(), name.as_str()])? > 0)
}

fn kept(row: &Row<'_>) -> rusqlite::Result<Kept> {
    Ok(Kept {
        summary: CertificateSummary {
            name: parsed(row, "name")?,
            hosts: json(row, "hosts")?,
            shown_for: Vec::new(),
            not_before_ms: number(row, "not_before_ms")?,
            not_after_ms: number(row, "not_after_ms")?,
            fingerprint: parsed(row, "fingerprint")?,
            created_ms: number(row, "created_ms")?,
        },
        chain: row.get("chain")?,
        key: row.get("key")?,
    })
}
