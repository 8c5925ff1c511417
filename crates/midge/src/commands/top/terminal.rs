//! The terminal, taken for as long as something is shown and given back as it was, whatever happens.

use std::io;
use std::sync::mpsc as sync;
use std::thread;
use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::disable_raw_mode;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::rows::Key;

/// How long a terminal that nobody reads may take to be given back.
const GIVING_BACK: Duration = Duration::from_secs(1);

/// A terminal that shows a screen of its own. At a panic it is as it was before.
///
/// A thread of its own writes to it, because whoever reads a terminal may stop: nothing but that thread waits then.
pub struct Terminal {
    draws: sync::Sender<Draw>,
    /// A word about the taking of the terminal, then one about each draw; closed when it was given back.
    done: mpsc::Receiver<io::Result<()>>,
}

type Draw = Box<dyn FnOnce(&mut Frame<'_>) + Send>;

impl Terminal {
    /// Begins to take it.
    pub fn open() -> Self {
        let (draws, wanted) = sync::channel();
        let (told, done) = mpsc::channel(1);
        thread::spawn(move || write(&wanted, &told));
        Self { draws, done }
    }

    /// Waits until it is taken; to be asked once, and before anything is drawn.
    pub async fn taken(&mut self) -> io::Result<()> {
        self.done.recv().await.unwrap_or_else(|| Err(ended()))
    }

    pub async fn draw(
        &mut self,
        draw: impl FnOnce(&mut Frame<'_>) + Send + 'static,
    ) -> io::Result<()> {
        self.draws.send(Box::new(draw)).map_err(|_| ended())?;
        self.done.recv().await.unwrap_or_else(|| Err(ended()))
    }

    /// Gives it back: its modes at once, and its screen of before unless nobody reads.
    pub async fn give_back(mut self) {
        drop(self.draws);
        // If this fails, the thread tries again.
        let _ = disable_raw_mode();
        let given_back = async { while self.done.recv().await.is_some() {} };
        let _ = timeout(GIVING_BACK, given_back).await;
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that writes to it has ended")
}

/// Takes the terminal, draws what is `wanted`, and gives the terminal back when nobody can want anything any more.
fn write(wanted: &sync::Receiver<Draw>, told: &mpsc::Sender<io::Result<()>>) {
    // Who does not hear how a draw went wants no more of them.
    let tell = |how| drop(told.blocking_send(how));
    match ratatui::try_init() {
        Ok(mut terminal) => {
            tell(Ok(()));
            while let Ok(draw) = wanted.recv() {
                tell(terminal.draw(draw).map(drop));
            }
            ratatui::restore();
        }
        Err(error) => {
            ratatui::restore();
            tell(Err(error));
        }
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
