//! Where things lie: the repository, what is built of it, and the tools beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the repository")
}

/// The folder of everything that is built: where this program itself was put.
pub fn target() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a file");
    let release = program.parent().expect("a file lies in a folder");
    release
        .parent()
        .expect("cargo puts programs below its target folder")
        .to_owned()
}

/// A program of the release build.
pub fn release(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// A program as it is shipped.
pub fn dist(name: &str) -> PathBuf {
    target().join("dist").join(name)
}

/// Tools that were installed for the repository alone.
pub fn tools() -> PathBuf {
    root().join(".tools")
}

/// Cargo, in the repository, with this program's own target folder.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(arguments)
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target());
    command
}
