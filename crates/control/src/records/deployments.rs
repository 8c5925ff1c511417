//! Deployments, as the records keep them: an app's history, newest first.

use model::{AppId, Deployment, Revision, VersionNumber, limits};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{RecordsError, integer, json, json_text, number, row};

pub(crate) fn list(c: &Connection, id: &AppId) -> Result<Vec<Deployment>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT * FROM deployments WHERE tenant = ?1 AND app = ?2 ORDER BY revision DESC LIMIT ?3",
    )?;
    let rows = ask.query_map(
        params![
            id.tenant.as_str(),
            id.app.as_str(),
            integer(limits::DEPLOYMENTS_KEPT.default)
        ],
        deployment,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn find(
    c: &Connection,
    id: &AppId,
    revision: Revision,
) -> Result<Option<Deployment>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT * FROM deployments WHERE tenant = ?1 AND app = ?2 AND revision = ?3",
    )?;
    let key = params![id.tenant.as_str(), id.app.as_str(), integer(revision)];
    Ok(ask.query_row(key, deployment).optional()?)
}

/// The version that was served before `present`: the newest of the history that is another one and still kept.
pub(crate) fn before(
    c: &Connection,
    id: &AppId,
    present: VersionNumber,
) -> Result<Option<VersionNumber>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT version FROM deployments AS d WHERE tenant = ?1 AND app = ?2 AND version <> ?3 AND EXISTS (
            SELECT 1 FROM versions AS v WHERE v.tenant = d.tenant AND v.app = d.app AND v.number = d.version)
         ORDER BY revision DESC LIMIT 1",
    )?;
    let key = params![id.tenant.as_str(), id.app.as_str(), present.as_u32()];
    let found = ask.query_row(key, |row| row::version(row, "version"));
    Ok(found.optional()?.flatten())
}

/// When every app of a tenant (or of all) was last deployed, by app.
pub(crate) fn newest(
    c: &Connection,
    tenant: Option<&model::TenantName>,
) -> Result<std::collections::BTreeMap<AppId, u64>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT d.tenant AS tenant, d.app AS app, d.at_ms AS at_ms FROM apps AS a
         JOIN deployments AS d ON d.tenant = a.tenant AND d.app = a.name AND d.revision = a.revision
         WHERE a.deleted = 0 AND (?1 IS NULL OR a.tenant = ?1)",
    )?;
    let rows = ask.query_map([tenant.map(model::TenantName::as_str)], |row| {
        Ok((super::apps::id(row, "app")?, number(row, "at_ms")?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Appends to the history, and forgets what is older than it shows.
pub(crate) fn add(
    t: &Transaction<'_>,
    id: &AppId,
    deployment: &Deployment,
) -> Result<(), RecordsError> {
    t.prepare_cached(
        "INSERT INTO deployments (tenant, app, revision, version, cause, generation, at_ms, made_by)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        id.tenant.as_str(),
        id.app.as_str(),
        integer(deployment.revision),
        deployment.version.as_u32(),
        json_text(&deployment.cause),
        integer(deployment.generation),
        integer(deployment.at_ms),
        deployment.by,
    ])?;
    let oldest = deployment
        .revision
        .saturating_sub(limits::DEPLOYMENTS_KEPT.default);
    t.prepare_cached("DELETE FROM deployments WHERE tenant = ?1 AND app = ?2 AND revision <= ?3")?
        .execute(params![
            id.tenant.as_str(),
            id.app.as_str(),
            integer(oldest)
        ])?;
    Ok(())
}

fn deployment(row: &Row<'_>) -> rusqlite::Result<Deployment> {
    Ok(Deployment {
        revision: number(row, "revision")?,
        version: row::version(row, "version")?.ok_or(rusqlite::Error::InvalidQuery)?,
        cause: json(row, "cause")?,
        generation: number(row, "generation")?,
        at_ms: number(row, "at_ms")?,
        by: row.get("made_by")?,
    })
}
