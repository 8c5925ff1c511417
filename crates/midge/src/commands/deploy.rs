//! `midge deploy`: from a file on this machine to an app that answers.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use clap::Args;
use model::api::{Deployed, Missing, NewDeployment, NewVersion};
use model::{AppName, DeploymentCause, Digest, Manifest, Version, limits};
use serde::Serialize;

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::grants::{self, Denied};
use crate::project::{MANIFEST, Project};
use crate::screen::{self, Progress};
use crate::upload_file;

/// Build, upload and serve an app
///
/// In a folder with a `midge.toml`: runs its `build` command, uploads its `component` and serves it as the app's next
/// version. With a FILE: uploads just that; no manifest is read unless `--manifest` names one, and the app is called
/// like the file unless `--name` says otherwise.
///
/// Interfaces that the app imports and was not granted are listed with the line that grants them; calls to them fail.
/// With `--json`: an object with `app`, `version` (the API's `Version`), `deployed` (the API's `Deployed`) and `denied`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge deploy
  midge deploy --no-build --strict
  midge deploy target/wasm32-wasip2/release/shop.wasm --name shop
  midge deploy shop.wasm --json | jq -r '.deployed.urls[0]'")]
pub struct Options {
    /// A `.wasm` to upload instead of the manifest's component
    file: Option<PathBuf>,
    /// The app's name, instead of the manifest's or the file's
    #[arg(long, value_name = "APP")]
    name: Option<AppName>,
    /// The manifest, or the folder it lies in [default: midge.toml, unless a FILE is given]
    #[arg(long, value_name = "PATH")]
    manifest: Option<PathBuf>,
    /// Upload what was built before
    #[arg(long)]
    no_build: bool,
    /// Refuse an app that imports what it was not granted, instead of denying the calls
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

/// What is to be deployed.
#[derive(Debug, Clone, PartialEq)]
pub struct Upload {
    pub manifest: Manifest,
    bytes: Bytes,
    digest: Digest,
}

impl Upload {
    /// The file at `path` with `manifest`.
    pub fn read(manifest: Manifest, path: &Path) -> Result<Self, Failure> {
        let bytes = upload_file::read(path)?;
        let digest = Digest::of(&bytes);
        Ok(Self {
            manifest,
            bytes,
            digest,
        })
    }
}

/// How far a deployment has come; what an interrupted one says.
#[derive(Clone, Copy)]
pub enum Stage {
    Uploading,
    MakingVersion,
    Deploying(model::VersionNumber),
}

/// The result for scripts.
#[derive(Serialize)]
struct Report<'a> {
    app: &'a AppName,
    version: &'a Version,
    deployed: &'a Deployed,
    denied: &'a [Denied],
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let upload = prepare(options)?;
    let stage = Mutex::new(Stage::Uploading);
    let reach = |reached| *stage.lock().expect("nothing panics while it is locked") = reached;
    let (version, deployed) = tokio::select! {
        done = deploy(&client, &upload, options.strict, reach) => done?,
        _ = tokio::signal::ctrl_c() => {
            let stage = *stage.lock().expect("nothing panics while it is locked");
            return Err(interrupted(&upload.manifest.name, stage));
        }
    };
    let app = &upload.manifest.name;
    let denied = grants::denied(&version.imports);
    if options.form.json {
        screen::json(&Report {
            app,
            version: &version,
            deployed: &deployed,
            denied: &denied,
        })?;
    } else {
        tell_denied(app, &denied);
        tell_missing(app, &deployed);
    }
    tell_live("deployed", app, &deployed, options.form.json)
}

fn prepare(options: &Options) -> Result<Upload, Failure> {
    let (mut manifest, path) = match (&options.file, &options.manifest) {
        (Some(file), None) => {
            if Path::new(MANIFEST).is_file() {
                screen::note(
                    "note: `midge.toml` is not read when a file is named; add `--manifest midge.toml` to deploy the file with it",
                );
            }
            let name = match &options.name {
                Some(name) => name.clone(),
                None => upload_file::name_of(file)?,
            };
            (Manifest::bare(name), file.clone())
        }
        (Some(file), Some(manifest)) => (Project::find(Some(manifest))?.manifest, file.clone()),
        (None, manifest) => {
            let project = Project::find(manifest.as_deref())?;
            let component = project.component()?;
            if !options.no_build {
                project.build()?;
            }
            (project.manifest, component)
        }
    };
    if let Some(name) = &options.name {
        manifest.name = name.clone();
    }
    Upload::read(manifest, &path)
}

/// Makes a version of the upload and has it served; `reach` is told of each step.
pub async fn deploy(
    client: &Client,
    upload: &Upload,
    strict: bool,
    reach: impl Fn(Stage),
) -> Result<(Version, Deployed), Failure> {
    send_missing(client, upload).await?;

    reach(Stage::MakingVersion);
    let app = &upload.manifest.name;
    let wanted = NewVersion {
        manifest: upload.manifest.clone(),
        wasm: upload.digest,
        strict,
    };
    let mut progress = Progress::new();
    progress.show(|| format!("compiling {app} …"));
    // The platform compiles before it answers: it may wait for its turn, and then for the compiler.
    let wait =
        limits::COMPILE_WAIT.default.duration() + limits::COMPILE_CPU_MOST.default.duration();
    let path = client.app_path(app, "/versions");
    let version: Version = client.post_waiting(&path, &wanted, wait).await?;
    drop(progress);

    reach(Stage::Deploying(version.number));
    let wanted = NewDeployment {
        version: Some(version.number),
        cause: DeploymentCause::Deploy,
        expect: None,
        wait: None,
    };
    let path = client.app_path(app, "/deployments");
    let wait = limits::API_WAIT.default.duration();
    let deployed = client.post_waiting(&path, &wanted, wait).await?;
    Ok((version, deployed))
}

async fn send_missing(client: &Client, upload: &Upload) -> Result<(), Failure> {
    let asked = Missing {
        digests: vec![upload.digest],
    };
    let path = client.tenant_path("/artifacts/missing");
    let missing: Missing = client.post(&path, &asked).await?;
    if missing.digests.is_empty() {
        return Ok(());
    }
    let path = client.tenant_path(&format!("/artifacts/{}", upload.digest));
    let total = upload.bytes.len() as u64;
    let progress = Mutex::new(Progress::new());
    let on_sent = move |sent: u64| {
        let mut progress = progress.lock().expect("nothing panics while it is locked");
        progress.show(|| bar(sent, total));
    };
    client.upload(&path, upload.bytes.clone(), on_sent).await
}

fn bar(sent: u64, total: u64) -> String {
    const WIDTH: u64 = 30;
    let full = (sent * WIDTH).checked_div(total).unwrap_or(WIDTH);
    let bar: String = (0..WIDTH)
        .map(|i| if i < full { '#' } else { '.' })
        .collect();
    let (sent, total) = (screen::size(sent), screen::size(total));
    format!("uploading [{bar}] {sent} of {total}")
}

fn interrupted(app: &AppName, stage: Stage) -> Failure {
    let failure = |what: String| Failure::new(Exit::Interrupted, what);
    match stage {
        Stage::Uploading => failure(format!(
            "interrupted while uploading: no version of `{app}` was made, and what it serves is unchanged"
        )),
        Stage::MakingVersion => failure(format!(
            "interrupted while the platform was making the version: it may yet be made, but what `{app}` serves is unchanged"
        ))
        .hint(format!("`midge versions {app}` shows whether it was")),
        Stage::Deploying(version) => failure(format!(
            "interrupted while version {version} of `{app}` was going live: the platform may go on"
        ))
        .hint(format!("`midge versions {app}` shows what is served")),
    }
}

/// Says which calls of an app are denied, and what would grant them.
pub fn tell_denied(app: &AppName, denied: &[Denied]) {
    if denied.is_empty() {
        return;
    }
    screen::note(format_args!(
        "{app} imports what it was not granted; calls to these are denied:"
    ));
    for denied in denied {
        screen::note(format_args!("  {}", denied.text()));
    }
}

/// Says which secrets an app is granted that are not set.
pub fn tell_missing(app: &AppName, deployed: &Deployed) {
    for name in &deployed.secrets_missing {
        screen::note(format_args!(
            "{app} is granted the secret {name}, which is not set: `midge secret set {name}` sets it"
        ));
    }
}

/// Says how far a deployment has come, and fails if it is not live everywhere.
pub fn tell_live(
    done: &str,
    app: &AppName,
    deployed: &Deployed,
    quietly: bool,
) -> Result<(), Failure> {
    let live = &deployed.live;
    let version = deployed.deployment.version;
    if !quietly {
        screen::line(format_args!(
            "{done} {app} version {version}: live on {} of {} nodes in {} ms",
            live.nodes, live.of, live.elapsed_ms
        ))?;
        for url in &deployed.urls {
            screen::line(url)?;
        }
    }
    if live.nodes == live.of && live.refusals.is_empty() {
        return Ok(());
    }
    let how = if live.nodes < live.of {
        " only"
    } else {
        ", but not safely"
    };
    let mut what = format!(
        "`{app}` version {version} is live on {} of {} nodes{how}",
        live.nodes, live.of
    );
    for refusal in &live.refusals {
        what.push_str("\n  ");
        what.push_str(refusal);
    }
    Err(Failure::new(Exit::NotLive, what)
        .hint("it goes live where it can be served; `midge status` shows each node"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_as_bytes_leave() {
        assert_eq!(
            bar(0, 2048),
            "uploading [..............................] 0 B of 2.0 KiB"
        );
        assert_eq!(
            bar(1024, 2048),
            "uploading [###############...............] 1.0 KiB of 2.0 KiB"
        );
        assert!(bar(0, 0).contains("0 B of 0 B"));
    }

    #[test]
    fn an_interrupted_deployment_says_what_was_done() {
        let app: AppName = "shop".parse().unwrap();
        let version = model::VersionNumber::new(3).unwrap();
        let check = |stage: Stage, part: &str| {
            let failure = interrupted(&app, stage);
            assert_eq!(failure.exit, Exit::Interrupted);
            assert!(failure.what.contains(part), "{}", failure.what);
        };
        check(Stage::Uploading, "unchanged");
        check(Stage::MakingVersion, "unchanged");
        check(Stage::Deploying(version), "version 3");
    }
}
