//! `midge doctor`: whether this machine can run the platform well, and what to do where it cannot.
//!
//! Facts are gathered first; each check is a function of them.

mod checks;
mod facts;

use clap::Args;
use serde::Serialize;

use crate::args::Form;
use crate::config::{self, Flags, Settings};
use crate::failure::Failure;
use crate::screen;
use checks::{CHECKS, Verdict};

/// Check whether this machine can run the platform, and say what to do where it cannot
///
/// Takes the flags and the configuration file of `midge up`, and checks what those settings need. `ok` is well, `note`
/// works with less, `failed` must be put right: then the exit code is 1. With `--json`: an array of objects with
/// `check`, `verdict`, `what` and `to_do`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge doctor
  midge doctor --config /etc/midge/midge.config.toml --json")]
pub struct Options {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    flags: Flags,
}

pub fn run(options: Options) -> Result<(), Failure> {
    let settings = config::load(options.flags)?;
    let facts = facts::gather(&settings);
    let verdicts: Vec<_> = CHECKS
        .iter()
        .map(|(name, check)| (*name, check(&facts)))
        .collect();
    if options.form.json {
        let lines: Vec<_> = verdicts
            .iter()
            .map(|(name, verdict)| Line::new(name, verdict))
            .collect();
        screen::json(&lines)?;
    } else {
        for (name, verdict) in &verdicts {
            screen::line(for_people(name, verdict))?;
        }
    }
    let failed = |verdict: &Verdict| matches!(verdict, Verdict::Failed { .. });
    match verdicts.iter().filter(|(_, v)| failed(v)).count() {
        0 => Ok(()),
        count => Err(Failure::failed(format!(
            "{count} of {} checks failed; what to do is said above",
            CHECKS.len()
        ))),
    }
}

/// What a platform with these settings would have to put right on this machine: a line each.
pub fn failures(settings: &Settings) -> Vec<String> {
    let facts = facts::gather(settings);
    let failed = CHECKS
        .iter()
        .filter_map(|(name, check)| match check(&facts) {
            Verdict::Failed { what, to_do } => Some(format!("{name}: {what}; {to_do}")),
            Verdict::Ok(_) | Verdict::Note { .. } => None,
        });
    failed.collect()
}

/// A verdict for scripts.
#[derive(Serialize)]
struct Line<'a> {
    check: &'a str,
    verdict: &'static str,
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_do: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(check: &'a str, verdict: &'a Verdict) -> Self {
        let (verdict, what, to_do) = match verdict {
            Verdict::Ok(what) => ("ok", what, None),
            Verdict::Note { what, to_do } => ("note", what, Some(to_do.as_str())),
            Verdict::Failed { what, to_do } => ("failed", what, Some(to_do.as_str())),
        };
        Self {
            check,
            verdict,
            what,
            to_do,
        }
    }
}

fn for_people(name: &str, verdict: &Verdict) -> String {
    let line = Line::new(name, verdict);
    let mut text = format!("{:6}  {name}: {}", line.verdict, line.what);
    if let Some(to_do) = line.to_do {
        text.push_str("\n        → ");
        text.push_str(to_do);
    }
    text
}
