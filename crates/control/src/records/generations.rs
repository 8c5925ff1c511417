//! The catalog's generations, and what else the platform remembers of itself.

use model::{CatalogHead, Delta, Signed, limits};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{RecordsError, integer, json_text, number, parsed};

/// The newest generation; none if nothing was ever published.
pub(crate) fn newest(c: &Connection) -> Result<Option<CatalogHead>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT * FROM generations ORDER BY generation DESC LIMIT 1")?;
    let head = ask.query_row([], |row| {
        Ok(CatalogHead {
            generation: number(row, "generation")?,
            root: parsed(row, "root")?,
        })
    });
    Ok(head.optional()?)
}

/// Keeps a generation with the delta that led to it, if one did, and forgets those that no lagging node may ask for.
pub(crate) fn add(
    t: &Transaction<'_>,
    head: &CatalogHead,
    delta: Option<&Signed<Delta>>,
) -> Result<(), RecordsError> {
    t.prepare_cached("INSERT INTO generations (generation, root, delta) VALUES (?1, ?2, ?3)")?
        .execute(params![
            integer(head.generation),
            head.root.to_string(),
            delta.map(json_text)
        ])?;
    let oldest = head.generation.saturating_sub(limits::DELTAS_KEPT.default);
    t.prepare_cached("DELETE FROM generations WHERE generation <= ?1")?
        .execute([integer(oldest)])?;
    Ok(())
}

/// A fact that the platform remembers of itself.
pub(crate) fn fact(c: &Connection, key: &str) -> Result<Option<String>, RecordsError> {
    let mut ask = c.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    Ok(ask.query_row([key], |row| row.get(0)).optional()?)
}

/// The number that something is counted as; 0 before the first.
pub(crate) fn counted(c: &Connection, key: &str) -> Result<u64, RecordsError> {
    let unreadable = |_| RecordsError::Unreadable(format!("the fact `{key}` is no number"));
    fact(c, key)?.map_or(Ok(0), |text| text.parse().map_err(unreadable))
}

/// Counts one more; the new number.
pub(crate) fn count(t: &Transaction<'_>, key: &str) -> Result<u64, RecordsError> {
    let next = counted(t, key)? + 1;
    set_fact(t, key, &next.to_string())?;
    Ok(next)
}

pub(crate) fn set_fact(t: &Transaction<'_>, key: &str, value: &str) -> Result<(), RecordsError> {
    t.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2",
    )?
    .execute([key, value])?;
    Ok(())
}
