//! The terminal, taken for as long as something is shown and given back as it was, whatever happens.

use std::io;
use std::thread;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Frame};
use tokio::sync::mpsc;

use super::rows::Key;

/// A terminal that shows a screen of its own. Dropped, or at a panic, it is as it was before.
pub struct Terminal(DefaultTerminal);

impl Terminal {
    pub fn open() -> io::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                ratatui::restore();
                Err(error)
            }
        }
    }

    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Press {
    Sort(Key),
    /// The terminal has another size.
    Redraw,
    Quit,
}

/// What is pressed from now on. The thread that waits for it ends with the process.
pub fn presses() -> mpsc::Receiver<Press> {
    let (told, presses) = mpsc::channel(16);
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if let Some(press) = meaning(&event)
                && told.blocking_send(press).is_err()
            {
                return;
            }
        }
    });
    presses
}

fn meaning(event: &Event) -> Option<Press> {
    let key = match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        Event::Resize(..) => return Some(Press::Redraw),
        _ => return None,
    };
    let KeyEvent {
        code, modifiers, ..
    } = key;
    Some(match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Press::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Press::Quit,
        KeyCode::Char('r') => Press::Sort(Key::Requests),
        KeyCode::Char('l') => Press::Sort(Key::Latency),
        KeyCode::Char('c') => Press::Sort(Key::Cpu),
        KeyCode::Char('m') => Press::Sort(Key::Memory),
        KeyCode::Char('e') => Press::Sort(Key::Errors),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_last_line_says() {
        let check = |code: KeyCode, modifiers: KeyModifiers, expected: Option<Press>| {
            let event = Event::Key(KeyEvent::new(code, modifiers));
            assert_eq!(meaning(&event), expected, "{code:?} {modifiers:?}");
        };
        check(KeyCode::Char('q'), KeyModifiers::NONE, Some(Press::Quit));
        check(KeyCode::Esc, KeyModifiers::NONE, Some(Press::Quit));
        check(KeyCode::Char('c'), KeyModifiers::CONTROL, Some(Press::Quit));
        let cpu = Some(Press::Sort(Key::Cpu));
        check(KeyCode::Char('c'), KeyModifiers::NONE, cpu);
        check(KeyCode::Char('x'), KeyModifiers::NONE, None);
        assert_eq!(meaning(&Event::Resize(80, 24)), Some(Press::Redraw));
    }
}
