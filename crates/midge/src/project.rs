//! A developer's folder: its `midge.toml`, the command that builds it and the component that comes out.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use model::{Manifest, limits};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::failure::{Failure, While as _};
use crate::screen;
use crate::whole_file::{self, Unreadable};

pub const MANIFEST: &str = "midge.toml";

/// A manifest and where it lies.
#[derive(Debug)]
pub struct Project {
    pub manifest: Manifest,
    file: PathBuf,
}

impl Project {
    /// The project of the manifest at `named`, which may be its folder, or of the one in the current folder.
    pub fn find(named: Option<&Path>) -> Result<Self, Failure> {
        let file = match named {
            Some(path) if path.is_dir() => path.join(MANIFEST),
            Some(path) => path.to_owned(),
            None => PathBuf::from(MANIFEST),
        };
        let shown = file.display();
        let text = whole_file::read_text(&file, &limits::MANIFEST).map_err(|error| match error {
            Unreadable::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                Failure::failed(format!("there is no manifest `{shown}`"))
                    .hint("run this in an app's folder, make one with `midge new NAME`, or name a file: `midge deploy FILE.wasm`, `midge dev FILE.wasm`")
            }
            error => error.of(&format!("the manifest `{shown}`")),
        })?;
        let manifest = Manifest::from_toml(&text)
            .map_err(|error| Failure::usage(format!("`{shown}` cannot be used: {error}")))?;
        Ok(Self { manifest, file })
    }

    /// Where the built component lies.
    pub fn component(&self) -> Result<PathBuf, Failure> {
        match &self.manifest.component {
            Some(component) => Ok(self.folder().join(component)),
            None => Err(
                Failure::usage(format!("`{}` names no component", self.file.display())).hint(
                    "add a line such as `component = \"target/wasm32-wasip2/release/NAME.wasm\"`, or name the file: `midge deploy FILE.wasm --manifest midge.toml`",
                ),
            ),
        }
    }

    /// Runs the manifest's build command beside it; false if there is none. What it prints is shown as it is, on
    /// standard error: standard output is for results.
    pub fn build(&self) -> Result<bool, Failure> {
        let Some(command) = &self.manifest.build else {
            return Ok(false);
        };
        let status = self.command(command).and_then(|mut child| child.status());
        judge(command, status)?;
        Ok(true)
    }

    /// As [`Self::build`]; the command ends, with all that it started, when the future is dropped.
    pub async fn build_unless_dropped(&self) -> Result<bool, Failure> {
        let Some(command) = &self.manifest.build else {
            return Ok(false);
        };
        let spawned = self.command(command).and_then(|mut child| {
            child.process_group(0);
            tokio::process::Command::from(child).spawn()
        });
        let status = match spawned {
            Ok(mut child) => {
                let mut group = Group(child.id());
                let status = child.wait().await;
                group.0 = None;
                status
            }
            Err(error) => Err(error),
        };
        judge(command, status)?;
        Ok(true)
    }

    fn command(&self, command: &str) -> io::Result<Command> {
        screen::note(format_args!("building: {command}"));
        let shown = io::stderr().as_fd().try_clone_to_owned()?;
        let mut child = Command::new("sh");
        child
            .arg("-c")
            .arg(command)
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(shown);
        Ok(child)
    }

    /// The folder that the manifest lies in.
    pub fn folder(&self) -> &Path {
        match self.file.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        }
    }
}

/// The processes of a build that has not ended; they end when this is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| Pid::from_raw(id as i32));
        if let Some(group) = group {
            // It may be ending by itself.
            let _ = kill_process_group(group, Signal::TERM);
        }
    }
}

fn judge(command: &str, status: io::Result<ExitStatus>) -> Result<(), Failure> {
    let status = status.or_fail(|| format!("starting `{command}`"))?;
    if status.success() {
        return Ok(());
    }
    let failure = Failure::failed(format!("the build failed: `{command}` ended with {status}"));
    Err(match missing_target(command) {
        Some(hint) => failure.hint(hint),
        None => failure.hint("what it printed is above; nothing else was done"),
    })
}

/// How to install the Rust target that a build command names, if it is what is missing.
fn missing_target(command: &str) -> Option<String> {
    let target = command
        .split_whitespace()
        .map(|word| word.trim_start_matches("--target="))
        .find(|word| word.starts_with("wasm32-"))?;
    let asked = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .stderr(Stdio::null())
        .output();
    match asked {
        Err(_) => Some("there is no `rustc`; install Rust from https://rustup.rs".to_owned()),
        Ok(answer) => {
            let folder = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
            let installed = answer.status.success() && Path::new(&folder).is_dir();
            (!installed).then(|| {
                format!("the target is not installed; install it with `rustup target add {target}`")
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(text: &str) -> (Result<Project, Failure>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(MANIFEST), text).unwrap();
        (Project::find(Some(folder.path())), folder)
    }

    #[test]
    fn a_project_is_built_beside_its_manifest() {
        let (project, folder) =
            project("name = 'a'\nbuild = 'echo x > built.wasm'\ncomponent = 'built.wasm'");
        let project = project.unwrap();
        assert!(project.build().unwrap());
        let built = project.component().unwrap();
        assert_eq!(built, folder.path().join("built.wasm"));
        assert!(built.is_file());
    }

    #[test]
    fn what_is_wrong_with_a_project_is_said() {
        let check = |text: &str, part: &str| {
            let (project, _folder) = project(text);
            let failure = project
                .and_then(|project| project.build().map(|_| project))
                .and_then(|project| project.component())
                .unwrap_err();
            assert!(failure.what.contains(part), "{}", failure.what);
        };
        check("name = 'A'", "cannot be used");
        check("name = 'a'\nwhat = 1", "what");
        check("name = 'a'\nbuild = 'exit 3'", "exit status: 3");
        check("name = 'a'", "names no component");
        let (project, folder) = project("name = 'a'");
        drop(project);
        std::fs::write(folder.path().join(MANIFEST), b"name = '\xff'").unwrap();
        let failure = Project::find(Some(folder.path())).unwrap_err();
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
        assert!(failure.what.contains("not UTF-8"), "{}", failure.what);
        let nowhere = Project::find(Some(Path::new("/nowhere/midge.toml"))).unwrap_err();
        assert!(nowhere.what.contains("no manifest `/nowhere/midge.toml`"));
    }

    #[test]
    fn a_missing_target_is_told_by_its_name() {
        let hint = missing_target("cargo build --target wasm32-nowhere").unwrap();
        assert!(hint.contains("rustup target add wasm32-nowhere") || hint.contains("rustup.rs"));
        assert_eq!(missing_target("make"), None);
    }
}
