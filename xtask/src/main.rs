//! All automation of the repository, as `cargo xtask COMMAND`. Small on purpose: it is compiled before anything else.

mod clang;
mod debian;
mod demo;
mod guests;
mod places;
mod progress;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use progress::{Failure, Progress};

const HELP: &str = "\
usage: cargo xtask COMMAND

  demo              build, start the platform, deploy an example, stay up until Ctrl-C
  test              install what tests need and run everything; what CI runs
  bench [NAME]      measure what PROMISES.md promises, against plain hyper in the same run
  soak [NAME]       the long trials at their full counts
  guests            build the guests of the tests and the examples
  reference         write docs/reference from the code
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut progress = Progress::begin();
    let done = match arguments.as_slice() {
        ["demo"] => demo::run(&mut progress),
        ["test"] => return test::run(progress),
        ["bench", names @ ..] => bench(&mut progress, names),
        ["soak", names @ ..] => soak(&mut progress, names),
        ["guests"] => debian::install(&mut progress).and_then(|()| guests::build(&mut progress)),
        ["reference"] => reference(&mut progress),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        [other, ..] => {
            eprintln!("there is no command `{other}`\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// Measures what is shipped, beside a baseline that is built alike.
fn bench(progress: &mut Progress, names: &[&str]) -> Result<(), Failure> {
    let arguments = ["build", "--profile", "dist", "--locked"];
    let packages = ["--package", "midge", "--package", "tests"];
    let programs = ["--bin", "midge", "--bin", "bench", "--bin", "baseline"];
    let build = [&arguments[..], &packages, &programs].concat();
    progress.step(
        "build what is shipped (optimised as a whole: some minutes)",
        &mut places::cargo(&build),
    )?;
    measure(progress, places::dist("bench"), names)
}

/// Runs the long trials on the release binary.
fn soak(progress: &mut Progress, names: &[&str]) -> Result<(), Failure> {
    test::build(progress)?;
    measure(progress, places::release("soak"), names)
}

fn measure(progress: &mut Progress, program: PathBuf, names: &[&str]) -> Result<(), Failure> {
    debian::install(progress)?;
    guests::build(progress)?;
    let mut run = std::process::Command::new(program);
    run.args(names).env("PATH", debian::path());
    debian::lend_libraries(&mut run);
    progress.hand_over(&mut run)
}

/// Writes the reference pages that are made from the code.
fn reference(progress: &mut Progress) -> Result<(), Failure> {
    let arguments = [
        "run",
        "--release",
        "--package",
        "tests",
        "--bin",
        "reference",
    ];
    progress.step("write docs/reference", &mut places::cargo(&arguments))
}
