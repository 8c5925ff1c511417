//! All automation of the repository, as `cargo xtask COMMAND`. Small on purpose: it is compiled before anything else.

mod clang;
mod debian;
mod demo;
mod guests;
mod places;
mod progress;
mod test;
mod tidy;

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
        ["bench", names @ ..] => measure(&mut progress, "bench", names),
        ["soak", names @ ..] => measure(&mut progress, "soak", names),
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

/// Runs one of the `tests` package's long programs on the release binary.
fn measure(progress: &mut Progress, program: &str, names: &[&str]) -> Result<(), Failure> {
    debian::install(progress)?;
    guests::build(progress)?;
    progress.step(
        "build the release binary",
        &mut places::cargo(&["build", "--release", "--package", "midge"]),
    )?;
    let arguments = ["build", "--release", "--package", "tests", "--bins"];
    progress.step(
        &format!("build the {program}"),
        &mut places::cargo(&arguments),
    )?;
    let mut run = std::process::Command::new(places::release(program));
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
