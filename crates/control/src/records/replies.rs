//! Replies remembered for an `Idempotency-Key`.

use model::{Digest, limits};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{RecordsError, integer, number, parsed};

/// What was answered, and to which request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The digest of the request's method, target and body.
    pub request: Digest,
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

pub(crate) fn find(
    c: &Connection,
    token: &str,
    key: &str,
    now_ms: u64,
) -> Result<Option<Reply>, RecordsError> {
    let mut ask =
        c.prepare_cached("SELECT * FROM replies WHERE token = ?1 AND key = ?2 AND at_ms > ?3")?;
    let oldest = integer(now_ms.saturating_sub(limits::IDEMPOTENCY.default.0));
    let found = ask.query_row(params![token, key, oldest], |row| {
        Ok(Reply {
            request: parsed(row, "request")?,
            status: number(row, "status")?,
            content_type: row.get("content_type")?,
            body: row.get("body")?,
        })
    });
    Ok(found.optional()?)
}

pub(crate) fn add(
    t: &Transaction<'_>,
    token: &str,
    key: &str,
    reply: &Reply,
    now_ms: u64,
) -> Result<(), RecordsError> {
    t.prepare_cached(
        "INSERT OR REPLACE INTO replies (token, key, request, status, content_type, body, at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        token,
        key,
        reply.request.to_string(),
        reply.status,
        reply.content_type,
        reply.body,
        integer(now_ms)
    ])?;
    Ok(())
}

/// Forgets what is too old, and the oldest of a token that has too many.
pub(crate) fn forget(t: &Transaction<'_>, now_ms: u64) -> Result<(), RecordsError> {
    let oldest = integer(now_ms.saturating_sub(limits::IDEMPOTENCY.default.0));
    t.execute("DELETE FROM replies WHERE at_ms <= ?1", [oldest])?;
    t.execute(
        "DELETE FROM replies WHERE (token, key) IN (SELECT token, key FROM (
            SELECT token, key, row_number() OVER (PARTITION BY token ORDER BY at_ms DESC) AS place FROM replies)
         WHERE place > ?1)",
        [integer(limits::IDEMPOTENCY_KEYS.default)],
    )?;
    Ok(())
}
