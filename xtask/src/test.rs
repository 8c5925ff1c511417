//! `cargo xtask test`: everything, in the order in which it fails fastest, down to one closing line.

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::progress::{Failure, Progress};
use crate::{clang, debian, guests, places, tidy};

/// What was counted on the way.
#[derive(Default)]
struct Tally {
    passed: u64,
    skipped: Vec<String>,
}

/// Runs everything and says how it went.
pub fn run(mut progress: Progress) -> ExitCode {
    let mut tally = Tally::default();
    let done = everything(&mut progress, &mut tally);
    for skipped in &tally.skipped {
        println!("skipped: {skipped}");
    }
    let failed = match &done {
        Ok(()) => 0,
        Err(Failure(text)) => {
            println!("{text}\n");
            1
        }
    };
    println!(
        "{} passed, {failed} failed, {} skipped",
        tally.passed,
        tally.skipped.len()
    );
    if done.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn everything(progress: &mut Progress, tally: &mut Tally) -> Result<(), Failure> {
    progress.say("check what keeps the map true");
    tally.passed += tidy::check()?;
    components(progress)?;
    formatted(progress, tally)?;

    guests::targets(progress)?;
    debian::install(progress)?;
    tools(tally)?;
    guests::build(progress)?;

    build(progress)?;
    lint(progress, tally)?;
    // Always the whole workspace: with fewer packages their dependencies have other features, and the engine would be
    // compiled again.
    let units = [
        "test",
        "--release",
        "--locked",
        "--no-fail-fast",
        "--workspace",
        "--lib",
        "--bins",
        "--examples",
        "--test",
        "child",
    ];
    tests(
        progress,
        tally,
        "unit and contract tests",
        &mut places::cargo(&units),
    )?;
    let platform = [
        "test",
        "--release",
        "--locked",
        "--workspace",
        "--test",
        "it",
    ];
    let mut platform = places::cargo(&platform);
    platform
        .args(["--", "--show-output"])
        .env("PATH", debian::path());
    tests(progress, tally, "whole-platform tests", &mut platform)?;
    let mut docs = places::cargo(&["doc", "--release", "--locked", "--workspace", "--no-deps"]);
    counted(
        progress,
        tally,
        "the documentation of the code",
        docs.env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// Makes sure that there are the formatter and clippy.
fn components(progress: &mut Progress) -> Result<(), Failure> {
    let is_missing = |command: &str| {
        let answer = places::cargo(&[command, "--version"]).output();
        !answer.is_ok_and(|answer| answer.status.success())
    };
    let mut missing = vec![("fmt", "rustfmt"), ("clippy", "clippy")];
    missing.retain(|(command, _)| is_missing(command));
    let missing: Vec<&str> = missing.into_iter().map(|(_, name)| name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if Command::new("rustup").arg("--version").output().is_err() {
        return Err(Failure::new(format!(
            "the tests need {}, and there is no `rustup` to install it: get Rust from https://rustup.rs, or install it the way this Rust was",
            missing.join(" and ")
        )));
    }
    progress.step(
        "install what checks the code",
        Command::new("rustup")
            .args(["component", "add"])
            .args(missing),
    )
}

/// Everything is formatted at the formatter's defaults.
fn formatted(progress: &mut Progress, tally: &mut Tally) -> Result<(), Failure> {
    counted(
        progress,
        tally,
        "the formatter: the platform",
        &mut places::cargo(&["fmt", "--all", "--check"]),
    )?;
    for workspace in guest_workspaces() {
        let name = format!("the formatter: {}", shown(&workspace));
        counted(
            progress,
            tally,
            &name,
            places::cargo(&["fmt", "--check"]).current_dir(&workspace),
        )?;
    }
    Ok(())
}

/// The binary, and the tests that use it: one profile, so the engine is compiled once.
pub fn build(progress: &mut Progress) -> Result<(), Failure> {
    let all = [
        "build",
        "--release",
        "--locked",
        "--workspace",
        "--all-targets",
    ];
    progress.step(
        "build the release binary and every test (the first time takes some minutes)",
        &mut places::cargo(&all),
    )
}

fn lint(progress: &mut Progress, tally: &mut Tally) -> Result<(), Failure> {
    let arguments = [
        "clippy",
        "--release",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    counted(
        progress,
        tally,
        "clippy: the platform",
        &mut places::cargo(&arguments),
    )?;
    let arguments = ["clippy", "--release", "--locked"];
    for workspace in guest_workspaces() {
        let name = format!("clippy: {}", shown(&workspace));
        let target = if workspace.ends_with("tests/guests") {
            "guests"
        } else {
            "examples"
        };
        let mut command = guests::cargo(&workspace, target, &arguments, "wasm32-wasip2");
        counted(
            progress,
            tally,
            &name,
            command.args(["--", "-D", "warnings"]),
        )?;
    }
    Ok(())
}

/// Says what cannot be tested for want of a tool; in CI that is a failure.
fn tools(tally: &mut Tally) -> Result<(), Failure> {
    if clang::find().is_some() {
        return Ok(());
    }
    let text = "guests written in C: there is no `apt-get` to install a compiler with";
    if std::env::var_os("CI").is_some() {
        return Err(Failure::new(text));
    }
    tally.skipped.push(text.to_owned());
    Ok(())
}

/// A step that counts as one test.
fn counted(
    progress: &mut Progress,
    tally: &mut Tally,
    name: &str,
    command: &mut Command,
) -> Result<(), Failure> {
    progress.step(name, command)?;
    tally.passed += 1;
    Ok(())
}

/// A run of cargo's tests, each counted.
fn tests(
    progress: &mut Progress,
    tally: &mut Tally,
    name: &str,
    command: &mut Command,
) -> Result<(), Failure> {
    let said = progress.read(name, command)?;
    let number_before = |line: &str, word: &str| -> u64 {
        let before = line.split(word).next().unwrap_or_default();
        before
            .trim_end()
            .rsplit(' ')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    };
    let mut passed = 0;
    for line in said.lines() {
        if line.starts_with("test result: ") {
            passed += number_before(line, " passed");
        } else if let Some(skipped) = line.strip_prefix("skipped: ") {
            if std::env::var_os("CI").is_some() {
                return Err(Failure::new(format!("skipped in CI: {skipped}")));
            }
            tally.skipped.push(skipped.to_owned());
        }
    }
    progress.say(&format!("  {passed} passed"));
    tally.passed += passed;
    Ok(())
}

fn guest_workspaces() -> Vec<std::path::PathBuf> {
    let mut workspaces = vec![places::root().join("tests/guests")];
    workspaces.extend(guests::rust_examples());
    workspaces
}

fn shown(path: &Path) -> String {
    path.strip_prefix(places::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
