//! Uploads, and the native code made from them, as the records keep them.

use std::collections::BTreeSet;

use model::pipe::Inspection;
use model::{BuildKey, Digest, TenantName, limits};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{RecordsError, integer, json, json_text, number, parsed};

/// The size of an upload, if the tenant has shown that it holds the bytes.
pub(crate) fn find(
    c: &Connection,
    tenant: &TenantName,
    digest: &Digest,
) -> Result<Option<u64>, RecordsError> {
    let mut ask =
        c.prepare_cached("SELECT bytes FROM uploads WHERE tenant = ?1 AND digest = ?2")?;
    let key = params![tenant.as_str(), digest.to_string()];
    Ok(ask.query_row(key, |row| number(row, "bytes")).optional()?)
}

/// Notes an upload; one that is known begins its grace anew.
pub(crate) fn add(
    t: &Transaction<'_>,
    tenant: &TenantName,
    digest: &Digest,
    bytes: u64,
    now_ms: u64,
) -> Result<(), RecordsError> {
    t.prepare_cached(
        "INSERT INTO uploads (tenant, digest, bytes, at_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET at_ms = ?4",
    )?
    .execute(params![
        tenant.as_str(),
        digest.to_string(),
        integer(bytes),
        integer(now_ms)
    ])?;
    Ok(())
}

/// What is known of an upload from having compiled it for `build`.
pub(crate) fn inspection(
    c: &Connection,
    wasm: &Digest,
    build: &BuildKey,
) -> Result<Option<Inspection>, RecordsError> {
    let mut ask =
        c.prepare_cached("SELECT inspection FROM natives WHERE wasm = ?1 AND build = ?2")?;
    let key = params![wasm.to_string(), build.to_string()];
    Ok(ask
        .query_row(key, |row| json(row, "inspection"))
        .optional()?)
}

pub(crate) fn set_inspection(
    t: &Transaction<'_>,
    wasm: &Digest,
    build: &BuildKey,
    inspection: &Inspection,
) -> Result<(), RecordsError> {
    t.prepare_cached(
        "INSERT OR REPLACE INTO natives (wasm, build, inspection) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![
        wasm.to_string(),
        build.to_string(),
        json_text(inspection)
    ])?;
    Ok(())
}

/// Forgets uploads that no version of their tenant names and whose grace is over, and what was known of them.
/// Returns every digest that is still wanted.
pub(crate) fn forget(t: &Transaction<'_>, now_ms: u64) -> Result<BTreeSet<Digest>, RecordsError> {
    let oldest = integer(now_ms.saturating_sub(limits::ARTIFACT_GRACE.default.0));
    t.execute(
        "DELETE FROM uploads WHERE at_ms <= ?1 AND NOT EXISTS (
            SELECT 1 FROM versions WHERE versions.tenant = uploads.tenant AND versions.wasm = uploads.digest)",
        [oldest],
    )?;
    t.execute(
        "DELETE FROM natives WHERE wasm NOT IN (SELECT digest FROM uploads UNION SELECT wasm FROM versions)",
        [],
    )?;
    let mut ask =
        t.prepare_cached("SELECT digest FROM uploads UNION SELECT wasm AS digest FROM versions")?;
    let rows = ask.query_map([], |row| parsed(row, "digest"))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether anyone still wants an artifact.
pub(crate) fn is_wanted(c: &Connection, digest: &Digest) -> Result<bool, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM uploads WHERE digest = ?1)
         OR EXISTS (SELECT 1 FROM versions WHERE wasm = ?1)",
    )?;
    Ok(ask.exists([digest.to_string()])?)
}
