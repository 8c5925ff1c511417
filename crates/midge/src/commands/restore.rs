//! `midge restore`: a data folder from a backup.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use clap::Args;

use crate::failure::{Failure, While as _};
use crate::process::keep_to_owner;
use crate::screen;

/// Make a data folder from a backup
///
/// The folder must be empty or not exist yet. Everything in the backup is checked against its digest; what is damaged
/// restores nothing. Asks no platform: start one on the folder afterwards. It compiles what was deployed again: the first
/// request of each app waits for that.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge restore midge-backup.tar --data /var/lib/midge
  midge up --data /var/lib/midge")]
pub struct Options {
    /// The backup
    file: PathBuf,
    /// The data folder to make
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    keep_to_owner();
    let (file, data) = (options.file.display(), options.data.display());
    let archive = File::open(&options.file).or_fail(|| format!("opening the backup `{file}`"))?;
    let manifest = control::restore(BufReader::new(archive), &options.data).map_err(|error| {
        let full = matches!(error, control::RestoreError::NotEmpty(_));
        let failure = Failure::failed(format!("restoring `{file}`: {error}"));
        if full {
            failure.hint("name a folder that does not exist yet, and start the platform on it")
        } else {
            failure
        }
    })?;
    screen::line(format_args!(
        "restored {data} as it was at {} ({} files)",
        screen::moment(manifest.created_ms),
        manifest.files.len()
    ))?;
    screen::note(format_args!("next: `midge up --data {data}`"));
    Ok(())
}
