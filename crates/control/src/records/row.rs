//! How a row's columns become the words of `model`.

use std::fmt::Display;
use std::str::FromStr;

use model::VersionNumber;
use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A text column read as `T`.
pub(crate) fn parsed<T>(row: &Row<'_>, column: &str) -> Result<T>
where
    T: FromStr,
    T::Err: Display,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse()
        .map_err(|error: T::Err| unreadable(column, &error))
}

/// A text column that holds JSON.
pub(crate) fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| unreadable(column, &error))
}

/// The text of a JSON column.
pub(crate) fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a model type always has a JSON form")
}

/// A number as SQLite keeps it, which has no unsigned ones.
pub(crate) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A column that holds an unsigned number.
pub(crate) fn number<T: TryFrom<i64>>(row: &Row<'_>, column: &str) -> Result<T> {
    let value: i64 = row.get(column)?;
    T::try_from(value).map_err(|_| unreadable(column, &format!("{value} is out of range")))
}

/// A column that holds an unsigned number, or nothing.
pub(crate) fn optional(row: &Row<'_>, column: &str) -> Result<Option<u64>> {
    match row.get_ref(column)?.data_type() {
        Type::Null => Ok(None),
        _ => number(row, column).map(Some),
    }
}

/// A column that holds a version's number, or nothing.
pub(crate) fn version(row: &Row<'_>, column: &str) -> Result<Option<VersionNumber>> {
    let value: Option<u32> = row.get(column)?;
    Ok(value.and_then(VersionNumber::new))
}

fn unreadable(column: &str, error: &impl Display) -> Error {
    let text = format!("the column `{column}`: {error}");
    Error::FromSqlConversionFailure(0, Type::Text, text.into())
}
