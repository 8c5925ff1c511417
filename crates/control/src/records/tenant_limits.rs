//! Limits that tenants have of their own, as the records keep them.

use model::{LimitsRevision, OwnLimits, Size, TenantName};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{RecordsError, generations, integer, parsed, row};

/// The fact that the newest change of a tenant's limits is counted as.
const REVISION: &str = "limits-revision";

/// Every tenant that has any, with them.
pub(crate) fn all(c: &Connection) -> Result<Vec<(TenantName, OwnLimits)>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT * FROM tenant_limits")?;
    let rows = ask.query_map([], |row| Ok((parsed(row, "tenant")?, own(row)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What the tenant has of its own.
pub(crate) fn of(c: &Connection, tenant: &TenantName) -> Result<OwnLimits, RecordsError> {
    let mut ask = c.prepare_cached("SELECT * FROM tenant_limits WHERE tenant = ?1")?;
    let found = ask.query_row([tenant.as_str()], own).optional()?;
    Ok(found.unwrap_or_default())
}

/// The newest change of any tenant's; 0 before the first.
pub(crate) fn revision(c: &Connection) -> Result<LimitsRevision, RecordsError> {
    generations::counted(c, REVISION)
}

/// Counts a change; its number.
pub(crate) fn next_revision(t: &Transaction<'_>) -> Result<LimitsRevision, RecordsError> {
    generations::count(t, REVISION)
}

/// Gives the tenant these, and no others, of its own.
pub(crate) fn put(
    t: &Transaction<'_>,
    tenant: &TenantName,
    own: OwnLimits,
) -> Result<(), RecordsError> {
    if own == OwnLimits::default() {
        return delete(t, tenant);
    }
    t.prepare_cached(
        "INSERT OR REPLACE INTO tenant_limits (tenant, apps, slots, kv_store) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        tenant.as_str(),
        own.apps.map(integer),
        own.slots.map(integer),
        own.kv_store.map(|size| integer(size.bytes())),
    ])?;
    Ok(())
}

pub(crate) fn delete(t: &Transaction<'_>, tenant: &TenantName) -> Result<(), RecordsError> {
    t.prepare_cached("DELETE FROM tenant_limits WHERE tenant = ?1")?
        .execute([tenant.as_str()])?;
    Ok(())
}

fn own(row: &Row<'_>) -> rusqlite::Result<OwnLimits> {
    Ok(OwnLimits {
        apps: row::optional(row, "apps")?,
        slots: row::optional(row, "slots")?,
        kv_store: row::optional(row, "kv_store")?.map(Size),
    })
}
