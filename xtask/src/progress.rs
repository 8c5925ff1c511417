//! Steps with a name and a time: what is being done, what it last said, and everything it said if it failed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Why something stopped, in words for the terminal.
pub struct Failure(pub String);

impl Failure {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// How often a long step says that it is still at work.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How many lines of a failed step are shown.
const SHOWN: usize = 400;

/// Tells on standard error what is being done.
pub struct Progress {
    began: Instant,
}

impl Progress {
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    /// Says something that takes no time.
    pub fn say(&self, text: &str) {
        eprintln!("[{:>6.1}s] {text}", self.began.elapsed().as_secs_f64());
    }

    /// Runs `command` to its end; its output is shown if it fails.
    pub fn step(&mut self, name: &str, command: &mut Command) -> Result<(), Failure> {
        self.read(name, command).map(drop)
    }

    /// Runs `command` to its end and returns what it wrote.
    pub fn read(&mut self, name: &str, command: &mut Command) -> Result<String, Failure> {
        self.say(name);
        let step = Instant::now();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Failure::new(format!(
                "{name}: `{}` cannot be started: {error}",
                command.get_program().display()
            ))
        })?;
        let (say, said) = mpsc::channel();
        listen(
            child.stdout.take().expect("standard output is piped"),
            say.clone(),
        );
        listen(child.stderr.take().expect("standard error is piped"), say);
        let mut lines = VecDeque::new();
        let mut whole = String::new();
        let mut heartbeat = Instant::now() + HEARTBEAT;
        loop {
            match said.recv_timeout(heartbeat.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    whole.push_str(&line);
                    whole.push('\n');
                    lines.push_back(line);
                    if lines.len() > SHOWN {
                        lines.pop_front();
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let last = lines.back().map_or("", |line| line.trim());
                    let last: String = last.chars().take(100).collect();
                    self.say(&format!(
                        "  still at it after {} s: {last}",
                        step.elapsed().as_secs()
                    ));
                    heartbeat = Instant::now() + HEARTBEAT;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = child
            .wait()
            .map_err(|error| Failure::new(format!("{name}: {error}")))?;
        if status.success() {
            return Ok(whole);
        }
        let shown: Vec<_> = lines.into();
        Err(Failure::new(format!(
            "{}\n\n{name} failed: {status}",
            shown.join("\n")
        )))
    }

    /// Runs `command` with this terminal as its own.
    pub fn hand_over(&self, command: &mut Command) -> Result<(), Failure> {
        let program = command.get_program().to_owned();
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::new(format!(
                "`{}` failed: {status}",
                program.display()
            ))),
            Err(error) => Err(Failure::new(format!(
                "`{}` cannot be started: {error}",
                program.display()
            ))),
        }
    }
}

/// Passes each line on; ends with its source.
fn listen(source: impl Read + Send + 'static, say: mpsc::Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n') {
            let Ok(line) = line else { return };
            if say
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
}
