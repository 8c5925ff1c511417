//! Temporary files of the platform: gone when dropped, for their owner alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

/// A new file in `folder`. An error is the operating system's own, which says what is wrong with the disk.
pub(crate) fn file_in(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().make_in(folder, |path| {
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        options.open(path)
    })
}
