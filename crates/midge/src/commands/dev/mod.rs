//! `midge dev`: one app on this machine, built and served anew at every change.

mod source;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use model::{AppName, LogRecord, Outcome, SecretName, SecretText, TenantName};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::client::{Access, Client};
use crate::commands::deploy::{self, Upload};
use crate::commands::{logs, secret};
use crate::config::{self, Settings};
use crate::failure::{Exit, Failure, While as _};
use crate::grants;
use crate::platform::{Places, Platform};
use crate::process::{Signals, raise_open_files, refuse_core_dumps};
use crate::profile;
use crate::screen;
use crate::telemetry::Log;

use source::{Grant, Source};

/// How long the last lines of the log may take to be shown when everything else has ended.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Serve an app while you work on it
///
/// In a folder with a `midge.toml`: builds the app, serves it, and does both again whenever a file of the folder changes
/// (but for what `.gitignore` names). What the compiler prints is shown as it is, and while the build is broken the last
/// good version goes on being served. With a FILE: serves just that, and again when it changes.
///
/// Each request that reaches the app, and each line that it writes, is shown on standard output. The app answers whatever
/// host is asked for. Everything else is as on a platform: a fresh instance for each request, nothing that was not granted, the same
/// limits. Nothing is kept; Ctrl-C ends it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge dev
  midge dev --manifest shop/midge.toml --env LOG=debug
  midge dev --secret stripe-key=sk_test_1 --secret-file session-key=session.key
  midge dev shop.wasm --addr 127.0.0.1:0 --grant config.color=blue")]
pub struct Options {
    /// A `.wasm` to serve instead of the manifest's component
    file: Option<PathBuf>,
    /// Answer on this address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000")]
    addr: SocketAddr,
    /// The manifest, or the folder it lies in [default: midge.toml, unless a FILE is given]
    #[arg(long, value_name = "PATH")]
    manifest: Option<PathBuf>,
    /// Grant an environment variable, besides those of the manifest
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = source::variable)]
    env: Vec<(String, String)>,
    /// Set a secret and grant it, besides those of the manifest
    #[arg(long = "secret", value_name = "NAME=VALUE", value_parser = source::secret)]
    secrets: Vec<(SecretName, SecretText)>,
    /// The same with the value of a file, without a line end at its end
    #[arg(long = "secret-file", value_name = "NAME=FILE", value_parser = source::secret_file)]
    secret_files: Vec<(SecretName, PathBuf)>,
    /// Grant something else, as the manifest's `[grant]` would: `config.NAME=VALUE`, `kv.NAME`, `http=https://HOST`
    #[arg(long = "grant", value_name = "GRANT")]
    grants: Vec<Grant>,
}

pub fn run(options: Options) -> Result<(), Failure> {
    let mut data = None;
    // The folder outlives whatever may still write there on another thread: what is written after it is gone would stay.
    crate::wait_for(serve_from(&mut data, options))
}

/// Serves until it is told to end, with all that the platform needs in a folder that is made here.
async fn serve_from(data: &mut Option<TempDir>, options: Options) -> Result<(), Failure> {
    refuse_core_dumps()?;
    let mut signals = Signals::of_a_terminal()?;
    let Options {
        file,
        addr,
        manifest,
        env,
        mut secrets,
        secret_files,
        mut grants,
    } = options;
    for (name, file) in secret_files {
        secrets.push((name, secret::from_file(&file)?));
    }
    let granted = secrets.iter().map(|(name, _)| Grant::Secret(name.clone()));
    grants.extend(granted);
    let source = Source::find(file, manifest, env, grants)?;
    let made = tempfile::Builder::new().prefix("midge-dev-").tempdir();
    let data = data.insert(made.or_fail(|| "making a folder for the platform".into())?);
    let host = format!("{}.localhost", source.name());
    let host = host
        .parse()
        .or_fail(|| "making a host of the app's name".into())?;
    let settings = config::for_one(data.path().join("data"), addr, host)?;
    let log = Log::to_stderr();
    raise_open_files(log);
    let Some((platform, places)) = start(&settings, log, &mut signals).await? else {
        return Ok(());
    };
    let mut log = None;
    let ended = tokio::select! {
        ended = serve(source, &secrets, &places, &mut log) => ended,
        () = signals.next() => Ok(()),
    };
    let stop = async {
        platform.stop_heard_out().await;
        if let Some(log) = log {
            // Its last line is there, and shown unless nobody takes it.
            let _ = tokio::time::timeout(LAST_LINES, log).await;
        }
    };
    tokio::select! {
        () = stop => ended,
        // Its workers see their pipe close.
        () = signals.next() => ended,
    }
}

/// Starts the platform; none if it was told to end before, and then nothing of it is left.
async fn start(
    settings: &Settings,
    log: Log,
    signals: &mut Signals,
) -> Result<Option<(Platform, Places)>, Failure> {
    let mut starting = pin!(Platform::start(settings, log));
    tokio::select! {
        started = &mut starting => return started.map(Some).map_err(in_our_flags),
        () = signals.next() => {}
    }
    // A start that is dropped half-way leaves its threads to write on.
    let end = async {
        if let Ok((platform, _)) = starting.await {
            platform.stop().await;
        }
    };
    tokio::select! {
        () = end => {}
        () = signals.next() => {}
    }
    Ok(None)
}

/// The platform's own hints name the flags of `midge up`.
fn in_our_flags(failure: Failure) -> Failure {
    Failure {
        hint: failure.hint.map(|hint| hint.replace("--listen", "--addr")),
        ..failure
    }
}

/// Builds and serves, again and again; `log` shows what is logged from the first version on. Ends only with an error.
async fn serve(
    mut source: Source,
    secrets: &[(SecretName, SecretText)],
    places: &Places,
    log: &mut Option<JoinHandle<Failure>>,
) -> Result<(), Failure> {
    let access = Access {
        api: format!("http://{}", places.api),
        token: profile::read_token(&places.token_file)?,
    };
    let mut served = Served {
        client: Client::with(access.clone(), TenantName::default_tenant()),
        url: format!("http://{}", places.listen[0]),
        last: None,
    };
    for (name, value) in secrets {
        secret::put(&served.client, name, value).await?;
    }
    loop {
        let before = source.state();
        let made = match source.make().await {
            Ok(upload) => served.replace(upload).await,
            Err(failure) => Err(failure),
        };
        match (made, &served.last) {
            (Ok(()), _) => {}
            (Err(failure), None) if source.is_file() => return Err(failure),
            (Err(failure), last) => {
                eprint!("{failure}");
                screen::note(match last {
                    None => "nothing is served yet; waiting for a change",
                    Some(_) => "what was served before goes on being served; waiting for a change",
                });
            }
        }
        if served.last.is_some() && log.is_none() {
            *log = Some(tokio::spawn(show_log(
                access.clone(),
                source.name().clone(),
            )));
        }
        let log_ended = async {
            match log {
                Some(log) => log.await.expect("showing a log does not panic"),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = watch::change(&source, &before) => {}
            failure = log_ended => {
                *log = None;
                return Err(failure);
            }
        }
    }
}

/// What the platform serves.
struct Served {
    client: Client,
    url: String,
    last: Option<Upload>,
}

impl Served {
    /// Serves `upload` from now on, unless it is what is served already.
    async fn replace(&mut self, upload: Upload) -> Result<(), Failure> {
        if self.last.as_ref() == Some(&upload) {
            screen::note("nothing has changed");
            return Ok(());
        }
        let app = &upload.manifest.name;
        let (version, deployed) = deploy::deploy(&self.client, &upload, false, |_| ()).await?;
        deploy::tell_live("deployed", app, &deployed, true)?;
        if self.last.is_none() {
            // First of all, for whoever waits for it.
            screen::note(format_args!("serving {app} at {}", self.url));
        } else {
            let (number, ms) = (version.number, deployed.live.elapsed_ms);
            screen::note(format_args!(
                "serving version {number} of {app} after {ms} ms"
            ));
        }
        deploy::tell_denied(app, &grants::denied(&version.imports));
        deploy::tell_missing(app, &deployed);
        self.last = Some(upload);
        Ok(())
    }
}

/// Shows what the app says and what becomes of its requests. Ends only with an error.
async fn show_log(access: Access, app: AppName) -> Failure {
    let client = Client::with(access, TenantName::default_tenant());
    // All of it: nobody has asked for anything before the first version was served.
    let path = client.app_path(&app, "/logs?tail=1000&follow=true");
    let show = async {
        let mut lines = client.lines(&path).await?;
        while let Some(line) = lines.next().await? {
            screen::line(logs::readable(&line, for_people))?;
        }
        Err(Failure::new(Exit::Failed, "the platform ended its log"))
    };
    match show.await {
        Ok(()) => unreachable!("it ends with an error"),
        Err(failure) => failure,
    }
}

/// A line of the log, without what is the same in all of them.
fn for_people(record: &LogRecord) -> String {
    match &record.done {
        Some(done) => {
            let ms = done.usage.wall_us as f64 / 1000.0;
            let (method, path, status) = (&done.method, &done.path, done.status);
            let outcome = match done.outcome {
                Outcome::Ok => String::new(),
                other => format!(" {other}"),
            };
            format!("{method} {path} {status}{outcome} in {ms:.1} ms")
        }
        None => format!("  {}", logs::said(record)),
    }
}
