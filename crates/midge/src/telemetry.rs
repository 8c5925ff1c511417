//! The platform's own log: one line an event on standard error, for a person at a terminal, as JSON elsewhere.
//!
//! Apps' logs and the line of each request are the node's, in its data folder.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::without_controls;
use crate::screen;

/// Where the platform's own events go. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    ForPeople,
    Json,
}

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// How things go.
    Info,
    /// Something an operator should look at.
    Warning,
}

impl Log {
    /// Written for whoever reads standard error.
    pub fn to_stderr() -> Self {
        let form = if io::stderr().is_terminal() {
            Form::ForPeople
        } else {
            Form::Json
        };
        Self { form }
    }

    pub fn info(&self, text: &str) {
        self.event(Weight::Info, text);
    }

    pub fn warning(&self, text: &str) {
        self.event(Weight::Warning, text);
    }

    fn event(&self, weight: Weight, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = now.map_or(0, |since| since.as_millis() as u64);
        let line = line(self.form, now_ms, weight, text);
        // A platform whose log nobody takes goes on.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

fn line(form: Form, now_ms: u64, weight: Weight, text: &str) -> String {
    let (at, text) = (screen::moment_ms(now_ms), without_controls(text));
    match (form, weight) {
        (Form::ForPeople, Weight::Info) => format!("{at} {text}"),
        (Form::ForPeople, Weight::Warning) => format!("{at} warning: {text}"),
        (Form::Json, weight) => {
            let weight = match weight {
                Weight::Info => "info",
                Weight::Warning => "warning",
            };
            serde_json::json!({ "time": at, "level": weight, "text": text }).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_for_people_and_for_machines() {
        let check = |form: Form, weight: Weight, expected: &str| {
            assert_eq!(line(form, 0, weight, "a worker ended"), expected);
        };
        check(
            Form::ForPeople,
            Weight::Info,
            "1970-01-01T00:00:00.000Z a worker ended",
        );
        check(
            Form::ForPeople,
            Weight::Warning,
            "1970-01-01T00:00:00.000Z warning: a worker ended",
        );
        check(
            Form::Json,
            Weight::Warning,
            r#"{"level":"warning","text":"a worker ended","time":"1970-01-01T00:00:00.000Z"}"#,
        );
        assert_eq!(line(Form::Json, 0, Weight::Info, "a\nb").lines().count(), 1);
    }
}
