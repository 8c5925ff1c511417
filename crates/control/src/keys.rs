//! The platform's keys: one signs catalogs, one signs native code. Each is a file of 32 bytes that only its owner reads.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::{PublicKey, SecretKey, SignatureError};

/// What the keys' files are called, in the folder of the keys.
pub(crate) const FILES: [&str; 2] = ["catalog.key", "compile.key"];

/// Why a key could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("while reading or making the key `{}`: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("the key `{}` is damaged: {error}; restore it from a backup", path.display())]
    Damaged {
        path: PathBuf,
        error: SignatureError,
    },
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
}

/// The secret halves.
pub(crate) struct Keys {
    pub catalog: SecretKey,
    pub compile: SecretKey,
}

/// The public halves: what a node checks catalogs and native code with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeys {
    pub catalog: PublicKey,
    pub compile: PublicKey,
}

impl Keys {
    /// Reads the keys in `folder`, and makes those that are missing.
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        let io = |error| KeyError::Io {
            path: folder.to_owned(),
            error,
        };
        std::fs::create_dir_all(folder).map_err(io)?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(io)?;
        let [catalog, compile] = FILES.map(|name| load_or_make(&folder.join(name)));
        Ok(Self {
            catalog: catalog?,
            compile: compile?,
        })
    }

    pub fn public(&self) -> PublicKeys {
        PublicKeys {
            catalog: self.catalog.public(),
            compile: self.compile.public(),
        }
    }
}

fn load_or_make(path: &Path) -> Result<SecretKey, KeyError> {
    let io = |error| KeyError::Io {
        path: path.to_owned(),
        error,
    };
    match File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(33).read_to_end(&mut bytes).map_err(io)?;
            SecretKey::from_slice(&bytes).map_err(|error| KeyError::Damaged {
                path: path.to_owned(),
                error,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(KeyError::Random)?;
            write_secret(path, &seed).map_err(io)?;
            Ok(SecretKey::from_seed(seed))
        }
        Err(error) => Err(io(error)),
    }
}

/// Writes a file that only its owner reads: whole and on disk, or not there.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&name)?;
    // An old file of that name keeps its mode when it is opened.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&name, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let first = Keys::open(&keys).unwrap().public();
        assert_eq!(Keys::open(&keys).unwrap().public(), first);
        assert_ne!(first.catalog, first.compile);
        for name in FILES {
            let mode = std::fs::metadata(keys.join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        std::fs::write(keys.join("compile.key"), b"short").unwrap();
        let text = Keys::open(&keys).err().unwrap().to_string();
        assert!(
            text.contains("compile.key") && text.contains("damaged"),
            "{text}"
        );
    }
}
