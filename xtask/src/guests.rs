//! Builds what is deployed: the tests' guests and the examples, each a workspace of its own for another target.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::progress::{Failure, Progress};
use crate::{clang, places};

/// Builds every guest and every example.
pub fn build(progress: &mut Progress) -> Result<(), Failure> {
    targets(progress)?;
    let guests = places::root().join("tests/guests");
    let all = [
        "build",
        "--release",
        "--locked",
        "--workspace",
        "--lib",
        "--examples",
        "--bins",
    ];
    progress.step(
        "build the guests as components",
        &mut cargo(&guests, "guests", &all, "wasm32-wasip2"),
    )?;
    // As core modules: the commands, and handlers, which then carry their WIT in custom sections. Spin's templates build so.
    let modules = [
        "build",
        "--release",
        "--locked",
        "--package=guests",
        "--package=spin5",
        "--bins",
        "--example=hello",
        "--example=spin5",
        "--example=spin5_variables",
    ];
    progress.step(
        "build the guests as core modules",
        &mut cargo(&guests, "guests", &modules, "wasm32-wasip1"),
    )?;
    if let Some(clang) = clang::find() {
        in_c(progress, &clang)?;
    }
    for example in rust_examples() {
        example_of(progress, &example)?;
    }
    Ok(())
}

/// Makes sure that Rust can build for WebAssembly.
pub fn targets(progress: &mut Progress) -> Result<(), Failure> {
    const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];
    let installed = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .output();
    let installed =
        installed.map_err(|error| Failure::new(format!("`rustup` cannot be started: {error}")))?;
    let installed = String::from_utf8_lossy(&installed.stdout).into_owned();
    if TARGETS
        .iter()
        .all(|target| installed.lines().any(|line| line == *target))
    {
        return Ok(());
    }
    progress.step(
        "install Rust's WebAssembly targets",
        Command::new("rustup").args(["target", "add"]).args(TARGETS),
    )
}

/// Builds one example.
pub fn example_of(progress: &mut Progress, folder: &Path) -> Result<(), Failure> {
    let name = folder
        .file_name()
        .expect("an example's folder has a name")
        .display();
    let arguments = ["build", "--release", "--locked"];
    let name = format!("build the example {name}");
    progress.step(
        &name,
        &mut cargo(folder, "examples", &arguments, "wasm32-wasip2"),
    )
}

/// The examples in Rust.
pub fn rust_examples() -> Vec<PathBuf> {
    let mut folders: Vec<_> = std::fs::read_dir(places::root().join("examples/rust"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("Cargo.toml").exists())
        .collect();
    folders.sort();
    folders
}

/// Cargo in another workspace, building into a folder of its own below the target folder.
pub fn cargo(workspace: &Path, target: &str, arguments: &[&str], triple: &str) -> Command {
    let mut command = places::cargo(arguments);
    command
        .args(["--target", triple])
        .current_dir(workspace)
        .env("CARGO_TARGET_DIR", places::target().join(target));
    command
}

/// Builds the guests that are written in C.
fn in_c(progress: &mut Progress, clang: &Path) -> Result<(), Failure> {
    let sources = places::root().join("tests/guests/c");
    let built = places::target().join("guests/c");
    std::fs::create_dir_all(&built)
        .map_err(|error| Failure::new(format!("`{}`: {error}", built.display())))?;
    let command = [places::root().join("examples/c/hello-command/hello.c")];
    let to = built.join("hello-command.wasm");
    progress.step(
        "build the C command",
        &mut clang::compile(clang, &command, &to, &[]),
    )?;
    let component = ["hello.c", "component-type.s"].map(|name| sources.join(name));
    let to = built.join("hello-module.wasm");
    let reactor = ["-mexec-model=reactor"];
    progress.step(
        "build the C handler",
        &mut clang::compile(clang, &component, &to, &reactor),
    )
}
