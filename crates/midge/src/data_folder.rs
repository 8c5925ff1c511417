//! The platform's data folder: made for its owner alone, and held by one platform at a time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};

/// The file whose lock is the right to use the folder.
const LOCK: &str = "midge.lock";

/// The socket at which a running platform is asked to make way.
const DOOR: &str = "midge.sock";

/// Connects to the platform that runs on the data folder at `path`.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(below(&File::open(path)?, DOOR))
}

/// A socket below an open folder: by its own path it may be longer than an address of a socket can be.
fn below(folder: &File, name: &str) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name)
}

/// A data folder that no other platform uses while this lives.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    lock: File,
}

/// Who holds a data folder, for whoever finds it held.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    /// Where its control API listens; none while it starts.
    #[serde(default)]
    api: Option<String>,
}

impl DataFolder {
    /// Makes the folder if it is missing, and takes it.
    pub fn take(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let unusable = |error: io::Error| {
            let failure =
                Failure::failed(format!("the data folder `{shown}` cannot be used: {error}"));
            match error.kind() {
                io::ErrorKind::PermissionDenied => failure
                    .hint("give it to the user that runs Midge, or name another with `--data DIR`"),
                io::ErrorKind::ReadOnlyFilesystem => failure.hint(
                    "its disk is read-only: mount it writable (if the kernel made it so after an error, see to the disk first), or name another with `--data DIR`",
                ),
                io::ErrorKind::StorageFull => {
                    failure.hint("make room, or name a folder elsewhere with `--data DIR`")
                }
                _ => failure.hint("name a folder with `--data DIR`"),
            }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(unusable)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(unusable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(held(path, &mut lock)),
            Err(error) => return Err(unusable(error.into())),
        }
        let mut folder = Self {
            path: path.to_owned(),
            lock,
        };
        folder.write_holder(None);
        Ok(folder)
    }

    /// Goes on with a folder that a platform which leaves has handed over with its lock.
    pub fn adopt(path: &Path, lock: OwnedFd) -> Self {
        let mut folder = Self {
            path: path.to_owned(),
            lock: lock.into(),
        };
        folder.write_holder(None);
        folder
    }

    /// The lock, for a successor. It is given back when every holder has let go.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Listens at the folder's socket, in the place of whoever did before.
    pub fn listen(&self) -> io::Result<UnixListener> {
        let new = format!("{DOOR}.new");
        match std::fs::remove_file(self.path.join(&new)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(below(&File::open(&self.path)?, &new))?;
        // Who knocks meets the one before or this one, never none.
        std::fs::rename(self.path.join(&new), self.path.join(DOOR))?;
        Ok(listener)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the folder back, with no socket in it that nobody listens at.
    pub fn leave(self) {
        // One that stays says to who asks there that nobody listens.
        let _ = std::fs::remove_file(self.path.join(DOOR));
    }

    /// Lets whoever finds the folder held know where its holder answers.
    pub fn announce(&mut self, api: &str) {
        self.write_holder(Some(api.to_owned()));
    }

    /// Written for people: on a full disk it is left out, and the lock holds all the same.
    fn write_holder(&mut self, api: Option<String>) {
        let pid = std::process::id();
        let text = serde_json::to_string(&Holder { pid, api }).unwrap_or_default();
        let _ = self
            .lock
            .set_len(0)
            .and_then(|()| self.lock.rewind())
            .and_then(|()| writeln!(self.lock, "{text}"));
    }
}

fn held(path: &Path, lock: &mut File) -> Failure {
    let mut text = String::new();
    // What cannot be read is only not shown: that the folder is held is certain.
    let _ = lock.read_to_string(&mut text);
    let holder: Option<Holder> = serde_json::from_str(&text).ok();
    let mut what = format!("midge is already running on `{}`", path.display());
    if let Some(holder) = holder {
        what.push_str(&format!(" (process {}", holder.pid));
        if let Some(api) = holder.api {
            what.push_str(&format!(", API at http://{api}"));
        }
        what.push(')');
    }
    Failure::new(Exit::AlreadyRunning, what)
        .hint("use that one, stop it with Ctrl-C or SIGTERM, or start another on a folder of its own with `--data DIR`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_folder_is_its_owners_alone_and_one_platforms_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/data");
        let mut folder = DataFolder::take(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);

        let second = DataFolder::take(&path).unwrap_err();
        assert_eq!(second.exit, Exit::AlreadyRunning);
        let pid = format!("(process {})", std::process::id());
        assert!(second.what.ends_with(&pid), "{}", second.what);
        folder.announce("127.0.0.1:8081");
        let second = DataFolder::take(&path).unwrap_err();
        assert!(second.what.ends_with("API at http://127.0.0.1:8081)"));

        drop(folder);
        DataFolder::take(&path).unwrap();
    }

    #[test]
    fn a_folder_is_held_until_the_last_that_has_its_lock_lets_go() {
        let home = tempfile::tempdir().unwrap();
        // Longer than a socket's address may be.
        let path = home.path().join("deep/".repeat(40)).join("data");
        let folder = DataFolder::take(&path).unwrap();
        let door = folder.listen().unwrap();
        let successor = DataFolder::adopt(&path, folder.lock().try_clone_to_owned().unwrap());
        drop(folder);
        assert!(DataFolder::take(&path).is_err());
        connect(&path).unwrap();
        let new_door = successor.listen().unwrap();
        drop(door);
        connect(&path).unwrap();
        drop((successor, new_door));
        DataFolder::take(&path).unwrap();
        assert!(connect(&path).is_err());
    }

    #[test]
    fn a_folder_that_cannot_be_one_is_refused_in_words() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let failure = DataFolder::take(&path).unwrap_err();
            assert_eq!(failure.exit, Exit::Failed);
            assert!(failure.what.contains("cannot be used"), "{}", failure.what);
        }
    }
}
