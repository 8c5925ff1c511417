//! The records: the truth about tenants, apps, versions, deployments and tokens, which survives power loss.
//!
//! Each file of this folder holds the questions and changes of one word. They take a connection or a transaction;
//! [`Records`] runs them, one at a time, and a change is one transaction, whole or not at all.

pub(crate) mod apps;
pub(crate) mod certificates;
pub(crate) mod deployments;
mod embedded;
pub(crate) mod generations;
pub(crate) mod incarnations;
pub(crate) mod replies;
mod row;
mod schema;
pub(crate) mod secrets;
pub(crate) mod tenant_limits;
pub(crate) mod tenants;
pub(crate) mod tokens;
pub(crate) mod uploads;
pub(crate) mod versions;

use std::path::PathBuf;

use rusqlite::ErrorCode;

pub use embedded::Records;
pub(crate) use embedded::{check, connect};
pub(crate) use row::{integer, json, json_text, number, parsed};
pub use schema::SCHEMA;

/// Why the records could not be opened, asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error(
        "the disk that holds the records is full: nothing was changed; make room and try again"
    )]
    DiskFull,
    #[error(
        "the records in `{}` are damaged ({found}); restore a backup into an empty folder with `midge restore`",
        path.display()
    )]
    Damaged { path: PathBuf, found: String },
    #[error(
        "the records in `{}` have schema {found}; this midge knows schema {known} and older ones: start the newer midge that wrote them",
        path.display()
    )]
    Newer {
        path: PathBuf,
        found: u32,
        known: u32,
    },
    #[error(
        "the records in `{}` cannot be written; give the file to the user that runs midge, or, if it is that user's, its header is damaged: restore a backup into an empty folder with `midge restore`",
        path.display()
    )]
    ReadOnly { path: PathBuf },
    #[error(
        "the log of the records `{}` cannot be read and written: {error}; see to the disk and to who may write there, then start again",
        path.display()
    )]
    Log {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error(
        "the records cannot be opened at `{}`: {error}; see to the disk and to who may read and write there, then start again",
        path.display()
    )]
    Unopened {
        path: PathBuf,
        error: rusqlite::Error,
    },
    #[error("the records hold something that cannot be read: {0}")]
    Unreadable(String),
    #[error("the records are busy: {0} requests wait already; try again")]
    Busy(u64),
    #[error("the records are closed: the platform is stopping")]
    Closed,
    #[error("the disk that holds the records failed: {0}")]
    DiskFailed(rusqlite::Error),
    #[error("the disk that holds the records failed before a change had reached it: {0}")]
    Unsynced(rusqlite::Error),
    #[error(
        "the records in `{}` take no more: what was written last may not have reached the disk ({why}). Apps are served on; see to the disk, then start midge again: all that was acknowledged is there",
        path.display()
    )]
    Stopped { path: PathBuf, why: String },
    #[error("the records failed: {0}")]
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for RecordsError {
    fn from(error: rusqlite::Error) -> Self {
        match &error {
            rusqlite::Error::SqliteFailure(failure, text) => match failure.code {
                ErrorCode::DiskFull => Self::DiskFull,
                ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied => Self::DiskFailed(error),
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Damaged {
                    path: PathBuf::from("records.db"),
                    found: text.clone().unwrap_or_else(|| failure.to_string()),
                },
                _ => Self::Failed(error),
            },
            rusqlite::Error::FromSqlConversionFailure(_, _, cause) => {
                Self::Unreadable(cause.to_string())
            }
            _ => Self::Failed(error),
        }
    }
}
