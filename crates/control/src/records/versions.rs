//! Versions, as the records keep them: written once, read, and at last forgotten. Nothing changes one.

use model::{AppId, Digest, Version, VersionNumber};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{RecordsError, integer, json, json_text, number, parsed, row};

pub(crate) fn find(
    c: &Connection,
    id: &AppId,
    number: VersionNumber,
) -> Result<Option<Version>, RecordsError> {
    let mut ask =
        c.prepare_cached("SELECT * FROM versions WHERE tenant = ?1 AND app = ?2 AND number = ?3")?;
    let key = params![id.tenant.as_str(), id.app.as_str(), number.as_u32()];
    Ok(ask.query_row(key, version).optional()?)
}

/// The versions of an app, newest first.
pub(crate) fn list(c: &Connection, id: &AppId) -> Result<Vec<Version>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT * FROM versions WHERE tenant = ?1 AND app = ?2 ORDER BY number DESC",
    )?;
    let rows = ask.query_map(params![id.tenant.as_str(), id.app.as_str()], version)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn add(t: &Transaction<'_>, id: &AppId, version: &Version) -> Result<(), RecordsError> {
    let mut change = t.prepare_cached(
        "INSERT INTO versions (tenant, app, number, manifest, wasm, wasm_bytes, kind, imports, created_ms, created_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    change.execute(params![
        id.tenant.as_str(),
        id.app.as_str(),
        version.number.as_u32(),
        json_text(&version.manifest),
        version.wasm.to_string(),
        integer(version.wasm_bytes),
        json_text(&version.kind),
        json_text(&version.imports),
        integer(version.created_ms),
        version.created_by,
    ])?;
    Ok(())
}

/// Forgets all but the `kept` newest of an app, what is served, and what was served before it.
pub(crate) fn retain(
    t: &Transaction<'_>,
    id: &AppId,
    kept: u64,
    served: &[VersionNumber],
) -> Result<(), RecordsError> {
    let mut change = t.prepare_cached(
        "DELETE FROM versions WHERE tenant = ?1 AND app = ?2 AND number NOT IN (?3, ?4) AND number <= (
            SELECT number FROM versions WHERE tenant = ?1 AND app = ?2 ORDER BY number DESC LIMIT 1 OFFSET ?5)",
    )?;
    let at = |i: usize| served.get(i).map_or(0, |number| number.as_u32());
    change.execute(params![
        id.tenant.as_str(),
        id.app.as_str(),
        at(0),
        at(1),
        integer(kept)
    ])?;
    Ok(())
}

/// What every app serves now, with the revision that says so.
pub(crate) fn served(c: &Connection) -> Result<Vec<(AppId, u64, Version)>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT versions.*, apps.revision AS revision FROM apps
         JOIN versions ON versions.tenant = apps.tenant AND versions.app = apps.name AND versions.number = apps.version",
    )?;
    let rows = ask.query_map([], |row| {
        Ok((
            super::apps::id(row, "app")?,
            number(row, "revision")?,
            version(row)?,
        ))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every upload that a version names, those that are served now first.
pub(crate) fn wasms(c: &Connection) -> Result<Vec<Digest>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT versions.wasm AS wasm, max(apps.version IS versions.number) AS served FROM versions
         JOIN apps ON versions.tenant = apps.tenant AND versions.app = apps.name
         GROUP BY versions.wasm ORDER BY served DESC",
    )?;
    let rows = ask.query_map([], |row| parsed(row, "wasm"))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The uploads that are served now.
pub(crate) fn served_wasms(c: &Connection) -> Result<Vec<Digest>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT DISTINCT versions.wasm AS wasm FROM versions
         JOIN apps ON versions.tenant = apps.tenant AND versions.app = apps.name AND apps.version = versions.number",
    )?;
    let rows = ask.query_map([], |row| parsed(row, "wasm"))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn version(row: &Row<'_>) -> rusqlite::Result<Version> {
    let number = row::version(row, "number")?.ok_or(rusqlite::Error::InvalidQuery)?;
    Ok(Version {
        number,
        manifest: json(row, "manifest")?,
        wasm: parsed(row, "wasm")?,
        wasm_bytes: super::number(row, "wasm_bytes")?,
        kind: json(row, "kind")?,
        imports: json(row, "imports")?,
        created_ms: super::number(row, "created_ms")?,
        created_by: row.get("created_by")?,
    })
}
