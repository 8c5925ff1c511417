//! The records of one machine: a SQLite file, and the one thread that touches it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use model::limits;
use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::schema::MIGRATIONS;
use super::{RecordsError, SCHEMA};

/// The records, open. Clones share them.
#[derive(Clone)]
pub struct Records(Arc<Inner>);

struct Inner {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Why they take no more.
    stopped: watch::Receiver<Option<String>>,
}

enum Job {
    Run(Box<dyn FnOnce(&mut Connection) -> Next + Send>),
    Close,
}

/// Whether the connection may be used after a job.
enum Next {
    Go,
    /// A failed fsync, and why: it is unknown what is on disk, and another fsync may succeed without having written it.
    /// Nothing after it may be believed.
    Stop(String),
}

impl Records {
    /// Opens the file at `path`, makes it if there is none, and brings it to today's schema.
    ///
    /// # Errors
    /// A damaged file and one with a newer schema are refused and left as they are.
    pub fn open(path: &Path) -> Result<Self, RecordsError> {
        write_log_again(path).map_err(|error| RecordsError::Log {
            path: log_of(path),
            error,
        })?;
        let mut connection = open(path).map_err(|error| named(error, path))?;
        let (jobs, queue) = mpsc::channel(limits::RECORDS_QUEUE.default as usize);
        let (stop, stopped) = watch::channel(None);
        let thread = std::thread::Builder::new()
            .name("records".into())
            .spawn(move || work(&mut connection, queue, &stop))
            .map_err(|_| RecordsError::Closed)?;
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            jobs,
            thread: Mutex::new(Some(thread)),
            stopped,
        })))
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Asks the records.
    pub async fn read<T, E>(
        &self,
        ask: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<RecordsError> + Send + 'static,
    {
        self.submit(move |connection| (ask(connection), Next::Go))
            .await
    }

    /// Changes the records: one transaction, on disk when this returns, or not made at all.
    ///
    /// Once begun it runs to its end, also if the caller goes away.
    pub async fn write<T, E>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<RecordsError> + Send + 'static,
    {
        self.submit(move |connection| transact(connection, change))
            .await
    }

    /// Ends the thread and closes the file; what was begun is finished first.
    pub async fn close(&self) {
        // Fails only if the thread has ended already, which is what is wanted.
        let _ = self.0.jobs.send(Job::Close).await;
        let thread = self.0.thread.lock().expect("no holder panics").take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// Waits until the disk has failed so that they take no more, and says why. Does not return if they are closed
    /// before.
    pub async fn stopped(&self) -> RecordsError {
        let mut stopped = self.0.stopped.clone();
        if stopped.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.closed()
    }

    /// Why nobody answers.
    fn closed(&self) -> RecordsError {
        match &*self.0.stopped.borrow() {
            None => RecordsError::Closed,
            Some(why) => RecordsError::Stopped {
                path: self.0.path.clone(),
                why: why.clone(),
            },
        }
    }

    async fn submit<T, E>(
        &self,
        job: impl FnOnce(&mut Connection) -> (Result<T, E>, Next) + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<RecordsError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Job::Run(Box::new(move |connection| {
            let (result, next) = job(connection);
            // The asker may have gone away; the work is done all the same.
            let _ = reply.send(result);
            next
        }));
        let wait = limits::RECORDS_WAIT.default.duration();
        match tokio::time::timeout(wait, self.0.jobs.send(job)).await {
            Err(_) => Err(RecordsError::Busy(limits::RECORDS_QUEUE.default).into()),
            Ok(Err(_)) => Err(self.closed().into()),
            Ok(Ok(())) => answer.await.unwrap_or_else(|_| Err(self.closed().into())),
        }
    }
}

fn work(
    connection: &mut Connection,
    mut queue: mpsc::Receiver<Job>,
    stop: &watch::Sender<Option<String>>,
) {
    while let Some(Job::Run(job)) = queue.blocking_recv() {
        if let Next::Stop(why) = job(connection) {
            stop.send_replace(Some(why));
            // Closing moves nothing from the log into the file: the next start does, from what it finds.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            return;
        }
    }
}

fn transact<T, E: From<RecordsError>>(
    connection: &mut Connection,
    change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> (Result<T, E>, Next) {
    let refuse = |error: rusqlite::Error| match is_failed_sync(&error) {
        true => {
            let why = error.to_string();
            let refusal = RecordsError::Unsynced(error);
            (Err(refusal.into()), Next::Stop(why))
        }
        false => (Err(RecordsError::from(error).into()), Next::Go),
    };
    let transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => return refuse(error),
    };
    match change(&transaction) {
        Err(refusal) => (Err(refusal), Next::Go),
        Ok(value) => match transaction.commit() {
            Ok(()) => (Ok(value), Next::Go),
            Err(error) => refuse(error),
        },
    }
}

fn is_failed_sync(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.extended_code == rusqlite::ffi::SQLITE_IOERR_FSYNC
            || error.extended_code == rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC
    })
}

/// Whether the file can be opened, brought to today's schema if it is older.
pub(crate) fn check(path: &Path) -> Result<(), RecordsError> {
    open(path).map(drop).map_err(|error| named(error, path))
}

fn open(path: &Path) -> Result<Connection, RecordsError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    check_length(path)?;
    let mut connection = connect(path, flags)?;
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        let path = path.to_owned();
        return Err(RecordsError::ReadOnly { path });
    }
    connection.set_prepared_statement_cache_capacity(128);
    check_version(&connection, path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;
         -- Nothing is written, and no fsync can fail, before the commit.
         PRAGMA cache_spill = OFF;",
    )?;
    check_content(&connection, path)?;
    migrate_to(&mut connection, SCHEMA)?;
    Ok(connection)
}

/// Where SQLite logs what is not in the file at `path` yet.
fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Writes what the log holds to where it lies already, and has it on disk.
///
/// After an fsync that failed, the kernel may hold pages that never reached the disk, and take them for clean. What is read
/// of them now and believed would be gone after a power loss, and all that follows it in the log with it.
fn write_log_again(path: &Path) -> io::Result<()> {
    let log = match File::options().read(true).write(true).open(log_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let (mut at, mut piece) = (0, vec![0; 256 << 10]);
    loop {
        let count = log.read_at(&mut piece, at)?;
        if count == 0 {
            return log.sync_data();
        }
        log.write_all_at(&piece[..count], at)?;
        at += count as u64;
    }
}

/// A connection to a file of records that knows the functions which its schema names. Nothing is checked.
pub(crate) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, RecordsError> {
    let unopened = |error| RecordsError::Unopened {
        path: path.to_owned(),
        error,
    };
    let connection = Connection::open_with_flags(path, flags).map_err(unopened)?;
    know_row_sum(&connection).map_err(unopened)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

/// `row_sum(…)`: the CRC-32C of its arguments, each with its type and its length before it.
fn know_row_sum(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("row_sum", -1, flags, |arguments| {
        let mut sum = 0;
        let mut add = |kind: u8, bytes: &[u8]| {
            sum = crc32c::crc32c_append(sum, &[kind]);
            sum = crc32c::crc32c_append(sum, &(bytes.len() as u64).to_le_bytes());
            sum = crc32c::crc32c_append(sum, bytes);
        };
        for index in 0..arguments.len() {
            match arguments.get_raw(index) {
                ValueRef::Null => add(0, &[]),
                ValueRef::Integer(number) => add(1, &number.to_le_bytes()),
                ValueRef::Real(number) => add(2, &number.to_le_bytes()),
                ValueRef::Text(text) => add(3, text),
                ValueRef::Blob(bytes) => add(4, bytes),
            }
        }
        Ok(sum)
    })
}

/// SQLite takes a file that is cut to almost nothing for a new one.
fn check_length(path: &Path) -> Result<(), RecordsError> {
    const HEADER: u64 = 100;
    match std::fs::metadata(path) {
        Ok(file) if (1..HEADER).contains(&file.len()) => Err(RecordsError::Damaged {
            path: path.to_owned(),
            found: format!("it has {} bytes", file.len()),
        }),
        // Whatever else is wrong with it, opening it says so.
        _ => Ok(()),
    }
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn check_version(connection: &Connection, path: &Path) -> Result<(), RecordsError> {
    let found = version(connection)?;
    if found > SCHEMA {
        return Err(RecordsError::Newer {
            path: path.to_owned(),
            found,
            known: SCHEMA,
        });
    }
    Ok(())
}

fn check_content(connection: &Connection, path: &Path) -> Result<(), RecordsError> {
    let found = match find_change(connection) {
        Ok(None) => return Ok(()),
        Ok(Some(found)) => found,
        // What SQLite itself says is told apart elsewhere; the rest is content that nobody wrote.
        Err(error @ rusqlite::Error::SqliteFailure(..)) => return Err(error.into()),
        Err(error) => error.to_string(),
    };
    Err(RecordsError::Damaged {
        path: path.to_owned(),
        found,
    })
}

/// What changed on disk: in the file's structure, its indices, its schema, a row.
fn find_change(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Ok(Some(found));
    }
    let mut fresh = Connection::open_in_memory()?;
    know_row_sum(&fresh)?;
    migrate_to(&mut fresh, version(connection)?)?;
    let schema = schema_of(connection)?;
    if schema != schema_of(&fresh)? {
        let found = "its schema is not the one that was written";
        return Ok(Some(found.into()));
    }
    for [_, table, _] in schema.iter().filter(|entry| entry[0] == "table") {
        let columns =
            "SELECT group_concat(name, ', ') FROM pragma_table_xinfo(?1) WHERE hidden = 0";
        let columns: String = connection.query_row(columns, [table], |row| row.get(0))?;
        let changed = format!("SELECT count(*) FROM {table} WHERE sum IS NOT row_sum({columns})");
        let changed: i64 = connection.query_row(&changed, [], |row| row.get(0))?;
        if changed > 0 {
            let found = format!("{changed} rows of `{table}` are not what was written");
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The type, the name and the text of everything that the schema holds.
fn schema_of(connection: &Connection) -> rusqlite::Result<Vec<[String; 3]>> {
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))?;
    rows.collect()
}

fn migrate_to(connection: &mut Connection, wanted: u32) -> rusqlite::Result<()> {
    let found = version(connection)?;
    let steps = MIGRATIONS.iter().enumerate().take(wanted as usize);
    for (index, step) in steps.skip(found as usize) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", index as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Puts the file's real path into an error of the opening.
fn named(error: RecordsError, path: &Path) -> RecordsError {
    let path = path.to_owned();
    match error {
        RecordsError::Damaged { found, .. } => RecordsError::Damaged { path, found },
        RecordsError::DiskFailed(error) | RecordsError::Failed(error) => {
            RecordsError::Unopened { path, error }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
