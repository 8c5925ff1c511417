//! Workers' log lines: to rotating files for the operator, and to the distribution for the apps' owners.
//!
//! A line comes for every request. The files are written in batches by a thread of their own; what a full or slow
//! disk does not take is dropped and counted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::Bytes;
use distribution::Distribution;
use model::{AppId, limits};

const FILE_BYTES: u64 = limits::LOG_FILE.default.bytes();
const FILES: u64 = limits::LOG_FILES.default;
const QUEUE_BYTES: u64 = limits::LOG_QUEUE.default.bytes();
/// Batches that may wait; their bytes are bounded apart.
const QUEUE: usize = 1_024;

/// Where log lines go.
pub struct Logs {
    distribution: Arc<dyn Distribution>,
    batches: mpsc::SyncSender<Batch>,
    counts: Arc<Counts>,
}

/// Ends when every [`Logs`] is gone; joined so that what was taken is written.
pub type Writing = JoinHandle<()>;

#[derive(Default)]
struct Counts {
    waiting_bytes: AtomicU64,
    dropped_lines: AtomicU64,
}

struct Batch {
    text: Vec<u8>,
    lines: u64,
}

impl Logs {
    /// Files lie in `folder`, which is made if it is missing.
    pub fn start(
        folder: &Path,
        distribution: Arc<dyn Distribution>,
    ) -> io::Result<(Self, Writing)> {
        let mut files = Files::open(folder)?;
        let (batches, waiting) = mpsc::sync_channel::<Batch>(QUEUE);
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        let writing = std::thread::Builder::new()
            .name("logs".into())
            .spawn(move || {
                for batch in waiting {
                    if files.write(&batch.text).is_err() {
                        counted.lose(batch.lines);
                    }
                    let bytes = batch.text.len() as u64;
                    counted.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
            })?;
        let logs = Self {
            distribution,
            batches,
            counts,
        };
        Ok((logs, writing))
    }

    /// Takes what a worker sent: lines of `tenant/app`, a tab and one JSON record.
    pub fn take(&self, frame: &Bytes) {
        let Ok(frame_text) = std::str::from_utf8(frame) else {
            let lines = frame.iter().filter(|byte| **byte == b'\n').count();
            self.counts.lose(lines as u64);
            return;
        };
        let mut text = Vec::with_capacity(frame.len());
        let mut lines = 0;
        // Lines of one app often follow each other.
        let mut last: Option<(&str, AppId)> = None;
        for line in frame_text.split_terminator('\n') {
            let Some((name, record)) = line.split_once('\t') else {
                self.counts.lose(1);
                continue;
            };
            if last.as_ref().is_none_or(|(known, _)| *known != name) {
                last = name.parse().ok().map(|app| (name, app));
            }
            let Some((_, app)) = &last else {
                self.counts.lose(1);
                continue;
            };
            let record = record.as_bytes();
            self.distribution.log(app, frame.slice_ref(record));
            text.extend_from_slice(record);
            text.push(b'\n');
            lines += 1;
        }
        self.write(Batch { text, lines });
    }

    /// Lines that no file holds.
    pub fn dropped_lines(&self) -> u64 {
        self.counts.dropped_lines.load(Ordering::Relaxed)
    }

    fn write(&self, batch: Batch) {
        let (bytes, lines) = (batch.text.len() as u64, batch.lines);
        let waiting = self
            .counts
            .waiting_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        // A batch may be larger than the queue: it is taken if nothing else waits.
        let fits = waiting == 0 || waiting + bytes <= QUEUE_BYTES;
        if !fits || self.batches.try_send(batch).is_err() {
            let counts = &self.counts;
            counts.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            counts.lose(lines);
        }
    }
}

impl Counts {
    fn lose(&self, lines: u64) {
        self.dropped_lines.fetch_add(lines, Ordering::Relaxed);
    }
}

/// `requests-1.ndjson`, `requests-2.ndjson` …; the newest is written to, the oldest go.
struct Files {
    folder: PathBuf,
    number: u64,
    /// None if it must be opened first.
    file: Option<File>,
    length: u64,
}

impl Files {
    fn open(folder: &Path) -> io::Result<Self> {
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
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
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
    use distribution::embedded::Embedded;

    use super::*;

    fn start(folder: &Path) -> (Logs, Writing, Arc<Embedded>) {
        let distribution = Arc::new(Embedded::new(folder.join("artifacts")).unwrap());
        let (logs, writing) = Logs::start(&folder.join("logs"), distribution.clone()).unwrap();
        (logs, writing, distribution)
    }

    fn text(folder: &Path, number: u64) -> String {
        fs::read_to_string(folder.join(format!("logs/requests-{number}.ndjson"))).unwrap()
    }

    #[test]
    fn lines_reach_the_file_and_the_apps_own_log() {
        let folder = tempfile::tempdir().unwrap();
        let (logs, writing, distribution) = start(folder.path());
        logs.take(&Bytes::from_static(
            b"a/shop\t{\"n\":1}\na/shop\t{\"n\":2}\na/blog\t{\"n\":3}\nbroken\nA/b\t{}\n",
        ));
        assert_eq!(logs.dropped_lines(), 2);
        logs.take(&Bytes::from_static(b"a/shop\t\xff\n"));
        assert_eq!(logs.dropped_lines(), 3);
        drop(logs);
        writing.join().unwrap();
        assert_eq!(text(folder.path(), 1), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
        let recent = |app: &str| distribution.logs(&app.parse().unwrap()).recent;
        assert_eq!(recent("a/shop"), ["{\"n\":1}", "{\"n\":2}"]);
        assert_eq!(recent("a/blog"), ["{\"n\":3}"]);

        // A start goes on where the last one ended.
        let (logs, writing, _) = start(folder.path());
        logs.take(&Bytes::from_static(b"a/shop\t{\"n\":4}\n"));
        drop(logs);
        writing.join().unwrap();
        assert!(text(folder.path(), 1).ends_with("{\"n\":3}\n\n{\"n\":4}\n"));
    }

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
