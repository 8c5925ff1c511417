//! Tenants, as the records keep them: their names, and which were deleted.

use model::TenantName;
use rusqlite::{Connection, Transaction};

use super::{RecordsError, number, parsed};

/// Every tenant, by name.
pub(crate) fn list(c: &Connection) -> Result<Vec<TenantName>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT name FROM tenants WHERE name NOT IN (SELECT name FROM deleted_tenants) ORDER BY name",
    )?;
    let rows = ask.query_map([], |row| parsed(row, "name"))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn exists(c: &Connection, tenant: &TenantName) -> Result<bool, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT 1 FROM tenants WHERE name = ?1 AND name NOT IN (SELECT name FROM deleted_tenants)",
    )?;
    Ok(ask.exists([tenant.as_str()])?)
}

pub(crate) fn count(c: &Connection) -> Result<u64, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT (SELECT count(*) FROM tenants) - (SELECT count(*) FROM deleted_tenants) AS n",
    )?;
    Ok(ask.query_row([], |row| number(row, "n"))?)
}

pub(crate) fn add(t: &Transaction<'_>, tenant: &TenantName) -> Result<(), RecordsError> {
    for sql in [
        "INSERT INTO tenants (name) VALUES (?1) ON CONFLICT DO NOTHING",
        "DELETE FROM deleted_tenants WHERE name = ?1",
    ] {
        t.prepare_cached(sql)?.execute([tenant.as_str()])?;
    }
    Ok(())
}

/// Deletes a tenant that has no app any longer, with all else that is its own.
pub(crate) fn delete(
    t: &Transaction<'_>,
    tenant: &TenantName,
    now_ms: u64,
) -> Result<(), RecordsError> {
    super::tokens::revoke_of(t, tenant, now_ms)?;
    super::tenant_limits::delete(t, tenant)?;
    for sql in [
        "DELETE FROM certificates WHERE tenant = ?1",
        "DELETE FROM secrets WHERE tenant = ?1",
        "DELETE FROM uploads WHERE tenant = ?1",
        "INSERT INTO deleted_tenants (name) VALUES (?1)",
    ] {
        t.prepare_cached(sql)?.execute([tenant.as_str()])?;
    }
    super::incarnations::end(t, tenant, None)
}
