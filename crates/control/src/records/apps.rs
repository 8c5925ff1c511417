//! Apps and their routes, as the records keep them.

use std::collections::{BTreeMap, BTreeSet};

use model::{AppId, AppName, Host, PathPrefix, Revision, Route, TenantName, VersionNumber};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{RecordsError, incarnations, integer, number, parsed, row};

/// An app: its counters and its pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct App {
    pub id: AppId,
    /// The number of its newest version, of all that it ever had.
    pub latest: VersionNumber,
    /// The newest revision it ever had, also if nothing is served now.
    pub revision: Revision,
    /// What is served now.
    pub version: Option<VersionNumber>,
}

impl App {
    /// What `expect` is compared with: 0 if nothing is served.
    pub fn present(&self) -> Revision {
        if self.version.is_some() {
            self.revision
        } else {
            0
        }
    }
}

/// A route and the app that has it.
pub(crate) struct Claimed {
    pub id: AppId,
    pub route: Route,
}

/// The app, unless there is none or it was deleted.
pub(crate) fn find(c: &Connection, id: &AppId) -> Result<Option<App>, RecordsError> {
    let mut ask =
        c.prepare_cached("SELECT * FROM apps WHERE tenant = ?1 AND name = ?2 AND deleted = 0")?;
    let key = params![id.tenant.as_str(), id.app.as_str()];
    Ok(ask.query_row(key, app).optional()?)
}

/// Every app of a tenant, or of all.
pub(crate) fn list(c: &Connection, tenant: Option<&TenantName>) -> Result<Vec<App>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT * FROM apps WHERE deleted = 0 AND (?1 IS NULL OR tenant = ?1) ORDER BY tenant, name",
    )?;
    let rows = ask.query_map([tenant.map(TenantName::as_str)], app)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn count(c: &Connection) -> Result<u64, RecordsError> {
    let mut ask = c.prepare_cached("SELECT count(*) AS n FROM apps WHERE deleted = 0")?;
    Ok(ask.query_row([], |row| number(row, "n"))?)
}

/// How many a tenant has.
pub(crate) fn count_of(c: &Connection, tenant: &TenantName) -> Result<u64, RecordsError> {
    let mut ask =
        c.prepare_cached("SELECT count(*) AS n FROM apps WHERE tenant = ?1 AND deleted = 0")?;
    Ok(ask.query_row([tenant.as_str()], |row| number(row, "n"))?)
}

/// Makes the app if there is none, and takes the next number for a version of it.
pub(crate) fn next_version(t: &Transaction<'_>, id: &AppId) -> Result<VersionNumber, RecordsError> {
    let mut change = t.prepare_cached(
        "INSERT INTO apps (tenant, name, latest, revision) VALUES (?1, ?2, 1, 0)
         ON CONFLICT DO UPDATE SET latest = latest + 1, deleted = 0 RETURNING latest",
    )?;
    let key = params![id.tenant.as_str(), id.app.as_str()];
    let latest = change.query_row(key, |row| row::version(row, "latest"))?;
    latest.ok_or_else(|| RecordsError::Unreadable(format!("`{id}` has no number left")))
}

/// Moves the app's pointer.
pub(crate) fn point(
    t: &Transaction<'_>,
    id: &AppId,
    revision: Revision,
    version: VersionNumber,
) -> Result<(), RecordsError> {
    let mut change = t.prepare_cached(
        "UPDATE apps SET revision = ?3, version = ?4 WHERE tenant = ?1 AND name = ?2",
    )?;
    change.execute(params![
        id.tenant.as_str(),
        id.app.as_str(),
        integer(revision),
        version.as_u32()
    ])?;
    Ok(())
}

/// Deletes the app with its routes, versions and history. Its numbers stay used, and the next one of its name is another.
pub(crate) fn delete(t: &Transaction<'_>, id: &AppId) -> Result<(), RecordsError> {
    for sql in [
        "DELETE FROM routes WHERE tenant = ?1 AND app = ?2",
        "DELETE FROM deployments WHERE tenant = ?1 AND app = ?2",
        "UPDATE apps SET version = NULL, deleted = 1 WHERE tenant = ?1 AND name = ?2",
        "DELETE FROM versions WHERE tenant = ?1 AND app = ?2",
    ] {
        t.prepare_cached(sql)?
            .execute(params![id.tenant.as_str(), id.app.as_str()])?;
    }
    incarnations::end(t, &id.tenant, Some(&id.app))
}

/// Every route of the platform, by app, in the order of host and path.
pub(crate) fn routes(
    c: &Connection,
    tenant: Option<&TenantName>,
) -> Result<BTreeMap<AppId, Vec<Route>>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT * FROM routes WHERE (?1 IS NULL OR tenant = ?1) ORDER BY host, path",
    )?;
    let rows = ask.query_map([tenant.map(TenantName::as_str)], claimed)?;
    let mut all: BTreeMap<AppId, Vec<Route>> = BTreeMap::new();
    for claimed in rows {
        let claimed = claimed?;
        all.entry(claimed.id).or_default().push(claimed.route);
    }
    Ok(all)
}

/// The hosts of a tenant's apps.
pub(crate) fn hosts(c: &Connection, tenant: &TenantName) -> Result<BTreeSet<Host>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT DISTINCT host FROM routes WHERE tenant = ?1")?;
    let rows = ask.query_map([tenant.as_str()], |row| parsed(row, "host"))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The routes of one app, in the order of host and path.
pub(crate) fn routes_of(c: &Connection, id: &AppId) -> Result<Vec<Route>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT * FROM routes WHERE tenant = ?1 AND app = ?2 ORDER BY host, path",
    )?;
    let key = params![id.tenant.as_str(), id.app.as_str()];
    let rows = ask.query_map(key, |row| Ok(claimed(row)?.route))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Who has routes on a host.
pub(crate) fn on_host(c: &Connection, host: &Host) -> Result<Vec<Claimed>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT * FROM routes WHERE host = ?1")?;
    let rows = ask.query_map([host.as_str()], claimed)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The routes that follow the platform's domain.
pub(crate) fn own_routes(c: &Connection) -> Result<Vec<Claimed>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT * FROM routes WHERE own = 1 ORDER BY host, path")?;
    let rows = ask.query_map([], claimed)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Gives an app these routes instead of those it had.
pub(crate) fn set_routes(
    t: &Transaction<'_>,
    id: &AppId,
    routes: &[(Route, bool)],
) -> Result<(), RecordsError> {
    t.prepare_cached("DELETE FROM routes WHERE tenant = ?1 AND app = ?2")?
        .execute(params![id.tenant.as_str(), id.app.as_str()])?;
    for (route, own) in routes {
        add_route(t, id, route, *own)?;
    }
    Ok(())
}

pub(crate) fn add_route(
    t: &Transaction<'_>,
    id: &AppId,
    route: &Route,
    own: bool,
) -> Result<(), RecordsError> {
    let mut change = t.prepare_cached(
        "INSERT INTO routes (host, path, tenant, app, own) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    change.execute(params![
        route.host.as_str(),
        route.path.as_str(),
        id.tenant.as_str(),
        id.app.as_str(),
        own
    ])?;
    Ok(())
}

pub(crate) fn remove_own_routes(t: &Transaction<'_>) -> Result<(), RecordsError> {
    t.execute("DELETE FROM routes WHERE own = 1", [])?;
    Ok(())
}

fn app(row: &Row<'_>) -> rusqlite::Result<App> {
    Ok(App {
        id: id(row, "name")?,
        latest: row::version(row, "latest")?.ok_or(rusqlite::Error::InvalidQuery)?,
        revision: number(row, "revision")?,
        version: row::version(row, "version")?,
    })
}

fn claimed(row: &Row<'_>) -> rusqlite::Result<Claimed> {
    Ok(Claimed {
        id: id(row, "app")?,
        route: Route {
            host: parsed(row, "host")?,
            path: parsed::<PathPrefix>(row, "path")?,
        },
    })
}

pub(super) fn id(row: &Row<'_>, app: &str) -> rusqlite::Result<AppId> {
    let tenant: TenantName = parsed(row, "tenant")?;
    let app: AppName = parsed(row, app)?;
    Ok(AppId::new(tenant, app))
}
