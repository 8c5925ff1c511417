//! How many tenants and apps of a name were deleted, as the records keep it: those that come later are others.

use std::collections::HashMap;

use model::{AppId, AppName, Incarnation, Incarnations, Owner, TenantName};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{RecordsError, apps, number, parsed};

/// What stands for the tenant itself, where an app's name would be.
const TENANT: &str = "";

/// Those of every name of which one was deleted.
pub(crate) struct All {
    tenants: HashMap<TenantName, Incarnation>,
    apps: HashMap<AppId, Incarnation>,
}

impl All {
    pub fn of(&self, id: &AppId) -> Incarnations {
        Incarnations {
            tenant: self.of_tenant(&id.tenant),
            app: self.apps.get(id).copied().unwrap_or_default(),
        }
    }

    pub fn of_tenant(&self, tenant: &TenantName) -> Incarnation {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }
}

pub(crate) fn all(c: &Connection) -> Result<All, RecordsError> {
    let mut ask = c.prepare_cached("SELECT * FROM incarnations")?;
    let mut rows = ask.query([])?;
    let (mut tenants, mut apps) = (HashMap::new(), HashMap::new());
    while let Some(row) = rows.next()? {
        let number = number(row, "number")?;
        match row
            .get_ref("app")?
            .as_str()
            .map_err(rusqlite::Error::from)?
        {
            TENANT => drop(tenants.insert(parsed(row, "tenant")?, number)),
            _ => drop(apps.insert(apps::id(row, "app")?, number)),
        }
    }
    Ok(All { tenants, apps })
}

/// Of an app that there is, or that is to be.
pub(crate) fn of(c: &Connection, id: &AppId) -> Result<Incarnations, RecordsError> {
    Ok(Incarnations {
        tenant: of_tenant(c, &id.tenant)?,
        app: present(c, &id.tenant, id.app.as_str())?,
    })
}

pub(crate) fn of_tenant(c: &Connection, tenant: &TenantName) -> Result<Incarnation, RecordsError> {
    present(c, tenant, TENANT)
}

/// The one that has this name now.
pub(crate) fn owner(c: &Connection, app: AppId) -> Result<Owner, RecordsError> {
    let incarnation = of(c, &app)?.app;
    Ok(Owner { app, incarnation })
}

/// Counts an app that is deleted, or, without one, the tenant itself.
pub(crate) fn end(
    t: &Transaction<'_>,
    tenant: &TenantName,
    app: Option<&AppName>,
) -> Result<(), RecordsError> {
    let app = app.map_or(TENANT, AppName::as_str);
    let next = present(t, tenant, app)?.saturating_add(1);
    set(t, tenant, app, next)
}

/// Sees to it that no app is ever the owner of this: one that is of its name begins after it.
pub(crate) fn pass(t: &Transaction<'_>, owner: &Owner) -> Result<(), RecordsError> {
    let Owner { app, incarnation } = owner;
    if present(t, &app.tenant, app.app.as_str())? > *incarnation {
        return Ok(());
    }
    set(
        t,
        &app.tenant,
        app.app.as_str(),
        incarnation.saturating_add(1),
    )
}

fn present(c: &Connection, tenant: &TenantName, app: &str) -> Result<Incarnation, RecordsError> {
    let mut ask =
        c.prepare_cached("SELECT number FROM incarnations WHERE tenant = ?1 AND app = ?2")?;
    let found = ask.query_row([tenant.as_str(), app], |row| number(row, "number"));
    Ok(found.optional()?.unwrap_or_default())
}

fn set(
    t: &Transaction<'_>,
    tenant: &TenantName,
    app: &str,
    incarnation: Incarnation,
) -> Result<(), RecordsError> {
    t.prepare_cached(
        "INSERT OR REPLACE INTO incarnations (tenant, app, number) VALUES (?1, ?2, ?3)",
    )?
    .execute(params![tenant.as_str(), app, incarnation])?;
    Ok(())
}
