//! The `midge` binary as a person at a terminal runs it.

use std::path::Path;
use std::process::{Command, Output};

use crate::platform::binary;

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ran {
    pub exit: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// What came of a command that the test has started.
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self {
            exit: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.exit, code, "{}{}", self.out, self.err);
        self
    }

    /// Asserts that its output, of either kind, holds `part`.
    #[track_caller]
    pub fn says(self, part: &str) -> Self {
        assert!(
            self.out.contains(part) || self.err.contains(part),
            "`{part}` is not in:\n{}{}",
            self.out,
            self.err
        );
        self
    }

    /// Its output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}:\n{}{}", self.out, self.err))
    }
}

/// Runs `midge` in `folder` with `home` as its user's home and nothing else of the environment that names a platform.
pub fn run(folder: &Path, home: &Path, arguments: &[&str]) -> Ran {
    let output = command(folder, home).args(arguments).output();
    Ran::of(output.expect("the binary starts"))
}

/// `midge` in `folder`, not started yet.
pub(crate) fn command(folder: &Path, home: &Path) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(folder).env("HOME", home);
    for name in [
        "MIDGE_API",
        "MIDGE_TOKEN",
        "MIDGE_PROFILE",
        "MIDGE_TENANT",
        "MIDGE_CONFIG",
        "XDG_DATA_HOME",
        "XDG_CONFIG_HOME",
    ] {
        command.env_remove(name);
    }
    command
}
