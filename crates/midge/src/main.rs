//! The one binary: the platform, its workers and compile children, and the commands that speak to it.

mod args;
mod certificates;
mod client;
mod commands;
mod config;
mod data_folder;
mod failure;
mod grants;
mod platform;
mod process;
mod profile;
mod project;
mod screen;
mod service;
mod sockets;
mod succession;
mod telemetry;
mod upload_file;
mod whole_file;
mod wiring;

use std::future::Future;
use std::io::Write as _;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use args::{Arguments, Command};
use commands::{
    apps, backup, build, certificate, completions, delete, deploy, dev, doctor, inspect, kv,
    limits, logs, new, restore, rollback, secret, status, tenant, token, top, up, upgrade,
    versions,
};
use failure::{Exit, Failure, While as _};

#[global_allocator]
static ALLOCATOR: node::Allocator = node::Allocator;

/// What still runs on other threads when a command has ended is given this long.
const LAST_WORDS: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Worker => return worker(),
        Command::CompileChild => return compile_child(),
        Command::Up(options) => wait_for(up::run(options)),
        Command::Upgrade(options) => upgrade::run(options),
        Command::New(options) => new::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Dev(options) => dev::run(options),
        Command::Deploy(options) => wait_for(deploy::run(&options)),
        Command::Apps(options) => wait_for(apps::run(&options)),
        Command::Versions(options) => wait_for(versions::run(&options)),
        Command::Rollback(options) => wait_for(rollback::run(&options)),
        Command::Logs(options) => wait_for(logs::run(&options)),
        Command::Delete(options) => wait_for(delete::run(&options)),
        Command::Inspect(options) => inspect::run(&options),
        Command::Token(options) => wait_for(token::run(&options)),
        Command::Tenant(options) => wait_for(tenant::run(&options)),
        Command::Certificate(options) => wait_for(certificate::run(&options)),
        Command::Secret(options) => wait_for(secret::run(&options)),
        Command::Kv(options) => wait_for(kv::run(&options)),
        Command::Status(options) => wait_for(status::run(&options)),
        Command::Top(options) => wait_for(top::run(&options)),
        Command::Doctor(options) => doctor::run(options),
        Command::Backup(options) => wait_for(backup::run(&options)),
        Command::Restore(options) => restore::run(&options),
        Command::Limits(options) => limits::run(&options),
        Command::Completions(options) => completions::run(&options),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Whether anyone reads it or not, the exit code says it.
            let _ = write!(std::io::stderr().lock(), "{failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Runs a command that waits for things, on this thread.
fn wait_for(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_fail(|| "making the event loop".into())?;
    let ended = runtime.block_on(command);
    runtime.shutdown_timeout(LAST_WORDS);
    ended
}

fn worker() -> ExitCode {
    name_process(c"midge-worker");
    if !has_descriptor_3() {
        return not_for_people("worker");
    }
    // SAFETY: it is open, and nothing in this process has taken it: this is the first thing that it does.
    node::worker(unsafe { OwnedFd::from_raw_fd(3) })
}

fn compile_child() -> ExitCode {
    name_process(c"midge-compile");
    if !has_descriptor_3() {
        return not_for_people("compile-child");
    }
    runtime::compile::child()
}

/// What the platform leaves to the processes that it starts.
fn has_descriptor_3() -> bool {
    // SAFETY: asks about the number only.
    unsafe { libc::fcntl(3, libc::F_GETFD) >= 0 }
}

/// What `ps` shows: these are started by a path that says nothing.
fn name_process(name: &std::ffi::CStr) {
    // A process without a telling name does its work as well.
    let _ = rustix::thread::set_name(name);
}

fn not_for_people(command: &str) -> ExitCode {
    let failure = Failure::usage(format!(
        "`midge {command}` is started by the platform itself"
    ))
    .hint("start the platform with `midge up`");
    eprint!("{failure}");
    ExitCode::from(Exit::Usage as u8)
}
