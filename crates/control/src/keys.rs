//! The platform's keys: one signs catalogs, one signs native code, one seals what is secret in the records. Each is a file
//! of 32 bytes that only its owner reads.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::{PublicKey, SecretKey, SignatureError};

use crate::seal::Seal;

/// What the keys' files are called, in the folder of the keys.
pub(crate) const FILES: [&str; 3] = ["catalog.key", "compile.key", SECRETS];

/// Seals secrets. Backups of format 1 have none: there was nothing to seal.
pub(crate) const SECRETS: &str = "secrets";

/// Why a key could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "while reading or making the key `{}`: {error}; see to the disk and to who may read and write there",
        path.display()
    )]
    Io { path: PathBuf, error: io::Error },
    #[error("the key `{}` is damaged: {error}; restore it from a backup", path.display())]
    Damaged {
        path: PathBuf,
        error: SignatureError,
    },
    #[error("the key `{}` is damaged: it is all zeros; restore it from a backup", .0.display())]
    Zeros(PathBuf),
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
}

/// The secret halves.
pub(crate) struct Keys {
    pub catalog: SecretKey,
    pub compile: SecretKey,
    pub secrets: Seal,
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
        let [catalog, compile, secrets] = FILES.map(|name| load_or_make(&folder.join(name)));
        Ok(Self {
            catalog: SecretKey::from_seed(catalog?),
            compile: SecretKey::from_seed(compile?),
            secrets: Seal::new(&secrets?),
        })
    }

    pub fn public(&self) -> PublicKeys {
        PublicKeys {
            catalog: self.catalog.public(),
            compile: self.compile.public(),
        }
    }
}

fn load_or_make(path: &Path) -> Result<[u8; 32], KeyError> {
    let io = |error| KeyError::Io {
        path: path.to_owned(),
        error,
    };
    match File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(33).read_to_end(&mut bytes).map_err(io)?;
            let key: [u8; 32] = bytes
                .try_into()
                .map_err(|bytes: Vec<u8>| KeyError::Damaged {
                    path: path.to_owned(),
                    error: SignatureError::KeyLength(bytes.len()),
                })?;
            // What a file system leaves of a file whose bytes never arrived; anybody could sign with it.
            if key == [0; 32] {
                return Err(KeyError::Zeros(path.to_owned()));
            }
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(KeyError::Random)?;
            write_secret(path, &seed).map_err(io)?;
            Ok(seed)
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
        let sealed = Keys::open(&keys).unwrap().secrets.seal("a", b"b").unwrap();
        let again = Keys::open(&keys).unwrap().secrets;
        assert_eq!(again.open("a", &sealed).unwrap(), b"b");
        for name in FILES {
            let whole = std::fs::read(keys.join(name)).unwrap();
            for wrong in [&b"short"[..], &[0; 32]] {
                std::fs::write(keys.join(name), wrong).unwrap();
                let text = Keys::open(&keys).err().unwrap().to_string();
                assert!(text.contains(name) && text.contains("damaged"), "{text}");
            }
            std::fs::write(keys.join(name), whole).unwrap();
        }
    }
}
