//! How a command ends when it does not succeed: an exit code, what happened, and what to do about it.

use std::fmt::{self, Display};
use std::io;

/// The exit codes, as `midge --help` documents them. 0 is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The reader of the output went away; there is nothing to say and nobody to say it to.
    Unread = 0,
    Failed = 1,
    Usage = 2,
    Refused = 3,
    Unreachable = 4,
    AlreadyRunning = 5,
    NotLive = 6,
    Interrupted = 130,
}

/// The table that help shows.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: a file, the build, the machine, or the platform itself
  2    the command line, a manifest or a configuration file is wrong
  3    the platform refused: token, name, version, upload
  4    the platform cannot be reached
  5    the platform is already running on this data folder
  6    deployed, or a secret or limits changed, but not live on every node within the wait, or not kept by one
  130  interrupted with Ctrl-C, before what was asked for was done";

/// Why a command ends, in words for a person.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// Lower case, no full stop; empty if nothing is to be said.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
    /// The stable code of the platform's refusal, if it refused.
    pub code: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            hint: None,
            code: None,
        }
    }

    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what)
    }

    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Output that could not be written. A reader that has seen enough is no error.
    pub fn of_output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Unread, ""),
            _ => Self::failed(format!("the output cannot be written: {error}")),
        }
    }
}

/// Says what was attempted when it fails.
pub trait While<T> {
    /// `doing` reads on after "while".
    fn or_fail(self, doing: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Display> While<T> for Result<T, E> {
    fn or_fail(self, doing: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::failed(format!("while {}: {error}", doing())))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.what.is_empty() {
            return Ok(());
        }
        writeln!(f, "error: {}", without_controls(&self.what))?;
        if let Some(hint) = &self.hint {
            writeln!(f, "hint: {}", without_controls(hint))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// A text that came over the wire could otherwise steer the terminal.
pub fn without_controls(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => plain.push(character),
            c if c.is_control() => plain.extend(c.escape_default()),
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_and_what_to_do() {
        let failure = Failure::usage("`x` is not a name").hint("write `midge apps`");
        assert_eq!(
            failure.to_string(),
            "error: `x` is not a name\nhint: write `midge apps`\n"
        );
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let failure = Failure::of_output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(
            (failure.exit, failure.to_string()),
            (Exit::Unread, "".into())
        );
    }

    #[test]
    fn a_text_cannot_steer_the_terminal() {
        let failure = Failure::failed("\u{1b}[2J");
        assert_eq!(failure.to_string(), "error: \\u{1b}[2J\n");
    }
}
