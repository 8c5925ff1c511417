//! Restoring a backup: into an empty folder, every digest checked, all of it or nothing.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::{BackupFile, BackupManifest, Digest, Hasher, Size};

use crate::keys;
use crate::records::{self, RecordsError};

/// The folder of a restored data folder whose uploads the next start hands to distribution.
pub(crate) const UPLOADS: &str = "restored";

/// The key-value stores of a data folder. Backups from before there were any have none.
pub(crate) const STORES: &str = "stores/data.mdb";

/// The folders that files of a backup lie in.
const FOLDERS: [&str; 3] = ["keys", "stores", UPLOADS];

/// The most a backup's list of files may have: a million uploads.
const MANIFEST: Size = Size::mib(256);

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("`{}` is not empty; a backup is restored into an empty folder only", .0.display())]
    NotEmpty(PathBuf),
    #[error("this is not a backup of midge: {0}")]
    NotABackup(String),
    #[error(
        "the backup has format {found}; this midge knows format {known} and older ones: use the newer midge that made it"
    )]
    Newer { found: u32, known: u32 },
    #[error("`{path}` in the backup is damaged: {what}; nothing was restored, use another backup")]
    Damaged { path: String, what: String },
    #[error("while {doing}: {error}; nothing was restored")]
    Io {
        doing: &'static str,
        error: io::Error,
    },
    #[error("the backup's records cannot be used: {0}")]
    Records(#[from] RecordsError),
}

/// Restores the backup that `archive` yields into the folder `data`, which is empty or does not exist.
///
/// # Errors
/// Whatever the error, `data` is as it was before.
pub fn restore(archive: impl Read, data: &Path) -> Result<BackupManifest, RestoreError> {
    check_empty(data)?;
    let parent = match data.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let io = |doing| move |error| RestoreError::Io { doing, error };
    std::fs::create_dir_all(parent).map_err(io("making the folder"))?;
    let place = tempfile::Builder::new()
        .prefix(".midge-restore-")
        .tempdir_in(parent)
        .map_err(io("making a folder beside the one to restore into"))?;
    let manifest = unpack(archive, place.path())?;
    records::check(&place.path().join("records.db"))?;
    sync_folders(place.path()).map_err(io("writing what was restored to disk"))?;
    std::fs::rename(place.path(), data).map_err(io("moving what was restored into place"))?;
    // It is the data folder now.
    let _ = place.keep();
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(io("writing what was restored to disk"))?;
    Ok(manifest)
}

fn check_empty(data: &Path) -> Result<(), RestoreError> {
    match std::fs::read_dir(data) {
        Ok(mut files) => match files.next() {
            None => Ok(()),
            Some(_) => Err(RestoreError::NotEmpty(data.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(RestoreError::Io {
            doing: "looking at the folder to restore into",
            error,
        }),
    }
}

fn unpack(archive: impl Read, place: &Path) -> Result<BackupManifest, RestoreError> {
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries().map_err(unreadable)?;
    let first = entries
        .next()
        .ok_or_else(|| RestoreError::NotABackup("it is empty".into()))?;
    let manifest = read_manifest(first.map_err(unreadable)?)?;
    let mut expected: BTreeMap<&str, &BackupFile> = BTreeMap::new();
    for file in &manifest.files {
        if !is_known(&file.path) || expected.insert(&file.path, file).is_some() {
            let text = format!("it lists `{}`", file.path.escape_default());
            return Err(RestoreError::NotABackup(text));
        }
    }
    for folder in FOLDERS {
        let made = std::fs::create_dir(place.join(folder));
        made.map_err(|error| RestoreError::Io {
            doing: "making folders",
            error,
        })?;
    }
    for entry in entries {
        // What began as a backup and cannot be read on is one that was cut short or changed.
        let entry = entry.map_err(|error| RestoreError::Damaged {
            path: expected
                .keys()
                .next()
                .copied()
                .unwrap_or("its end")
                .to_owned(),
            what: error.to_string(),
        })?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let regular = entry.header().entry_type() == tar::EntryType::Regular;
        let Some(file) = expected.remove(path.as_str()).filter(|_| regular) else {
            let text = format!(
                "it holds `{}`, which its list does not",
                path.escape_default()
            );
            return Err(RestoreError::NotABackup(text));
        };
        write_checked(entry, file, &place.join(&file.path))?;
    }
    let sealed = manifest.format >= BackupManifest::SEALED;
    let keys = keys::FILES
        .iter()
        .filter(|name| sealed || **name != keys::SECRETS);
    let keys: Vec<String> = keys.map(|name| format!("keys/{name}")).collect();
    let needed = keys.iter().map(String::as_str).chain(["records.db"]);
    if let Some(path) = expected.into_keys().next() {
        let what = "it is missing".to_owned();
        let path = path.to_owned();
        return Err(RestoreError::Damaged { path, what });
    }
    for path in needed {
        if !place.join(path).is_file() {
            return Err(RestoreError::NotABackup(format!("it has no `{path}`")));
        }
    }
    Ok(manifest)
}

fn read_manifest(entry: tar::Entry<'_, impl Read>) -> Result<BackupManifest, RestoreError> {
    if *entry.path_bytes() != *BackupManifest::FILE.as_bytes() {
        let text = format!("it does not begin with `{}`", BackupManifest::FILE);
        return Err(RestoreError::NotABackup(text));
    }
    let mut text = Vec::new();
    entry
        .take(MANIFEST.bytes())
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    // The format is read first: a newer one may have another shape.
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let not_readable = |error: serde_json::Error| RestoreError::NotABackup(error.to_string());
    let Format { format: found } = serde_json::from_slice(&text).map_err(not_readable)?;
    let known = BackupManifest::FORMAT;
    if found > known {
        return Err(RestoreError::Newer { found, known });
    }
    serde_json::from_slice(&text).map_err(not_readable)
}

/// The files a backup may have; no other name is ever written.
fn is_known(path: &str) -> bool {
    let upload = |path: &str| {
        let name = path.strip_prefix(UPLOADS)?.strip_prefix('/')?;
        name.strip_suffix(".wasm")?.parse::<Digest>().ok()
    };
    let key = |path: &str| {
        path.strip_prefix("keys/")
            .is_some_and(|name| keys::FILES.contains(&name))
    };
    path == "records.db" || path == STORES || key(path) || upload(path).is_some()
}

fn write_checked(mut content: impl Read, file: &BackupFile, to: &Path) -> Result<(), RestoreError> {
    let damaged = |what: String| RestoreError::Damaged {
        path: file.path.clone(),
        what,
    };
    let write = |error| RestoreError::Io {
        doing: "writing what is restored",
        error,
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut out = options.open(to).map_err(write)?;
    let (mut hasher, mut bytes, mut piece) = (Hasher::new(), 0, vec![0; 256 << 10]);
    loop {
        let count = match content.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => return Err(damaged(error.to_string())),
        };
        bytes += count as u64;
        if bytes > file.bytes {
            return Err(damaged(format!("it is longer than {} bytes", file.bytes)));
        }
        hasher.update(&piece[..count]);
        out.write_all(&piece[..count]).map_err(write)?;
    }
    if bytes != file.bytes {
        return Err(damaged(format!("it has {bytes} of {} bytes", file.bytes)));
    }
    if hasher.finish() != file.digest {
        return Err(damaged("its content is not what its digest says".into()));
    }
    out.sync_all().map_err(write)
}

fn sync_folders(place: &Path) -> io::Result<()> {
    for folder in FOLDERS {
        File::open(place.join(folder))?.sync_all()?;
    }
    File::open(place)?.sync_all()
}

fn unreadable(error: io::Error) -> RestoreError {
    RestoreError::NotABackup(error.to_string())
}
