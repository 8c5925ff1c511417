//! What commands write: results to standard output, notes and progress to standard error.

use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal, Write as _};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::failure::{Failure, While as _};

/// One line of the result.
pub fn line(text: impl Display) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{text}").map_err(|error| Failure::of_output(&error))
}

/// The result as one line of JSON, for scripts.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).expect("every result has a JSON form");
    line(text)
}

/// A remark that is no part of the result.
pub fn note(text: impl Display) {
    // Nobody reads standard error any more: the result matters, the remark does not.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Rows under a header, each column as wide as its widest cell.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    line(lay_out(header, rows).trim_end_matches('\n'))
}

fn lay_out(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Asks whether this is to be deleted; an error unless somebody is there who wants it.
pub fn confirm_deletion(what: &str) -> Result<(), Failure> {
    match ask(&format!("Delete {what}?")) {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::failed("nothing was deleted")),
        None => Err(
            Failure::usage(format!("{what} was not deleted: nobody is here to ask"))
                .hint("say that you mean it with `--yes`"),
        ),
    }
}

/// Asks a yes-or-no question; `None` if nobody is there to answer.
fn ask(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Asks for a line that is not shown, of up to `most` bytes; `None` if whoever is there wants to give none.
pub fn ask_hidden(question: &str, most: usize) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let _ = write!(io::stderr().lock(), "{question}: ");
    let line = enable_raw_mode().and_then(|()| hidden_line(most));
    // If this fails, the terminal is gone.
    let _ = disable_raw_mode();
    let _ = writeln!(io::stderr().lock());
    line.or_fail(|| "reading from the terminal".into())
}

fn hidden_line(most: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // As long as it may become: what grows leaves a copy behind.
    let mut line = Zeroizing::new(String::with_capacity(most));
    loop {
        let key = match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => key,
            _ => continue,
        };
        match (key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
            (KeyCode::Enter, _) | (KeyCode::Char('j'), true) => {
                return Ok(Some(Zeroizing::new(line.as_bytes().to_vec())));
            }
            (KeyCode::Char('c' | 'd'), true) | (KeyCode::Esc, _) => return Ok(None),
            (KeyCode::Backspace, _) => drop(line.pop()),
            (KeyCode::Char(letter), false) if line.len() + letter.len_utf8() <= most => {
                line.push(letter);
            }
            _ => {}
        }
    }
}

/// One line on a terminal that is written over as work goes on, and gone at the end. Silent elsewhere.
pub struct Progress {
    shown: bool,
    last: Option<std::time::Instant>,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            shown: io::stderr().is_terminal(),
            last: None,
        }
    }

    /// Shows `text` in the place of what was shown before, ten times a second at most.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        let now = std::time::Instant::now();
        let due = self
            .last
            .is_none_or(|last| now.duration_since(last).as_millis() >= 100);
        if self.shown && due {
            let _ = write!(io::stderr().lock(), "\r\x1b[K{}", text());
            self.last = Some(now);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown && self.last.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// A moment in milliseconds since 1970 as people and machines read it: `2026-11-24T07:05:03Z`.
pub fn moment(ms: u64) -> String {
    moment_to(ms, 0)
}

/// As [`moment`], to the millisecond.
pub fn moment_ms(ms: u64) -> String {
    moment_to(ms, 3)
}

fn moment_to(ms: u64, digits: usize) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| ms.to_string(), |at| format!("{at:.digits$}"))
}

/// A number of bytes with three digits or so: `75.2 KiB`.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let mut scaled = bytes as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < units.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{scaled:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["shop".to_owned(), "3".to_owned()],
            vec!["a-long-name".to_owned(), "12".to_owned()],
        ];
        assert_eq!(
            lay_out(&["app", "version"], &rows),
            "app          version\nshop         3\na-long-name  12\n"
        );
    }

    #[test]
    fn moments_and_sizes_are_for_people() {
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(1_795_503_903_999), "2026-11-24T07:05:03Z");
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (77_000, "75.2 KiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
