//! Files that are read whole: what a person names may be a device or a pipe that never ends.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use model::Size;
use model::limits::Limit;

use crate::failure::Failure;

/// Why a file could not be read whole. Reads on after the file's name.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is larger than {0}, which is the most that it may have")]
    TooLarge(Size),
    #[error("is not text: its byte {0} is not UTF-8")]
    NotText(usize),
}

/// The bytes of a file, up to the ceiling of `limit`.
pub fn read(path: &Path, limit: &Limit<Size>) -> Result<Vec<u8>, Unreadable> {
    let most = limit.ceiling.bytes();
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that too much is seen as too much.
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Unreadable::TooLarge(limit.ceiling));
    }
    Ok(bytes)
}

/// The same, as text.
pub fn read_text(path: &Path, limit: &Limit<Size>) -> Result<String, Unreadable> {
    String::from_utf8(read(path, limit)?)
        .map_err(|error| Unreadable::NotText(error.utf8_error().valid_up_to()))
}

impl Unreadable {
    /// The failure to read `what`, such as "the manifest `midge.toml`". What was read and cannot be right is wrong use.
    pub fn of(self, what: &str) -> Failure {
        match self {
            Self::Io(error) => Failure::failed(format!("while reading {what}: {error}")),
            wrong => Failure::usage(format!("{what} {wrong}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    const LIMIT: Limit<Size> = Limit {
        name: "four",
        default: Size(4),
        ceiling: Size(4),
        reason: "",
    };

    fn check(path: &Path, exit: Exit, part: &str) {
        let failure = read_text(path, &LIMIT).unwrap_err().of("the file");
        assert_eq!(failure.exit, exit);
        assert!(failure.what.contains(part), "{}", failure.what);
    }

    #[test]
    fn a_file_is_read_to_its_limit_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "four").unwrap();
        assert_eq!(read_text(&file, &LIMIT).unwrap(), "four");
        std::fs::write(&file, "fiver").unwrap();
        check(&file, Exit::Usage, "the file is larger than 4B");
        check(Path::new("/dev/zero"), Exit::Usage, "larger than 4B");
    }

    #[test]
    fn what_is_no_text_is_wrong_and_what_is_not_there_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        check(&file, Exit::Failed, "while reading the file");
        std::fs::write(&file, b"a\xff").unwrap();
        check(&file, Exit::Usage, "its byte 1 is not UTF-8");
    }
}
