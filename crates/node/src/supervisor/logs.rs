//! Workers' log lines: to rotating files and to standard output for the operator, to the distribution for the apps'
//! owners, and to the collector.
//!
//! A line comes for every request. Files and standard output are written in batches, each by a thread of its own; what a
//! full or slow disk, or a reader that does not read, does not take is dropped and counted.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::Bytes;
use distribution::Distribution;
use model::{Owner, limits};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::log_files::Files;
use super::metrics::Unwritten;
use super::otlp::Export;

const QUEUE_BYTES: u64 = limits::LOG_QUEUE.default.bytes();
/// Batches that may wait; their bytes are bounded apart.
const QUEUE: usize = 1_024;

/// Where an operator wants log lines.
#[derive(Debug, Clone, PartialEq)]
pub struct LogOutputs {
    /// Rotating files in the node's folder.
    pub files: bool,
    /// This process's standard output.
    pub stdout: bool,
}

/// Where log lines go.
pub struct Logs {
    distribution: Arc<dyn Distribution>,
    files: Option<Output>,
    stdout: Option<Output>,
    /// The collector, if it gets log lines.
    export: Option<Arc<Export>>,
    /// Lines that are none.
    malformed: AtomicU64,
}

/// The threads that write. They end when every [`Logs`] is gone.
pub struct Writing {
    files: Option<JoinHandle<()>>,
    stdout: Option<JoinHandle<()>>,
}

impl Writing {
    /// Waits until what was taken is written: to files however long it takes, to standard output for
    /// [`limits::STDOUT_WAIT`].
    pub async fn ended(self) {
        if let Some(files) = self.files {
            let _ = spawn_blocking(move || files.join()).await;
        }
        if let Some(stdout) = self.stdout {
            let wait = limits::STDOUT_WAIT.default.duration();
            let _ = timeout(wait, spawn_blocking(move || stdout.join())).await;
        }
    }
}

/// A place that batches are written to by a thread of its own.
struct Output {
    batches: mpsc::SyncSender<Batch>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    waiting_bytes: AtomicU64,
    dropped_lines: AtomicU64,
}

#[derive(Clone)]
struct Batch {
    text: Bytes,
    lines: u64,
}

impl Logs {
    /// Files lie in `folder`, which is made if it is missing.
    pub fn start(
        folder: &Path,
        outputs: &LogOutputs,
        export: Option<Arc<Export>>,
        distribution: Arc<dyn Distribution>,
    ) -> io::Result<(Self, Writing)> {
        let mut logs = Self {
            distribution,
            files: None,
            stdout: None,
            export,
            malformed: AtomicU64::new(0),
        };
        let mut writing = Writing {
            files: None,
            stdout: None,
        };
        if outputs.files {
            let mut files = Files::open(folder)?;
            let (output, thread) = Output::start("logs", move |text| files.write(text))?;
            (logs.files, writing.files) = (Some(output), Some(thread));
        }
        if outputs.stdout {
            let mut stdout = Stream::new(File::from(io::stdout().as_fd().try_clone_to_owned()?));
            let (output, thread) = Output::start("stdout", move |text| stdout.write(text))?;
            (logs.stdout, writing.stdout) = (Some(output), Some(thread));
        }
        Ok((logs, writing))
    }

    /// Takes what a worker sent: lines of an [`Owner`], a tab and one JSON record.
    pub fn take(&self, frame: &Bytes) {
        let Ok(frame_text) = std::str::from_utf8(frame) else {
            let lines = frame.iter().filter(|byte| **byte == b'\n').count();
            self.malformed.fetch_add(lines as u64, Ordering::Relaxed);
            return;
        };
        let written = self.files.is_some() || self.stdout.is_some();
        let mut text = Vec::with_capacity(if written { frame.len() } else { 0 });
        let mut lines = 0;
        // Lines of one app often follow each other.
        let mut last: Option<(&str, Owner)> = None;
        for line in frame_text.split_terminator('\n') {
            let Some((name, record)) = line.split_once('\t') else {
                self.malformed.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if last.as_ref().is_none_or(|(known, _)| *known != name) {
                last = name.parse().ok().map(|owner| (name, owner));
            }
            let Some((_, owner)) = &last else {
                self.malformed.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let record = record.as_bytes();
            self.distribution.log(owner, frame.slice_ref(record));
            if let Some(export) = &self.export {
                export.log(frame.slice_ref(record));
            }
            if written {
                text.extend_from_slice(record);
                text.push(b'\n');
                lines += 1;
            }
        }
        let text = Bytes::from(text);
        for output in self.files.iter().chain(&self.stdout) {
            let text = text.clone();
            output.put(Batch { text, lines });
        }
    }

    /// Lines that were not written where they should have been.
    pub fn dropped_lines(&self) -> Unwritten {
        let dropped = |output: &Option<Output>| {
            let output = output.as_ref();
            output.map_or(0, |output| {
                output.counts.dropped_lines.load(Ordering::Relaxed)
            })
        };
        Unwritten {
            files: dropped(&self.files) + self.malformed.load(Ordering::Relaxed),
            stdout: dropped(&self.stdout),
        }
    }
}

impl Output {
    /// Has a thread of this name write whole lines with `write`.
    fn start(
        name: &str,
        mut write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (batches, waiting) = mpsc::sync_channel::<Batch>(QUEUE);
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        let thread = std::thread::Builder::new().name(name.into());
        let thread = thread.spawn(move || {
            for batch in waiting {
                if write(&batch.text).is_err() {
                    counted.lose(batch.lines);
                }
                let bytes = batch.text.len() as u64;
                counted.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
        })?;
        Ok((Self { batches, counts }, thread))
    }

    fn put(&self, batch: Batch) {
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

/// Standard output.
struct Stream {
    file: File,
    /// A line may have been cut short; the next one must not grow out of it.
    torn: bool,
}

impl Stream {
    fn new(file: File) -> Self {
        Self { file, torn: false }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
        }
        let written = self.file.write_all(text);
        self.torn = written.is_err();
        written
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use distribution::embedded::Embedded;

    use super::*;

    fn start(folder: &Path) -> (Logs, Writing, Arc<Embedded>) {
        let distribution = Arc::new(Embedded::new(folder.join("artifacts")).unwrap());
        let outputs = LogOutputs {
            files: true,
            stdout: false,
        };
        let started = Logs::start(&folder.join("logs"), &outputs, None, distribution.clone());
        let (logs, writing) = started.unwrap();
        (logs, writing, distribution)
    }

    fn text(folder: &Path, number: u64) -> String {
        fs::read_to_string(folder.join(format!("logs/requests-{number}.ndjson"))).unwrap()
    }

    #[tokio::test]
    async fn lines_reach_the_file_and_the_apps_own_log() {
        let folder = tempfile::tempdir().unwrap();
        let (logs, writing, distribution) = start(folder.path());
        logs.take(&Bytes::from_static(
            b"a/shop\t{\"n\":1}\na/shop\t{\"n\":2}\na/blog\t{\"n\":3}\nbroken\nA/b\t{}\n",
        ));
        assert_eq!(logs.dropped_lines().files, 2);
        logs.take(&Bytes::from_static(b"a/shop\t\xff\n"));
        assert_eq!(logs.dropped_lines().files, 3);
        drop(logs);
        writing.ended().await;
        assert_eq!(text(folder.path(), 1), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
        let recent = |app: &str| distribution.logs(&app.parse().unwrap()).recent;
        assert_eq!(recent("a/shop"), ["{\"n\":1}", "{\"n\":2}"]);
        assert_eq!(recent("a/blog"), ["{\"n\":3}"]);

        // A start goes on where the last one ended.
        let (logs, writing, _) = start(folder.path());
        logs.take(&Bytes::from_static(b"a/shop\t{\"n\":4}\n"));
        drop(logs);
        writing.ended().await;
        assert!(text(folder.path(), 1).ends_with("{\"n\":3}\n\n{\"n\":4}\n"));
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_costs_lines_and_no_waiting() {
        let (reader, writer) = io::pipe().unwrap();
        let mut stdout = Stream::new(File::from(std::os::fd::OwnedFd::from(writer)));
        let (output, thread) = Output::start("stdout", move |text| stdout.write(text)).unwrap();
        let text = Bytes::from([&[b'x'; 65_535][..], b"\n"].concat());
        // The pipe and the queue hold some of it.
        for _ in 0..100 {
            let text = text.clone();
            output.put(Batch { text, lines: 1 });
        }
        let dropped = output.counts.dropped_lines.load(Ordering::Relaxed);
        assert!((30..99).contains(&dropped), "{dropped}");
        drop(output);
        let writing = Writing {
            files: None,
            stdout: Some(thread),
        };
        // Ends although the thread does not.
        writing.ended().await;
        drop(reader);
    }

    #[test]
    fn a_line_that_was_cut_short_does_not_spoil_the_next() {
        let mut file = tempfile::tempfile().unwrap();
        let mut stdout = Stream::new(OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert!(stdout.write(b"{\"lost\":1}\n").is_err());
        stdout.file = file.try_clone().unwrap();
        stdout.write(b"{\"kept\":1}\n").unwrap();
        stdout.write(b"{\"kept\":2}\n").unwrap();
        let mut text = String::new();
        io::Seek::rewind(&mut file).unwrap();
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "\n{\"kept\":1}\n{\"kept\":2}\n");
    }
}
