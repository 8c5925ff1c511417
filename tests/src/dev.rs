//! `midge dev` as a person at a terminal runs it.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::{Connection, Reply, command_line, eventually};

/// A running `midge dev`; ended when dropped.
pub struct Dev {
    process: Child,
    /// Where it keeps what it needs; nothing stays of it.
    temporary: tempfile::TempDir,
    out: Lines,
    err: Lines,
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Dev {
    /// Starts it in `folder`, on a free port.
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().expect("a folder can be made");
        let mut command = command_line::command(folder, folder);
        command
            .args(["dev", "--addr", "127.0.0.1:0"])
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: `prctl` is safe to call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // If the test is killed, this goes as well.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut process = command.spawn().expect("the binary starts");
        let out = collect(process.stdout.take().expect("it is piped"));
        let err = collect(process.stderr.take().expect("it is piped"));
        Self {
            process,
            temporary,
            out,
            err,
        }
    }

    /// Waits until it has made this file or folder, named from the folder that it made for itself.
    #[track_caller]
    pub fn makes(&self, name: &str) {
        eventually(&format!("`midge dev` makes `{name}`"), || {
            self.kept()
                .iter()
                .any(|own| own.join(name).exists())
                .then_some(())
        });
    }

    /// What there is of it below the folder for what is temporary.
    pub fn kept(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.temporary.path()).expect("the folder is there");
        let path = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("it is read").path();
        entries.map(path).collect()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Everything that it has written to standard error.
    pub fn err(&self) -> Vec<String> {
        self.err.lock().expect("no reader panics").clone()
    }

    /// Everything that it has written to standard output.
    pub fn out(&self) -> Vec<String> {
        self.out.lock().expect("no reader panics").clone()
    }

    /// Waits until a line of either kind holds `part`, and returns the last one that does.
    #[track_caller]
    pub fn says(&self, part: &str) -> String {
        eventually(&format!("`midge dev` says `{part}`"), || {
            let lines = [self.out(), self.err()].concat();
            lines.into_iter().rfind(|line| line.contains(part))
        })
    }

    /// Where the app answers, as the first line about it says.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let line = self.says("http://");
        let (_, address) = line.split_once("http://").expect("it has just been found");
        address.trim().parse().expect("an address follows")
    }

    /// Asks for `path` by the address alone.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        let address = self.address();
        let connection = Connection::open(address, &address.to_string());
        let reply = connection.and_then(|mut connection| connection.get(path));
        reply.expect("the app answers")
    }

    /// Waits until `/` is answered with `text`.
    #[track_caller]
    pub fn serves(&self, text: &str) {
        eventually(&format!("`{text}` is served"), || {
            (self.get("/").text() == text).then_some(())
        });
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the process is a child that was not waited for, so its id is its own.
        let sent = unsafe { libc::kill(self.id() as libc::pid_t, signal) };
        assert_eq!(sent, 0, "the signal could not be sent");
    }

    /// Sends a signal, waits for the end, and returns the exit code.
    pub fn end(mut self, signal: i32) -> Option<i32> {
        self.signal(signal);
        self.wait()
    }

    /// Waits for the end, and returns the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let status = eventually("`midge dev` ends", || {
            self.process.try_wait().expect("a child can be waited for")
        });
        status.code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}\n{}", self.out().join("\n"), self.err().join("\n"));
        }
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn collect(from: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let collected = lines.clone();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            collected.lock().expect("no reader panics").push(line);
        }
    });
    lines
}
