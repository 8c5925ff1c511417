//! Secrets of tenants, as the records keep them: sealed.

use model::{SecretId, SecretName, SecretsRevision, Size, TenantName};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{RecordsError, generations, integer, number, parsed};

/// The fact that the newest change of a secret is counted as.
const REVISION: &str = "secrets-revision";

/// A secret of a tenant.
pub(crate) struct Kept {
    pub id: SecretId,
    /// The change that set it.
    pub revision: SecretsRevision,
    /// Sealed.
    pub value: Vec<u8>,
    /// Of what is sealed.
    pub bytes: u64,
    pub set_ms: u64,
}

/// What lists show of a secret.
pub(crate) struct Listed {
    pub name: SecretName,
    pub revision: SecretsRevision,
    pub set_ms: u64,
}

/// Every secret of every tenant.
pub(crate) fn all(c: &Connection) -> Result<Vec<Kept>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT * FROM secrets")?;
    let rows = ask.query_map([], kept)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A tenant's, by name.
pub(crate) fn of(c: &Connection, tenant: &TenantName) -> Result<Vec<Listed>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT name, revision, set_ms FROM secrets WHERE tenant = ?1 ORDER BY name",
    )?;
    let rows = ask.query_map([tenant.as_str()], listed)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn find(c: &Connection, id: &SecretId) -> Result<Option<Listed>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT name, revision, set_ms FROM secrets WHERE tenant = ?1 AND name = ?2",
    )?;
    let key = [id.tenant.as_str(), id.name.as_str()];
    Ok(ask.query_row(key, listed).optional()?)
}

/// How many secrets there are, and what their values have together: of this tenant, or of all.
pub(crate) fn usage(
    c: &Connection,
    tenant: Option<&TenantName>,
) -> Result<(u64, Size), RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT count(*) AS n, coalesce(sum(bytes), 0) AS bytes FROM secrets
         WHERE ?1 IS NULL OR tenant = ?1",
    )?;
    let key = [tenant.map(TenantName::as_str)];
    Ok(ask.query_row(key, |row| {
        Ok((number(row, "n")?, Size(number(row, "bytes")?)))
    })?)
}

/// The newest change of any secret; 0 before the first.
pub(crate) fn revision(c: &Connection) -> Result<SecretsRevision, RecordsError> {
    generations::counted(c, REVISION)
}

/// Counts a change; its number.
pub(crate) fn next_revision(t: &Transaction<'_>) -> Result<SecretsRevision, RecordsError> {
    generations::count(t, REVISION)
}

/// Keeps a secret, in the place of the one of its name if there is one.
pub(crate) fn put(t: &Transaction<'_>, kept: &Kept, set_by: &str) -> Result<(), RecordsError> {
    t.prepare_cached(
        "INSERT OR REPLACE INTO secrets (tenant, name, revision, value, bytes, set_ms, set_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        kept.id.tenant.as_str(),
        kept.id.name.as_str(),
        integer(kept.revision),
        kept.value,
        integer(kept.bytes),
        integer(kept.set_ms),
        set_by,
    ])?;
    Ok(())
}

pub(crate) fn delete(t: &Transaction<'_>, id: &SecretId) -> Result<(), RecordsError> {
    t.prepare_cached("DELETE FROM secrets WHERE tenant = ?1 AND name = ?2")?
        .execute([id.tenant.as_str(), id.name.as_str()])?;
    Ok(())
}

fn kept(row: &Row<'_>) -> rusqlite::Result<Kept> {
    Ok(Kept {
        id: SecretId {
            tenant: parsed(row, "tenant")?,
            name: parsed(row, "name")?,
        },
        revision: number(row, "revision")?,
        value: row.get("value")?,
        bytes: number(row, "bytes")?,
        set_ms: number(row, "set_ms")?,
    })
}

fn listed(row: &Row<'_>) -> rusqlite::Result<Listed> {
    Ok(Listed {
        name: parsed(row, "name")?,
        revision: number(row, "revision")?,
        set_ms: number(row, "set_ms")?,
    })
}
