//! Artifacts as read-only files in one folder, each named by its key.

use std::fmt::Display;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use model::ArtifactKey;

use crate::{DistributionError, Kept};

/// What a file is called while its bytes are not all there.
const UNFINISHED: &str = ".put-";

/// A folder of artifacts.
pub struct Folder {
    path: PathBuf,
    unfinished: AtomicU64,
}

impl Folder {
    /// The folder at `path`, made if it is missing; what a crash left unfinished is removed.
    pub fn open(path: PathBuf) -> Result<Self, DistributionError> {
        let clear = || {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)?;
            for file in fs::read_dir(&path)? {
                let file = file?;
                if file.file_name().to_string_lossy().starts_with(UNFINISHED) {
                    fs::remove_file(file.path())?;
                }
            }
            Ok(())
        };
        clear().map_err(|error| failed("opening the artifact folder", path.display(), error))?;
        Ok(Self {
            path,
            unfinished: AtomicU64::new(0),
        })
    }

    /// Moves the file at `from` into place, after it is on disk.
    pub fn put(&self, key: &ArtifactKey, from: &Path) -> Result<(), DistributionError> {
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.path.join(format!("{UNFINISHED}{number}"));
        let place = || {
            bring(from, &unfinished)?;
            let file = File::open(&unfinished)?;
            // Its age counts from now: an upload may have taken long, and is kept for a while after it.
            file.set_modified(SystemTime::now())?;
            file.set_permissions(Permissions::from_mode(0o400))?;
            file.sync_all()?;
            let place = self.place_of(key);
            let is_new = !place.try_exists()?;
            fs::rename(&unfinished, &place)?;
            self.sync().inspect_err(|_| {
                // Whoever finds it would take it for kept. One that was there before is as good as this one.
                if is_new {
                    let _ = fs::remove_file(&place);
                }
            })
        };
        place().map_err(|error| {
            // Best effort: the next start removes it otherwise.
            let _ = fs::remove_file(&unfinished);
            failed("keeping the artifact", key, error)
        })
    }

    /// Where the artifact lies.
    pub fn find(&self, key: &ArtifactKey) -> Result<PathBuf, DistributionError> {
        let place = self.place_of(key);
        match place.try_exists() {
            Ok(true) => Ok(place),
            Ok(false) => Err(DistributionError::NoArtifact(key.clone())),
            Err(error) => Err(failed("looking for the artifact", key, error)),
        }
    }

    /// Every artifact. What has another name is not one, and stays as it is.
    pub fn list(&self) -> Result<Vec<Kept>, DistributionError> {
        let list = || {
            let mut kept = Vec::new();
            for file in fs::read_dir(&self.path)? {
                let file = file?;
                let name = file.file_name();
                let Some(key) = name.to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                match file.metadata() {
                    Ok(facts) => kept.push(Kept {
                        key,
                        bytes: facts.len(),
                        put_ms: since_1970_ms(facts.modified()?),
                    }),
                    // Removed since its name was read.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(kept)
        };
        list().map_err(|error| failed("listing the artifacts in", self.path.display(), error))
    }

    /// Removes the artifact; who has it open may go on reading.
    pub fn remove(&self, key: &ArtifactKey) -> Result<(), DistributionError> {
        match fs::remove_file(self.place_of(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("removing the artifact", key, error))
            }
            _ => Ok(()),
        }
    }

    fn place_of(&self, key: &ArtifactKey) -> PathBuf {
        self.path.join(key.to_string())
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Moves the file at `from` to `to`, or copies it if that is another file system.
fn bring(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            fs::copy(from, to)?;
            fs::remove_file(from)
        }
        moved => moved,
    }
}

fn failed(doing: &str, what: impl Display, error: io::Error) -> DistributionError {
    DistributionError::Io {
        doing: format!("{doing} `{what}`"),
        error,
    }
}

fn since_1970_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}
