//! The catalog at the start: made of the records, numbered, and told to distribution whole.

use std::sync::Arc;

use distribution::Publication;
use model::{
    AppId, AppLimits, Catalog, CatalogHead, Entry, Host, Incarnations, Revision, Route, Signed,
    Version,
};
use rusqlite::Transaction;

use crate::keys::Keys;
use crate::records::{Records, RecordsError, apps, generations, incarnations, versions};
use crate::routes::{self, RouteRefusal};

/// Why the records do not make a catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(
        "the platform's domain was `{before}` and is now `{now}`, where `{app}` cannot have its own host: {why}; change the domain back, and deploy one of the two without the route"
    )]
    Domain {
        before: String,
        now: Host,
        app: AppId,
        why: String,
    },
}

impl From<rusqlite::Error> for CatalogError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Records(error.into())
    }
}

/// What nodes are told of an app. A limit above the operator's ceiling is lowered to it: the ceiling may have sunk.
pub(crate) fn entry(
    id: AppId,
    incarnations: Incarnations,
    revision: Revision,
    version: Version,
    mut routes: Vec<Route>,
    ceiling: &AppLimits,
) -> Entry {
    // One order, so that the entry's hash does not tell how it came about.
    routes.sort();
    let asked = version.manifest.limits;
    Entry {
        id,
        incarnations,
        version: version.number,
        revision,
        kind: version.kind,
        wasm: version.wasm,
        routes,
        grant: version.manifest.grant.into(),
        limits: AppLimits {
            cpu: asked.cpu.min(ceiling.cpu),
            wall: asked.wall.min(ceiling.wall),
            memory: asked.memory.min(ceiling.memory),
        },
        reply: version.manifest.reply,
        reuse: version.manifest.reuse.map(Box::new),
    }
}

/// The catalog that the records describe. It is the newest generation if nothing changed since that was made, else
/// the next one: the same number never means two contents.
pub(crate) async fn open(
    records: &Records,
    domain: Host,
    ceiling: AppLimits,
) -> Result<Catalog, CatalogError> {
    records
        .write(move |t| {
            follow_domain(t, &domain)?;
            let mut routes = apps::routes(t, None)?;
            let served = versions::served(t)?;
            let incarnations = incarnations::all(t)?;
            let entries: Vec<_> = served
                .into_iter()
                .map(|(id, revision, version)| {
                    let routes = routes.remove(&id).unwrap_or_default();
                    let which = incarnations.of(&id);
                    Arc::new(entry(id, which, revision, version, routes, &ceiling))
                })
                .collect();
            number(t, entries)
        })
        .await
}

/// A publication of all there is.
pub(crate) fn whole(catalog: &Catalog, keys: &Keys) -> Publication {
    Publication {
        delta: None,
        head: Signed::sign(&catalog.head(), &keys.catalog),
        catalog: catalog.clone(),
    }
}

fn number(t: &Transaction<'_>, entries: Vec<Arc<Entry>>) -> Result<Catalog, CatalogError> {
    let newest = generations::newest(t)?;
    let held = newest.map_or(0, |head| head.generation);
    let catalog = Catalog::build(held.max(1), entries.iter().cloned());
    let head: CatalogHead = catalog.head();
    if newest == Some(head) {
        return Ok(catalog);
    }
    let catalog = Catalog::build(held + 1, entries);
    generations::add(t, &catalog.head(), None)?;
    Ok(catalog)
}

/// Moves every app's own host to the platform's domain, if that was changed since the last start.
fn follow_domain(t: &Transaction<'_>, domain: &Host) -> Result<(), CatalogError> {
    let before = generations::fact(t, "domain")?;
    if before.as_deref() == Some(domain.as_str()) {
        return Ok(());
    }
    let before = before.unwrap_or_default();
    let refuse = |app: &AppId, why: &RouteRefusal| CatalogError::Domain {
        before: before.clone(),
        now: domain.clone(),
        app: app.clone(),
        why: why.to_string(),
    };
    let moved = apps::own_routes(t)?;
    apps::remove_own_routes(t)?;
    for claimed in moved {
        let host =
            routes::own_host(&claimed.id, domain).map_err(|why| refuse(&claimed.id, &why))?;
        let path = claimed.route.path;
        let route = [(Route { host, path }, true)];
        routes::check_free(t, &claimed.id, &route)?.map_err(|why| refuse(&claimed.id, &why))?;
        let [(route, own)] = route;
        apps::add_route(t, &claimed.id, &route, own)?;
    }
    Ok(generations::set_fact(t, "domain", domain.as_str())?)
}
