//! The operator's log files: full ones make way for new ones.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use model::limits;

const FILE_BYTES: u64 = limits::LOG_FILE.default.bytes();
const FILES: u64 = limits::LOG_FILES.default;

/// `requests-1.ndjson`, `requests-2.ndjson` …; the newest is written to, the oldest go.
pub struct Files {
    folder: PathBuf,
    number: u64,
    /// None if it must be opened first.
    file: Option<File>,
    length: u64,
}

impl Files {
    pub fn open(folder: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        let newest = numbers(folder)?.into_iter().max();
        let mut files = Self {
            folder: folder.to_owned(),
            number: newest.unwrap_or(1),
            file: None,
            length: 0,
        };
        files.file()?;
        if files.length > 0 {
            // The last line may have been cut short by a crash; the next one must not grow out of it.
            files.write(b"\n")?;
        }
        Ok(files)
    }

    /// Appends whole lines, or nothing.
    pub fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length + text.len() as u64 > FILE_BYTES {
            self.rotate()?;
        }
        let length = self.length;
        let file = self.file()?;
        if let Err(error) = file.write_all(text) {
            // Half a line would spoil the next one. If it cannot be cut off, the next file is begun.
            if file.set_len(length).is_err() {
                self.number += 1;
            }
            self.file = None;
            return Err(error);
        }
        self.length += text.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        self.number += 1;
        for number in numbers(&self.folder)? {
            if number + FILES <= self.number {
                fs::remove_file(self.path(number))?;
            }
        }
        self.file().map(|_| ())
    }

    fn file(&mut self) -> io::Result<&mut File> {
        let opened = match self.file.take() {
            Some(file) => file,
            None => {
                let path = self.path(self.number);
                let mut options = OpenOptions::new();
                let file = options.create(true).append(true).mode(0o600).open(path)?;
                self.length = file.metadata()?.len();
                file
            }
        };
        Ok(self.file.insert(opened))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("requests-{number}.ndjson"))
    }
}

/// The numbers of the files in `folder`.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for file in fs::read_dir(folder)? {
        match file {
            Ok(file) => {
                let name = file.file_name();
                let name = name.to_string_lossy();
                let number = name
                    .strip_prefix("requests-")
                    .and_then(|rest| rest.strip_suffix(".ndjson"));
                numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_make_way() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::open(folder.path()).unwrap();
        let line = [&vec![b'x'; (FILE_BYTES / 2) as usize - 1][..], b"\n"].concat();
        for _ in 0..2 * FILES + 2 {
            files.write(&line).unwrap();
        }
        let mut numbers = numbers(folder.path()).unwrap();
        numbers.sort_unstable();
        assert_eq!(numbers, (2..=FILES + 1).collect::<Vec<_>>());
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_lines_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::open(folder.path()).unwrap();
        files.write(b"{}\n").unwrap();
        // A device that is always full stands in for the file.
        files.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        let error = files.write(b"{\"lost\":1}\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        files.write(b"{\"kept\":1}\n").unwrap();
        let all: String = numbers(folder.path())
            .unwrap()
            .into_iter()
            .map(|number| fs::read_to_string(files.path(number)).unwrap())
            .collect();
        assert!(all.contains("{\"kept\":1}\n") && !all.contains("lost"));
    }
}
