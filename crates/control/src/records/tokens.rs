//! Tokens, as the records keep them: a public id and a hash, never the secret.

use model::api::{Scope, TokenSummary};
use model::{Digest, TenantName, limits};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{RecordsError, integer, json, json_text, number, parsed};

/// A token with what lists do not show.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub summary: TokenSummary,
    /// The SHA-256 of its text.
    pub hash: Digest,
    pub revoked_ms: Option<u64>,
}

pub(crate) fn find(c: &Connection, id: &str) -> Result<Option<Token>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT * FROM tokens WHERE id = ?1")?;
    Ok(ask.query_row([id], token).optional()?)
}

/// The tokens that still hold, oldest first.
pub(crate) fn list(c: &Connection, now_ms: u64) -> Result<Vec<TokenSummary>, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT * FROM tokens WHERE revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > ?1)
         ORDER BY created_ms, id",
    )?;
    let rows = ask.query_map([integer(now_ms)], |row| Ok(token(row)?.summary))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many tokens of a tenant (none: of the platform) still hold.
pub(crate) fn count(
    c: &Connection,
    tenant: Option<&TenantName>,
    now_ms: u64,
) -> Result<u64, RecordsError> {
    let mut ask = c.prepare_cached(
        "SELECT count(*) AS n FROM tokens WHERE tenant IS ?1 AND revoked_ms IS NULL
         AND (expires_ms IS NULL OR expires_ms > ?2)",
    )?;
    let key = params![tenant.map(TenantName::as_str), integer(now_ms)];
    Ok(ask.query_row(key, |row| number(row, "n"))?)
}

pub(crate) fn add(
    t: &Transaction<'_>,
    summary: &TokenSummary,
    hash: &Digest,
    created_by: &str,
) -> Result<(), RecordsError> {
    let scope = &summary.scope;
    t.prepare_cached(
        "INSERT INTO tokens (id, hash, label, tenant, app, verb, created_ms, created_by, expires_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        summary.id,
        hash.to_string(),
        summary.label,
        scope.tenant.as_ref().map(TenantName::as_str),
        scope.app.as_ref().map(model::AppName::as_str),
        json_text(&scope.verb),
        integer(summary.created_ms),
        created_by,
        summary.expires_ms.map(integer),
    ])?;
    Ok(())
}

/// Ends a token now.
pub(crate) fn revoke(t: &Transaction<'_>, id: &str, now_ms: u64) -> Result<(), RecordsError> {
    t.prepare_cached("UPDATE tokens SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL")?
        .execute(params![id, integer(now_ms)])?;
    Ok(())
}

/// Ends every token that `maker` made.
pub(crate) fn revoke_made_by(
    t: &Transaction<'_>,
    maker: &str,
    now_ms: u64,
) -> Result<(), RecordsError> {
    t.execute(
        "UPDATE tokens SET revoked_ms = ?2 WHERE created_by = ?1 AND revoked_ms IS NULL",
        params![maker, integer(now_ms)],
    )?;
    Ok(())
}

/// Ends every token of a tenant.
pub(crate) fn revoke_of(
    t: &Transaction<'_>,
    tenant: &TenantName,
    now_ms: u64,
) -> Result<(), RecordsError> {
    t.execute(
        "UPDATE tokens SET revoked_ms = ?2 WHERE tenant = ?1 AND revoked_ms IS NULL",
        params![tenant.as_str(), integer(now_ms)],
    )?;
    Ok(())
}

/// Notes that a token was used.
pub(crate) fn touch(t: &Transaction<'_>, id: &str, now_ms: u64) -> Result<(), RecordsError> {
    t.prepare_cached("UPDATE tokens SET last_used_ms = ?2 WHERE id = ?1")?
        .execute(params![id, integer(now_ms)])?;
    Ok(())
}

/// Forgets tokens that ended long ago.
pub(crate) fn forget(t: &Transaction<'_>, now_ms: u64) -> Result<(), RecordsError> {
    let oldest = integer(now_ms.saturating_sub(limits::TOKENS_KEPT.default.0));
    t.execute(
        "DELETE FROM tokens WHERE revoked_ms < ?1 OR expires_ms < ?1",
        [oldest],
    )?;
    Ok(())
}

fn token(row: &Row<'_>) -> rusqlite::Result<Token> {
    let optional = |column: &str| -> rusqlite::Result<Option<u64>> {
        let value: Option<i64> = row.get(column)?;
        Ok(value.map(|value| u64::try_from(value).unwrap_or(0)))
    };
    let named = |column: &str| -> rusqlite::Result<bool> {
        Ok(row.get_ref(column)? != rusqlite::types::ValueRef::Null)
    };
    let tenant = named("tenant")?
        .then(|| parsed(row, "tenant"))
        .transpose()?;
    let app = named("app")?.then(|| parsed(row, "app")).transpose()?;
    Ok(Token {
        summary: TokenSummary {
            id: row.get("id")?,
            label: row.get("label")?,
            scope: Scope {
                tenant,
                app,
                verb: json(row, "verb")?,
            },
            created_ms: number(row, "created_ms")?,
            expires_ms: optional("expires_ms")?,
            last_used_ms: optional("last_used_ms")?,
        },
        hash: parsed(row, "hash")?,
        revoked_ms: optional("revoked_ms")?,
    })
}
