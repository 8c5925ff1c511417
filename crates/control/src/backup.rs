//! Backups: one archive of the records, the keys, the key-value stores and every upload, consistent at one moment, with a digest of each
//! file. Native code is not in it: it is made again.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use distribution::DistributionError;
use model::{ArtifactKey, BackupFile, BackupManifest, Digest, KvError};
use rusqlite::OpenFlags;
use tempfile::TempPath;

use crate::control::{Control, Platform};
use crate::keys;
use crate::natives::digest_of;
use crate::pins::Pin;
use crate::records::{RecordsError, SCHEMA, connect, versions};
use crate::restore::{STORES, UPLOADS};
use crate::temporary;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("while {doing}: {error}")]
    Io {
        doing: &'static str,
        error: io::Error,
    },
    #[error("the upload `{digest}`, which a version names, cannot be read: {error}")]
    Upload {
        digest: Digest,
        error: DistributionError,
    },
    #[error(
        "the upload `{0}`, which a version names, is damaged on disk; deploy its app again, which sends it anew, and back up then"
    )]
    Damaged(Digest),
    #[error(transparent)]
    Stores(#[from] KvError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// A backup that is ready to be written. What it holds stays in place until it is dropped.
pub struct Backup {
    manifest: BackupManifest,
    /// Where each file of the manifest lies, in its order.
    sources: Vec<PathBuf>,
    /// Of the records and of the stores.
    _copies: [TempPath; 2],
    _pins: Vec<Pin>,
}

impl Control {
    /// A backup of what holds now. The platform goes on meanwhile.
    pub async fn backup(&self) -> Result<Backup, BackupError> {
        prepare(self.platform()).await
    }
}

pub(crate) async fn prepare(platform: &Arc<Platform>) -> Result<Backup, BackupError> {
    // Before the records: what was deleted when the stores were copied is deleted there as well, and no store is of an app
    // that the records are yet to know.
    let stores = copy_stores(platform).await?;
    let snapshot = snapshot(platform).await?;
    let path = snapshot.to_path_buf();
    let wasms = blocking(move || {
        let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        Ok(versions::wasms(&connection)?)
    })
    .await?;
    let keys = platform.settings.data.join("keys");
    let mut named = vec![("records.db".to_owned(), snapshot.to_path_buf())];
    named.extend(keys::FILES.map(|name| (format!("keys/{name}"), keys.join(name))));
    named.push((STORES.to_owned(), stores.to_path_buf()));
    let others = named.len();
    let mut pins = Vec::with_capacity(wasms.len());
    for digest in wasms.iter().copied() {
        pins.push(platform.pins.pin(digest).await);
        let path = platform
            .distribution
            .fetch(&ArtifactKey::Wasm(digest))
            .await
            .map_err(|error| BackupError::Upload { digest, error })?;
        named.push((format!("{UPLOADS}/{digest}.wasm"), path));
    }
    let sources = named.iter().map(|(_, path)| path.clone()).collect();
    let files = blocking(move || describe(named)).await?;
    let mut uploads = files[others..].iter().zip(&wasms);
    if let Some((_, digest)) = uploads.find(|(file, digest)| file.digest != **digest) {
        return Err(BackupError::Damaged(*digest));
    }
    Ok(Backup {
        manifest: BackupManifest {
            format: BackupManifest::FORMAT,
            midge: env!("CARGO_PKG_VERSION").into(),
            schema: SCHEMA,
            created_ms: platform.now(),
            files,
        },
        sources,
        _copies: [snapshot, stores],
        _pins: pins,
    })
}

impl Backup {
    /// Writes the archive. Blocks; what is written before an error is not a backup.
    pub fn write_to(&self, to: impl Write) -> Result<(), BackupError> {
        let doing = "writing the backup";
        self.write(to)
            .map_err(|error| BackupError::Io { doing, error })
    }

    fn write(&self, to: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(to);
        archive.follow_symlinks(false);
        let manifest = serde_json::to_vec(&self.manifest)?;
        append(
            &mut archive,
            BackupManifest::FILE,
            manifest.len() as u64,
            &manifest[..],
        )?;
        for (file, source) in self.manifest.files.iter().zip(&self.sources) {
            let content = std::fs::File::open(source)?;
            append(&mut archive, &file.path, file.bytes, content)?;
        }
        archive.into_inner()?.flush()
    }
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &str,
    bytes: u64,
    content: impl io::Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_entry_type(tar::EntryType::Regular);
    archive.append_data(&mut header, path, content.take(bytes))
}

/// A copy of the records as they are now, made on a connection of its own while others go on.
async fn snapshot(platform: &Platform) -> Result<TempPath, BackupError> {
    let (from, folder) = (
        platform.records.path().to_owned(),
        platform.temporary.clone(),
    );
    blocking(move || {
        let doing = "copying the records";
        let to = temporary::file_in(&folder)
            .map_err(|error| BackupError::Io { doing, error })?
            .into_temp_path();
        let connection = connect(&from, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection
            .execute("VACUUM INTO ?1", [to.to_string_lossy()])
            .map_err(RecordsError::from)?;
        Ok(to)
    })
    .await
}

async fn copy_stores(platform: &Platform) -> Result<TempPath, BackupError> {
    let (kv, folder) = (platform.settings.kv.clone(), platform.temporary.clone());
    blocking(move || {
        let doing = "copying the key-value stores";
        let (mut file, to) = temporary::file_in(&folder)
            .map_err(|error| BackupError::Io { doing, error })?
            .into_parts();
        kv.copy_to(&mut file)?;
        Ok(to)
    })
    .await
}

fn describe(named: Vec<(String, PathBuf)>) -> Result<Vec<BackupFile>, BackupError> {
    let one = |path: String, source: &Path| {
        let bytes = std::fs::metadata(source)?.len();
        let digest = digest_of(source)?;
        Ok(BackupFile {
            path,
            bytes,
            digest,
        })
    };
    let doing = "reading what is to be backed up";
    let all = named.into_iter().map(|(path, source)| one(path, &source));
    all.collect::<io::Result<_>>()
        .map_err(|error| BackupError::Io { doing, error })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| RecordsError::Closed)?
}
