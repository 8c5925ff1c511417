//! `midge build`: runs the manifest's build command and looks at what came out.

use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;
use crate::project::Project;
use crate::{screen, upload_file};

/// Build the app in this folder
///
/// Runs the `build` command of `midge.toml` beside it, shows what it prints as it is, and checks that the
/// `component` it names is there afterwards.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge build
  midge build --manifest shop/midge.toml")]
pub struct Options {
    /// The manifest, or the folder it lies in [default: midge.toml]
    #[arg(long, value_name = "PATH")]
    manifest: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let project = Project::find(options.manifest.as_deref())?;
    if !project.build()? {
        return Err(Failure::usage("the manifest has no `build` command")
            .hint("add one such as `build = \"cargo build --release --target wasm32-wasip2\"`"));
    }
    let component = project.component()?;
    let bytes = upload_file::read(&component)?;
    screen::line(format_args!(
        "built {} ({})",
        component.display(),
        screen::size(bytes.len() as u64)
    ))
}
