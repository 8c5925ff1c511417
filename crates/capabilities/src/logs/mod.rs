//! What guests print: cut into lines, bounded, and escaped so that no line can pass for another record.

pub mod host;

use std::sync::{Arc, Mutex};

use model::{LogStream, limits};

/// Takes whole lines.
pub trait LineSink: Send + Sync + 'static {
    /// A line without its end, with control characters escaped.
    fn line(&self, stream: LogStream, text: &str);
}

/// One output stream of one invocation. Clones write to the same stream.
#[derive(Clone)]
pub struct Lines(Arc<Mutex<State>>);

struct State {
    sink: Arc<dyn LineSink>,
    stream: LogStream,
    line: Vec<u8>,
    left: usize,
    cut: bool,
}

impl Lines {
    /// Keeps at most [`limits::LOG_BYTES`] of what is written; says so once when it drops the rest.
    pub fn new(sink: Arc<dyn LineSink>, stream: LogStream) -> Self {
        let left = limits::LOG_BYTES.default.as_usize();
        Self(Arc::new(Mutex::new(State {
            sink,
            stream,
            line: Vec::new(),
            left,
            cut: false,
        })))
    }

    pub fn write(&self, bytes: &[u8]) {
        let mut state = self.0.lock().expect("nothing panics while it holds a line");
        state.write(bytes);
    }

    /// Hands on a last line that has no end.
    pub fn finish(&self) {
        let mut state = self.0.lock().expect("nothing panics while it holds a line");
        if !state.line.is_empty() {
            state.emit();
        }
    }
}

impl State {
    fn write(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(self.left);
        self.left -= kept;
        for piece in bytes[..kept].split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece
                .strip_suffix(b"\n")
                .map_or((piece, false), |text| (text, true));
            for part in text.chunks(limits::LOG_LINE.default.as_usize()) {
                if self.line.len() + part.len() > limits::LOG_LINE.default.as_usize() {
                    self.emit();
                }
                self.line.extend_from_slice(part);
            }
            if ends {
                self.emit();
            }
        }
        if kept < bytes.len() && !std::mem::replace(&mut self.cut, true) {
            self.emit();
            let limit = limits::LOG_BYTES.default;
            let text =
                format!("the rest is dropped: one invocation may print {limit} to each stream");
            self.sink.line(LogStream::Platform, &text);
        }
    }

    fn emit(&mut self) {
        let text = escape(&self.line);
        self.line.clear();
        self.sink.line(self.stream, &text);
    }
}

/// The text with control characters, also those of other scripts' directions, written out.
fn escape(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => escaped.push(character),
            // U+2028 and U+2029 end lines; U+202A..E and U+2066..9 turn text around on a screen.
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                escaped.extend(character.escape_unicode());
            }
            character if character.is_control() => escaped.extend(character.escape_default()),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Page(Mutex<Vec<String>>);
    impl LineSink for Page {
        fn line(&self, stream: LogStream, text: &str) {
            self.0.lock().unwrap().push(format!("{stream:?} {text}"));
        }
    }

    fn check(pieces: &[&[u8]], expected: &[&str]) {
        let page = Arc::new(Page::default());
        let lines = Lines::new(page.clone(), LogStream::Stdout);
        pieces.iter().for_each(|piece| lines.write(piece));
        lines.finish();
        assert_eq!(*page.0.lock().unwrap(), expected);
    }

    #[test]
    fn output_becomes_lines_however_it_is_cut() {
        check(&[b"a", b"b\nc"], &["Stdout ab", "Stdout c"]);
        check(&[b"\n\n"], &["Stdout ", "Stdout "]);
        check(&[b"a\r\n"], &["Stdout a"]);
        check(&[], &[]);
    }

    #[test]
    fn nothing_a_guest_prints_can_move_a_cursor_or_fake_a_record() {
        check(
            &[b"\x1b[2J\x07{\"a\":1}\0"],
            &["Stdout \\u{1b}[2J\\u{7}{\"a\":1}\\u{0}"],
        );
        check(
            &["\u{202e}x\u{9b}".as_bytes()],
            &["Stdout \\u{202e}x\\u{9b}"],
        );
        check(&[b"\xff"], &["Stdout \u{fffd}"]);
    }

    #[test]
    fn output_is_bounded_and_the_cut_is_told_once() {
        let page = Arc::new(Page::default());
        let lines = Lines::new(page.clone(), LogStream::Stderr);
        for _ in 0..1000 {
            lines.write(&[b'x'; 1000]);
        }
        lines.finish();
        let page = page.0.lock().unwrap();
        let kept: usize = page
            .iter()
            .filter_map(|line| line.strip_prefix("Stderr "))
            .map(str::len)
            .sum();
        assert_eq!(kept, limits::LOG_BYTES.default.as_usize());
        assert_eq!(
            page.iter()
                .filter(|line| line.starts_with("Platform"))
                .count(),
            1
        );
    }
}
