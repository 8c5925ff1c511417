//! A pseudo-terminal, for what behaves otherwise where a person looks on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use crate::eventually;

/// A terminal of 100 columns and 24 lines.
pub struct Pty {
    master: File,
    slave: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    pub fn open() -> Self {
        let size = libc::winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: both descriptors are written before they are read, and are this value's alone from then on.
        let (master, slave) = unsafe {
            let none = std::ptr::null_mut();
            let opened = libc::openpty(&mut master, &mut slave, none, std::ptr::null_mut(), &size);
            assert_eq!(opened, 0, "a pseudo-terminal can be opened");
            (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, to) = (master.try_clone().expect("it can be copied"), shown.clone());
        // Ends when nobody has the other end any more.
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                to.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Self {
            master,
            slave,
            shown,
        }
    }

    /// Starts a command on this terminal, in a session of its own.
    pub fn start(&self, command: &mut Command) -> Child {
        let end = || self.slave.try_clone().expect("it can be copied");
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: both calls may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        command.spawn().expect("the command starts")
    }

    pub fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("somebody reads");
    }

    /// Has whoever writes to it wait, as Ctrl-S does.
    pub fn stop(&self) {
        // SAFETY: asks a descriptor that is open for something.
        let stopped = unsafe { libc::tcflow(self.slave.as_raw_fd(), libc::TCOOFF) };
        assert_eq!(stopped, 0, "a terminal can be stopped");
    }

    /// Everything that was written to it.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until this was written to it.
    pub fn shows(&self, text: &str) {
        eventually(&format!("the terminal shows `{text}`"), || {
            self.shown().contains(text).then_some(())
        });
    }

    /// How it treats what is typed and what is written.
    pub fn modes(&self) -> [libc::tcflag_t; 3] {
        // SAFETY: the settings are written before they are read.
        let settings = unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            let asked = libc::tcgetattr(self.slave.as_raw_fd(), &mut settings);
            assert_eq!(asked, 0, "a terminal has settings");
            settings
        };
        [settings.c_iflag, settings.c_oflag, settings.c_lflag]
    }
}
