//! `midge inspect`: what a `.wasm` is and needs, without a platform.

use std::path::PathBuf;

use clap::Args;
use model::pipe::Inspection;
use model::{Digest, GuestKind, Import};
use serde::Serialize;

use crate::args::Form;
use crate::failure::Failure;
use crate::grants::{self, Denied};
use crate::{screen, upload_file};

/// Show what a `.wasm` exports, imports and would need to be granted
///
/// Asks no platform: the checks are the ones that a deployment makes, short of compiling. With `--json`: an object
/// with `digest`, `bytes`, `inspection` (kind, imports, exports) and `denied`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge inspect shop.wasm
  midge inspect shop.wasm --json | jq -r '.inspection.imports[].name'")]
pub struct Options {
    /// The file to look at
    file: PathBuf,
    #[command(flatten)]
    form: Form,
}

#[derive(Serialize)]
struct Report {
    digest: Digest,
    bytes: u64,
    inspection: Inspection,
    denied: Vec<Denied>,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let bytes = upload_file::read(&options.file)?;
    let inspection = runtime::compile::inspect(&bytes).map_err(|refusal| {
        Failure::failed(format!(
            "`{}` cannot be served: {}",
            options.file.display(),
            refusal.text
        ))
    })?;
    let report = Report {
        digest: Digest::of(&bytes),
        bytes: bytes.len() as u64,
        denied: grants::denied(&inspection.imports),
        inspection,
    };
    if options.form.json {
        screen::json(&report)
    } else {
        show(&options.file.display().to_string(), &report)
    }
}

fn show(file: &str, report: &Report) -> Result<(), Failure> {
    let Inspection {
        kind,
        componentized,
        imports,
        exports,
    } = &report.inspection;
    let kind = match kind {
        GuestKind::HttpComponent => "a component that answers HTTP through `wasi:http` 0.2",
        GuestKind::HttpService => "a component that answers HTTP through `wasi:http` 0.3",
        GuestKind::CommandModule => "a command (preview 1), spoken to by CGI",
        GuestKind::CommandComponent => "a command component, spoken to by CGI",
    };
    let made = if *componentized {
        ", made into a component from a module with embedded WIT"
    } else {
        ""
    };
    screen::line(format_args!("{file}: {kind}{made}"))?;
    screen::line(format_args!("size     {}", screen::size(report.bytes)))?;
    screen::line(format_args!("digest   {}", report.digest))?;
    list("exports", exports.iter().map(String::as_str))?;
    list("imports", imports.iter().map(Import::name))?;
    if report.denied.is_empty() {
        screen::line("needs no grants")
    } else {
        let denied: Vec<_> = report.denied.iter().map(Denied::text).collect();
        list("needs grants for", denied.iter().map(String::as_str))
    }
}

fn list<'a>(title: &str, items: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    screen::line(title)?;
    for item in items {
        screen::line(format_args!("  {}", crate::failure::without_controls(item)))?;
    }
    Ok(())
}
