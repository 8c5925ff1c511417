//! Waiting for a change of what is served.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::source::{Source, State};

/// Editors write in several steps, and programs several files.
const SETTLE: Duration = Duration::from_millis(50);

/// How often one looks where the kernel does not say.
const LOOK: Duration = Duration::from_millis(500);

/// Returns when what `source` is made of differs from `before`.
pub async fn change(source: &Source, before: &State) {
    loop {
        // What changes from here on wakes us; what has changed already is seen at once.
        let changes = Changes::of(source);
        if !before.difference(&source.state()).is_empty() {
            return;
        }
        match changes {
            Ok(changes) => changes.next().await,
            Err(_) => tokio::time::sleep(LOOK).await,
        }
        tokio::time::sleep(SETTLE).await;
    }
}

/// The kernel's word of changes in the folders of a source.
struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    fn of(source: &Source) -> io::Result<Self> {
        let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let kinds = WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE;
        for folder in &source.state().folders {
            match inotify::add_watch(&changes, folder, kinds) {
                // Gone meanwhile, which is a change that its own folder tells.
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // SAFETY: the descriptor is owned, moves into the registration and is closed only after it.
        let changes = unsafe { AsyncFd::register(changes) };
        Ok(Self(changes?))
    }

    async fn next(&self) {
        // What it says does not matter: one looks at everything.
        let _ = self.0.readable().await;
    }
}
