//! `midge delete`: remove an app with all of its versions.

use clap::Args;
use model::{AppName, limits};

use crate::args::Platform;
use crate::client::Client;
use crate::failure::Failure;
use crate::screen;

/// Delete an app with all of its versions and stores
///
/// It stops answering at once and cannot be brought back. Asks first on a terminal; elsewhere `--yes` is needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge delete shop
  midge delete shop --yes")]
pub struct Options {
    /// The app
    app: AppName,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    platform: Platform,
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let app = &options.app;
    if !options.yes {
        screen::confirm_deletion(&format!("`{app}` and all of its versions"))?;
    }
    let wait = limits::API_WAIT.default.duration();
    client.delete(&client.app_path(app, ""), wait).await?;
    screen::line(format_args!("deleted {app}"))
}
