//! What a process that serves asks of the system: the signals that end it, and descriptors enough.

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, While as _};
use crate::telemetry::Log;

/// What this process makes from now on is its user's alone, in whatever folder: records, keys and logs hold what tenants
/// entrusted.
pub fn keep_to_owner() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Whatever ends this process, its memory is written nowhere: it holds the keys that native code and catalogs are signed with,
/// and tenants' secrets.
pub fn refuse_core_dumps() -> Result<(), Failure> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).or_fail(|| "refusing core dumps".into())
}

/// SIGTERM and SIGINT, and where it is asked for SIGHUP, caught from the first moment on.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    pub fn listen() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).or_fail(|| "catching signals".into());
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: None,
        })
    }

    /// Those of a program that ends with its terminal.
    pub fn of_a_terminal() -> Result<Self, Failure> {
        let hangup = signal(SignalKind::hangup()).or_fail(|| "catching signals".into())?;
        Ok(Self {
            hangup: Some(hangup),
            ..Self::listen()?
        })
    }

    /// The next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            Some(_) = async { self.hangup.as_mut()?.recv().await } => {}
        }
    }
}

/// Each connection and each resident app takes a descriptor; workers inherit the bound.
pub fn raise_open_files(log: Log) {
    let bound = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: bound.maximum,
        maximum: bound.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log.warning(&format!(
            "the bound on open files stays at {:?}: {error}",
            bound.current
        ));
    }
}
