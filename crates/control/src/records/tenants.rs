//! Tenants, as the records keep them: their names.

use model::TenantName;
use rusqlite::{Connection, Transaction};

use super::{RecordsError, number, parsed};

/// Every tenant, by name.
pub(crate) fn list(c: &Connection) -> Result<Vec<TenantName>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT name FROM tenants ORDER BY name")?;
    let rows = ask.query_map([], |row| parsed(row, "name"))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn exists(c: &Connection, tenant: &TenantName) -> Result<bool, RecordsError> {
    let mut ask = c.prepare_cached("SELECT 1 FROM tenants WHERE name = ?1")?;
    Ok(ask.exists([tenant.as_str()])?)
}

pub(crate) fn count(c: &Connection) -> Result<u64, RecordsError> {
    let mut ask = c.prepare_cached("SELECT count(*) AS n FROM tenants")?;
    Ok(ask.query_row([], |row| number(row, "n"))?)
}

pub(crate) fn add(t: &Transaction<'_>, tenant: &TenantName) -> Result<(), RecordsError> {
    t.prepare_cached("INSERT INTO tenants (name) VALUES (?1)")?
        .execute([tenant.as_str()])?;
    Ok(())
}
