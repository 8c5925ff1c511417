//! Debian packages without root: downloaded and unpacked into `.tools/debian`, once. Machines without `apt-get` go without.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::places;
use crate::progress::{Failure, Progress};

/// A load generator, and a C compiler for WebAssembly with its library.
const PACKAGES: [&str; 5] = ["wrk", "clang", "lld", "wasi-libc", "libclang-rt-dev-wasm32"];

/// Whether this machine has the packages' manager at all.
pub fn possible() -> bool {
    Command::new("apt-get")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Where the packages' files are.
pub fn tree() -> PathBuf {
    places::tools().join("debian/tree")
}

/// Makes the packages present; done once.
pub fn install(progress: &mut Progress) -> Result<(), Failure> {
    let folder = places::tools().join("debian");
    let stamp = folder.join("installed");
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) || !possible() {
        return Ok(());
    }
    let unwritable =
        |error| Failure::new(format!("`{}` cannot be written: {error}", folder.display()));
    for part in [
        "state/lists/partial",
        "cache/archives/partial",
        "packages",
        "tree",
    ] {
        std::fs::create_dir_all(folder.join(part)).map_err(unwritable)?;
    }
    let packages = with_what_they_need(progress, &folder)?;
    let names: Vec<&str> = packages
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
        .collect();
    let mut download = apt(&folder);
    download
        .arg("download")
        .args(&names)
        .current_dir(folder.join("packages"));
    progress.step(
        &format!("download {} Debian packages", names.len()),
        &mut download,
    )?;
    let mut files: Vec<_> = std::fs::read_dir(folder.join("packages"))
        .map_err(unwritable)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    files.sort();
    progress.say("unpack them into .tools");
    for file in &files {
        let unpacked = Command::new("dpkg")
            .arg("-x")
            .arg(file)
            .arg(tree())
            .status();
        if !unpacked.is_ok_and(|status| status.success()) {
            return Err(Failure::new(format!(
                "`{}` cannot be unpacked",
                file.display()
            )));
        }
        std::fs::remove_file(file).map_err(unwritable)?;
    }
    std::fs::write(&stamp, wanted).map_err(unwritable)
}

/// What an installation would bring, as `apt-get` tells it; lists of packages of our own are fetched if the machine's
/// do not name them.
fn with_what_they_need(progress: &mut Progress, folder: &Path) -> Result<String, Failure> {
    let simulate = |mut command: Command| {
        command
            .args(["--simulate", "--no-install-recommends", "install"])
            .args(PACKAGES);
        command
    };
    let own = folder.join("own-lists");
    if !own.exists() {
        if let Ok(told) = progress.read(
            "ask for Debian packages",
            &mut simulate(Command::new("apt-get")),
        ) {
            return Ok(told);
        }
        std::fs::write(&own, "")
            .map_err(|error| Failure::new(format!("`{}`: {error}", own.display())))?;
    }
    progress.step(
        "fetch Debian's lists of packages",
        apt(folder).arg("update"),
    )?;
    progress.read("ask for Debian packages", &mut simulate(apt(folder)))
}

/// `apt-get` that writes nothing outside `folder`.
fn apt(folder: &Path) -> Command {
    let mut command = Command::new("apt-get");
    let mut set = |name: &str, value: &Path| {
        command.arg("-o").arg(format!("{name}={}", value.display()));
    };
    set("Dir::Cache", &folder.join("cache"));
    if folder.join("own-lists").exists() {
        set("Dir::State::Lists", &folder.join("state/lists"));
    }
    command.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="]);
    command
}

/// The search path with the packages' programs first.
pub fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", tree().join("usr/bin").display())
}

/// Lets `command` find the packages' shared libraries.
pub fn lend_libraries(command: &mut Command) {
    let mut folders = Vec::new();
    for parent in [tree().join("usr/lib"), tree().join("lib")] {
        let Ok(entries) = std::fs::read_dir(parent) else {
            continue;
        };
        let inside = entries.filter_map(|entry| Some(entry.ok()?.path()));
        folders.extend(
            inside
                .filter(|path| path.is_dir())
                .map(|path| path.display().to_string()),
        );
    }
    folders.sort();
    command.env("LD_LIBRARY_PATH", folders.join(":"));
}
