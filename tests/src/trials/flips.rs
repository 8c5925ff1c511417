//! Files of a stopped platform changed or cut off: found, named, made anew, and never served.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use model::Digest;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Row};

use super::Chance;
use crate::{Platform, guest, variant};

/// How many files `flips` changes in full.
pub const FLIPS: u32 = 10_000;

/// Changes one bit of `count` files of stopped platforms, or cuts them off, and starts each again: it refuses to start
/// and names the file, or every app answers with its own bytes or is `unavailable`, and those whose files are whole answer.
pub fn flips(count: u32, seed: u64) -> String {
    let mut platform = Platform::configured("workers = 1");
    let apps: Vec<Flipped> = (0..FLIPPED + WHOLE)
        .map(|number| Flipped::deploy(&platform, number))
        .collect();
    platform.stop();
    let kept = platform.folder().join("kept");
    copy(&platform.data(), &kept);

    let mut chance = Chance(seed);
    let mut tally = Tally::default();
    while tally.changes < count {
        let turn = Turn::make(&platform, &apps, &kept, &mut chance, &mut tally);
        turn.judge(&mut platform, &apps, &kept, &mut tally);
    }
    let shown = &tally.failures[..tally.failures.len().min(50)];
    assert!(
        shown.is_empty(),
        "{} failures (seed {seed}): {shown:#?}",
        tally.failures.len()
    );
    format!(
        "flips: {} files changed in {} starts, {} of them refused by name; {} replies, {} of them refused by name: never wrong bytes (seed {seed})",
        tally.changes, tally.starts, tally.refused_starts, tally.replies, tally.refused_replies
    )
}

/// Apps whose files are changed, and apps whose files are left alone.
const FLIPPED: u32 = 8;
const WHOLE: u32 = 2;

/// An app that answers with what no other does: by its code, or by its grants.
struct Flipped {
    name: String,
    says: String,
    changed: bool,
    digest: Digest,
}

impl Flipped {
    fn deploy(platform: &Platform, number: u32) -> Self {
        let name = format!("app-{number}");
        let (wasm, manifest, says) = if number.is_multiple_of(2) {
            let says = format!("Hello, {number:05}!\n");
            let mut wasm = guest("hello");
            let text = b"Hello, Midge!\n";
            let place = wasm.windows(text.len()).position(|here| here == text);
            let place = place.expect("the guest holds what it says");
            wasm[place..][..text.len()].copy_from_slice(says.as_bytes());
            (wasm, String::new(), says)
        } else {
            let says =
                format!("release {number} of a line that is long enough to be met by chance");
            let manifest = format!("[grant]\nenv = {{ RELEASE = '{says}' }}");
            (variant(&guest("version"), number), manifest, says)
        };
        platform.deploy_with(&name, &wasm, &manifest);
        platform.get(&name, "/").is(200).says(&says);
        Self {
            name,
            says,
            changed: number < FLIPPED,
            digest: Digest::of(&wasm),
        }
    }
}

/// What came of it so far.
#[derive(Default)]
struct Tally {
    changes: u32,
    starts: u32,
    refused_starts: u32,
    replies: u32,
    refused_replies: u32,
    failures: Vec<String>,
}

/// The changes that share a start.
struct Turn {
    changes: Vec<String>,
    /// Changed files that nothing can replace: the platform may refuse to start without them.
    needed: Vec<&'static str>,
    /// The records hold something else than before: it must.
    other_records: bool,
}

impl Turn {
    /// Changes a file or two of each app, and now and then the catalog, the records, a key.
    fn make(
        platform: &Platform,
        apps: &[Flipped],
        kept: &Path,
        chance: &mut Chance,
        tally: &mut Tally,
    ) -> Self {
        let data = platform.data();
        fs::remove_dir_all(&data).expect("the data folder can be removed");
        copy(kept, &data);
        let artifacts = files(&data.join("artifacts"));
        let mut paths = Vec::new();
        for app in apps.iter().filter(|app| app.changed) {
            let mut own: Vec<PathBuf> = artifacts
                .iter()
                .filter(|path| path.to_string_lossy().contains(&app.digest.to_string()))
                .cloned()
                .collect();
            assert_eq!(own.len(), 3, "an upload, its native code and its header");
            own.remove(chance.below(own.len()));
            // A second one in the same app leaves less to mend it with.
            if chance.below(4) > 0 {
                own.remove(chance.below(own.len()));
            }
            paths.append(&mut own);
        }
        if chance.below(2) == 0 {
            paths.push(data.join("node/catalog/last-good"));
        }
        let mut needed = Vec::new();
        for (name, path, one_in) in [
            ("records.db", "records.db", 2),
            ("catalog.key", "keys/catalog.key", 16),
            ("compile.key", "keys/compile.key", 16),
        ] {
            if chance.below(one_in) == 0 {
                paths.push(data.join(path));
                needed.push(name);
            }
        }
        tally.changes += paths.len() as u32;
        let change = |path: &PathBuf| {
            let place = path.strip_prefix(&data).expect("it lies below");
            format!("{}: {}", place.display(), change(path, chance))
        };
        let changes = paths.iter().map(change).collect();
        let records = |data: &Path| content(&data.join("records.db"));
        let whole = records(kept).expect("whole records can be read");
        Self {
            changes,
            needed,
            other_records: records(&data).ok() != Some(whole),
        }
    }

    fn judge(&self, platform: &mut Platform, apps: &[Flipped], kept: &Path, tally: &mut Tally) {
        fs::write(platform.folder().join("log"), "").expect("the log can be emptied");
        tally.starts += 1;
        let started = platform.try_start_again();
        if started.is_ok() && self.other_records {
            self.blame(tally, NOBODY, "it started with other records");
        }
        if let Err(said) = started {
            tally.refused_starts += 1;
            if !self.needed.iter().any(|name| said.contains(name)) || said.contains("panicked") {
                self.blame(
                    tally,
                    NOBODY,
                    &format!("it refused to start and said: {said}"),
                );
            }
            for place in ["records.db", "keys/catalog.key", "keys/compile.key"] {
                let damaged = platform.data().join(place);
                fs::copy(kept.join(place), damaged).expect("a file can be put back");
            }
            // What SQLite keeps beside the file belongs to the damaged one.
            for place in ["records.db-wal", "records.db-shm"] {
                let _ = fs::remove_file(platform.data().join(place));
            }
            tally.starts += 1;
            if let Err(said) = platform.try_start_again() {
                let text = format!("it did not start with whole records: {said}");
                return self.blame(tally, NOBODY, &text);
            }
        }
        for app in apps {
            let reply = platform.get(&app.name, "/");
            let (status, error) = (reply.status(), reply.header("midge-error"));
            tally.replies += 1;
            match (status, error) {
                (200, None) if reply.text() == app.says => {}
                (503, Some("unavailable")) if app.changed => tally.refused_replies += 1,
                _ => {
                    let said = reply.text();
                    let text = format!("`{}` answered {status} {error:?} {said:?}", app.name);
                    self.blame(tally, &app.digest.to_string(), &text);
                }
            }
        }
        let digests: Vec<Digest> = apps.iter().map(|app| app.digest).collect();
        let missing = platform.api.missing(&digests);
        if platform.metric("midge_worker_restarts_total") > 0.0 {
            self.blame(tally, NOBODY, "a worker ended");
        }
        platform.stop();
        let said = platform.said();
        if said.contains("panicked") {
            self.blame(tally, NOBODY, &said);
        }
        self.judge_detection(apps, &missing, &said, tally);
    }

    /// A changed upload counts as missing; native code that was changed was made anew, or is said to be missing.
    fn judge_detection(&self, apps: &[Flipped], missing: &[Digest], said: &str, tally: &mut Tally) {
        for app in apps {
            let digest = app.digest.to_string();
            let mut own = self.changes.iter().filter(|it| it.contains(&digest));
            let is_upload = |change: &String| change.contains(".wasm:");
            let upload = own.clone().any(is_upload);
            let native = own.any(|change| !is_upload(change));
            if upload != missing.contains(&app.digest) {
                self.blame(tally, &digest, "a changed upload was not noticed");
            }
            let short = &digest[..12];
            let told = said.contains(&format!("the upload `{short}` has no native"))
                || said.contains(&format!("native code of the upload `{short}`"));
            if native && !told {
                self.blame(tally, &digest, "changed native code was not noticed");
            }
        }
    }

    /// Remembers a failure, with the changes that may have a part in it: none of those to the artifacts of other apps.
    fn blame(&self, tally: &mut Tally, own: &str, text: &str) {
        let part = |change: &&String| !change.starts_with("artifacts") || change.contains(own);
        let changes: Vec<&String> = self.changes.iter().filter(part).collect();
        tally.failures.push(format!("{text}: {changes:?}"));
    }
}

/// No app has a part in it.
const NOBODY: &str = "nobody";

/// Changes one bit of a file, or cuts it off, and says where.
fn change(path: &Path, chance: &mut Chance) -> String {
    let mut bytes = fs::read(path).expect("a file can be read");
    let (length, place) = (bytes.len(), chance.below(bytes.len()));
    let what = if chance.below(4) == 0 {
        bytes.truncate(place);
        format!("cut to {place} of {length} bytes")
    } else {
        let bit = chance.below(8);
        bytes[place] ^= 1 << bit;
        format!("bit {bit} of byte {place} of {length}")
    };
    let mode = fs::metadata(path).expect("a file has a mode").permissions();
    fs::remove_file(path).expect("a file can be removed");
    fs::write(path, bytes).expect("a file can be written");
    fs::set_permissions(path, mode).expect("a file's mode can be set");
    what
}

/// Everything that a file of records holds: not all of its bytes mean something.
fn content(path: &Path) -> rusqlite::Result<Vec<Vec<Value>>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?immutable=1", path.display());
    let records = Connection::open_with_flags(uri, flags)?;
    let rows = |sql: &str| -> rusqlite::Result<Vec<Vec<Value>>> {
        let mut statement = records.prepare(sql)?;
        let columns = statement.column_count();
        let row = |row: &Row<'_>| (0..columns).map(|column| row.get(column)).collect();
        statement.query_map([], row)?.collect()
    };
    let mut all = rows("SELECT type, name, tbl_name, sql FROM sqlite_schema")?;
    all.extend(rows("PRAGMA user_version")?);
    for table in rows("SELECT name FROM sqlite_schema WHERE type = 'table'")? {
        if let [Value::Text(table)] = &table[..] {
            all.extend(rows(&format!("SELECT * FROM \"{table}\""))?);
        }
    }
    Ok(all)
}

/// Copies a folder to where none is.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder can be made");
    fs::set_permissions(to, Permissions::from_mode(0o700)).expect("a folder's mode can be set");
    for entry in fs::read_dir(from).expect("a folder can be read") {
        let path = entry.expect("a folder can be read").path();
        let copied = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy(&path, &copied);
        } else if path.is_file() {
            fs::copy(&path, &copied).expect("a file can be copied");
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder can be read");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a folder can be read").path())
        .collect();
    files.sort();
    files
}
