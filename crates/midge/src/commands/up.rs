//! `midge up`: the whole platform on this machine, until it is told to stop.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::FromRawFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use model::upgrade::UpgradeWord;
use serde::Serialize;
use tokio::sync::Notify;

use crate::commands::doctor;
use crate::config::{self, Flags, Settings};
use crate::failure::{Exit, Failure, While as _};
use crate::platform::{Places, Platform};
use crate::process::{Signals, keep_to_owner, raise_open_files, refuse_core_dumps};
use crate::profile::{self, Pointed, Profile};
use crate::screen;
use crate::service;
use crate::succession::{Door, Inheritance, Successor};
use crate::telemetry::Log;

/// Run the whole platform on this machine
///
/// Apps answer at `http://NAME.DOMAIN:PORT`. The first start makes an admin token, leaves it in the data folder as
/// `admin.token`, and points the default profile at this platform, so that `midge deploy` needs no ceremony.
///
/// SIGTERM and Ctrl-C let requests in flight finish within the grace period; a second one ends at once. Events of
/// the platform go to standard error, one a line: for people on a terminal, as JSON elsewhere. Where `telemetry.logs`
/// has "stdout", standard output has apps' log lines and nothing else.
#[derive(Debug, Args)]
#[command(after_help = "\
Configuration file (TOML; flags win over the environment, the environment over the file):
  data = \"/var/lib/midge\"
  listen = [\"0.0.0.0:80\", \"[::]:80\"]
  api = \"127.0.0.1:8081\"
  domain = \"apps.example.com\"
  workers = 4
  grace = \"10s\"

  [ceiling]                   # the most any app may have
  cpu = \"30s\"
  wall = \"5m\"
  memory = \"512MiB\"

  [node]                      # of each worker
  slots = 1000                # instances live at once
  tenant-slots = 500          # of them, of one tenant
  kv-store = \"1GiB\"           # what one key-value store may hold
  resident-apps = 4000
  connections = 10000
  trust-forwarded = false     # believe `forwarded` and `x-forwarded-*` of requests
  proxy-protocol = false      # connections begin with what a proxy says of the client
  default-host = \"shop.apps.example.com\"  # whose apps answer for unknown hosts
  pin = false                 # keep each worker on a core of its own

  [tls]
  listen = [\"0.0.0.0:443\"]
  [[tls.certificate]]         # several; relative to this file
  chain = \"tls/apps.pem\"
  key = \"tls/apps.key\"

  [control]
  versions-kept = 100
  wasm = \"100MiB\"           # the largest upload
  open-metrics = false        # answer /metrics without a token

  [telemetry]
  otlp = \"http://127.0.0.1:4318\"  # a collector: OTLP over HTTP (protobuf), no TLS
  traces = 0.1                # record this share of requests; without it, no traces
  metrics = true              # send what /metrics says of the node
  metrics-every = \"10s\"
  logs = [\"file\"]             # \"file\", \"stdout\", \"otlp\": several or none

Examples:
  midge up
  midge up --listen 0.0.0.0:80 --domain apps.example.com --data /var/lib/midge
  midge up --config /etc/midge/midge.config.toml
  midge up --listen 127.0.0.1:0 --api 127.0.0.1:0 --ready-file /tmp/midge.json")]
pub struct Options {
    #[command(flatten)]
    flags: Flags,
    /// Leave the default profile alone
    #[arg(long)]
    no_profile: bool,
    /// Write a line of JSON with the actual addresses to this file once ready
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Write that line to this open file descriptor, and close it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    ready_fd: Option<i32>,
    /// Take the place of the platform at the other end of this open file descriptor
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(i32).range(3..))]
    take_over: Option<i32>,
}

/// What is said once the platform is ready, for programs.
#[derive(Serialize)]
struct Ready<'a> {
    pid: u32,
    ready_ms: u64,
    listen: &'a [SocketAddr],
    api: SocketAddr,
    data: &'a Path,
    token_file: &'a Path,
}

pub async fn run(options: Options) -> Result<(), Failure> {
    let began = Instant::now();
    refuse_core_dumps()?;
    keep_to_owner();
    let mut signals = Signals::listen()?;
    let settings = config::load(options.flags)?;
    let ready_fd = options
        .ready_fd
        .map(|fd| inherited("--ready-fd", fd))
        .transpose()?;
    let control = options
        .take_over
        .map(|fd| inherited("--take-over", fd))
        .transpose()?;
    let log = Log::to_stderr();
    raise_open_files(log);
    for failure in doctor::failures(&settings) {
        log.warning(&failure);
    }

    let takes_over = control.is_some();
    let start = async {
        match control {
            None => Platform::start(&settings, log).await,
            Some(control) => {
                let inheritance = Inheritance::receive(control.into(), &settings).await?;
                Platform::succeed(&settings, log, inheritance).await
            }
        }
    };
    let (mut platform, places) = tokio::select! {
        started = start => started?,
        // What was started ends with this process.
        () = signals.next() => return Err(Failure::new(Exit::Interrupted, "stopped before it was ready")),
    };
    let ready = Ready {
        pid: std::process::id(),
        ready_ms: began.elapsed().as_millis() as u64,
        listen: &places.listen,
        api: places.api,
        data: &settings.data,
        token_file: &places.token_file,
    };
    let pointed = if options.no_profile {
        None
    } else {
        point_profile(&places, log)
    };
    // Who read the word of the first process from a pipe is not waiting for another.
    let is_pipe =
        |file: &&Path| std::fs::metadata(file).is_ok_and(|facts| facts.file_type().is_fifo());
    let ready_file = options
        .ready_file
        .as_deref()
        .filter(|file| !(takes_over && is_pipe(file)));
    let told = tell_programs(&ready, ready_file, ready_fd);
    let mut door = match told.and_then(|()| Door::open(platform.folder())) {
        Ok(door) => door,
        Err(failure) => return Err(platform.give_up(failure).await),
    };
    if let Err(error) = service::ready() {
        log.warning(&format!("the service manager was not told: {error}"));
    }
    platform.is_ready().await;
    tell_people(&settings, &ready, pointed.as_ref());
    // A start reads every record and tells each worker the whole catalog.
    node::give_back_memory();

    if let Some(successor) = keep_running(&mut platform, &mut door, &mut signals, log).await {
        drop(door);
        return leave(platform, successor, &mut signals, log).await;
    }
    log.info(&format!(
        "stopping: requests in flight have {} to finish",
        settings.grace
    ));
    let stopping = Instant::now();
    tokio::select! {
        () = platform.stop() => {
            log.info(&format!("stopped in {} ms", stopping.elapsed().as_millis()));
            Ok(())
        }
        // Workers end with this process: they see their pipe close.
        () = signals.next() => Err(cut_off()),
    }
}

/// Finishes what is in flight: a first signal shortens the time for it to the grace period, a second ends it.
async fn leave(
    platform: Platform,
    successor: Successor,
    signals: &mut Signals,
    log: Log,
) -> Result<(), Failure> {
    let hurry = Notify::new();
    let leaving = platform.leave(successor, hurry.notified());
    tokio::pin!(leaving);
    tokio::select! {
        () = &mut leaving => return Ok(()),
        () = signals.next() => {}
    }
    log.info("stopping: requests in flight have the grace period to finish");
    hurry.notify_one();
    tokio::select! {
        () = leaving => Ok(()),
        () = signals.next() => Err(cut_off()),
    }
}

/// Runs until a signal comes, or until a successor serves.
async fn keep_running(
    platform: &mut Platform,
    door: &mut Door,
    signals: &mut Signals,
    log: Log,
) -> Option<Successor> {
    loop {
        let mut caller = tokio::select! {
            () = signals.next() => return None,
            caller = door.knock() => caller,
        };
        let program = caller.request.program.display().to_string();
        log.info(&format!("`{program}` is to take the place of this process"));
        let handed_over = {
            let handing_over = platform.hand_over(&mut caller);
            tokio::pin!(handing_over);
            loop {
                tokio::select! {
                    // What was begun ends with its future.
                    () = signals.next() => return None,
                    handed_over = &mut handing_over => break handed_over,
                    mut other = door.knock() => {
                        let busy = "another upgrade is under way".into();
                        other.say(&UpgradeWord::Failed(busy)).await;
                    }
                }
            }
        };
        match handed_over {
            Ok((successor, upgraded)) => {
                log.info(&format!(
                    "midge {} serves as process {}; this one finishes what is in flight and ends",
                    upgraded.to, upgraded.pid
                ));
                caller.say(&UpgradeWord::Done(upgraded)).await;
                return Some(successor);
            }
            Err(why) => {
                log.warning(&format!("`{program}` did not take over: {why}"));
                // The one that failed may have opened its own in this place.
                match Door::open(platform.folder()) {
                    Ok(again) => *door = again,
                    Err(failure) => log.warning(&failure.what),
                }
                caller.say(&UpgradeWord::Failed(why)).await;
            }
        }
    }
}

fn cut_off() -> Failure {
    Failure::new(
        Exit::Interrupted,
        "stopped at once; requests in flight were cut off",
    )
}

/// A profile that cannot be written is no reason not to run.
fn point_profile(places: &Places, log: Log) -> Option<Pointed> {
    let Some(file) = profile::file() else {
        log.warning("there is no default profile: neither `XDG_CONFIG_HOME` nor `HOME` is set");
        return None;
    };
    let here = Profile {
        api: format!("http://{}", reachable(places.api)),
        token_file: Some(places.token_file.clone()),
        token: None,
    };
    match profile::point_default(&file, here) {
        Ok(pointed) => Some(pointed),
        Err(failure) => {
            log.warning(&format!(
                "the default profile was not changed: {}",
                failure.what
            ));
            None
        }
    }
}

/// An address that a program on this machine can connect to, where `address` stands for all of them.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        match &mut address {
            SocketAddr::V4(four) => four.set_ip(std::net::Ipv4Addr::LOCALHOST),
            SocketAddr::V6(six) => six.set_ip(std::net::Ipv6Addr::LOCALHOST),
        }
    }
    address
}

fn tell_programs(ready: &Ready, file: Option<&Path>, fd: Option<File>) -> Result<(), Failure> {
    let mut line = serde_json::to_string(ready).or_fail(|| "saying where things are".into())?;
    line.push('\n');
    if let Some(file) = file {
        write_ready(file, line.as_bytes()).or_fail(|| format!("writing `{}`", file.display()))?;
    }
    if let Some(mut fd) = fd {
        fd.write_all(line.as_bytes())
            .or_fail(|| "writing to the descriptor of `--ready-fd`".into())?;
    }
    Ok(())
}

/// Whole or not at all: whoever waits for the file may read it at once. What is no file, such as a pipe or a
/// terminal, is written to and never replaced.
fn write_ready(file: &Path, line: &[u8]) -> io::Result<()> {
    match std::fs::metadata(file) {
        Ok(found) if !found.is_file() => File::options().write(true).open(file)?.write_all(line),
        _ => profile::replace(&std::path::absolute(file)?, line),
    }
}

/// The open descriptor that `flag` names.
fn inherited(flag: &str, fd: i32) -> Result<File, Failure> {
    // SAFETY: only asks about the number; a descriptor that is not open answers with an error.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    // Everything this program opens is closed on exec; what is not came from outside, and nobody else here owns it.
    // Workers and compile children must not keep it open: hence the duplicate, which is closed on exec.
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(Failure::usage(format!(
            "the descriptor {fd} of `{flag}` is not open"
        )));
    }
    // SAFETY: it is open, and as said above this is its only owner.
    let inherited = unsafe { File::from_raw_fd(fd) };
    inherited
        .try_clone()
        .or_fail(|| format!("taking the descriptor {fd}"))
}

/// Says where things are: on standard output, or beside it where that has log lines.
fn tell_people(settings: &Settings, ready: &Ready, pointed: Option<&Pointed>) {
    let text = for_people(settings, ready, pointed).join("\n");
    if settings.telemetry.logs.stdout {
        screen::note(text);
    } else {
        // Nobody may be reading: that is no reason not to run.
        let _ = screen::line(text);
    }
}

fn for_people(settings: &Settings, ready: &Ready, pointed: Option<&Pointed>) -> Vec<String> {
    let (port, domain) = (ready.listen[0].port(), settings.domain.as_str());
    let tls = ready.listen.len() - settings.tls.listen.len();
    let (listen, tls) = ready.listen.split_at(tls);
    let (version, ms) = (env!("CARGO_PKG_VERSION"), ready.ready_ms);
    let (listen, workers) = (joined(listen), settings.workers);
    let mut lines = vec![
        format!("midge {version} ready in {ms} ms"),
        format!(
            "  apps    http://NAME.{domain}:{port}  (listening on {listen}, {workers} workers)"
        ),
    ];
    if !tls.is_empty() {
        lines.push(format!("  TLS     {}", joined(tls)));
    }
    lines.push(format!("  API     http://{}", reachable(ready.api)));
    lines.push(format!("  data    {}", ready.data.display()));
    if let Some(file) = &settings.file {
        lines.push(format!("  config  {}", file.display()));
    }
    match pointed {
        Some(Pointed::Here) => {}
        Some(Pointed::Elsewhere(api)) => {
            lines.push(format!(
                "  note    the default profile points at {api} and was left alone"
            ));
            lines.push(token_line(ready));
        }
        None => lines.push(token_line(ready)),
    }
    lines
}

fn joined(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

fn token_line(ready: &Ready) -> String {
    format!(
        "  token   MIDGE_API=http://{} MIDGE_TOKEN=\"$(cat {})\"",
        reachable(ready.api),
        ready.token_file.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_everyone_is_reached_through_loopback() {
        for (address, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            assert_eq!(reachable(address.parse().unwrap()).to_string(), reached);
        }
    }

    #[test]
    fn the_ready_line_is_whole_or_not_there_and_replaces_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ready");
        for line in ["one\n", "two\n"] {
            write_ready(&file, line.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), line);
        }
        let link = folder.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        write_ready(&link, b"x").unwrap();
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("/dev/null"));
    }

    #[test]
    fn a_descriptor_of_our_own_is_not_taken_for_an_inherited_one() {
        use std::os::fd::AsRawFd as _;
        let ours = tempfile::tempfile().unwrap();
        assert!(inherited("--ready-fd", ours.as_raw_fd()).is_err());
        assert!(inherited("--ready-fd", 999_999).is_err());
    }
}
