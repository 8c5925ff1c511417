//! `midge rollback`: serve an older version again.

use clap::Args;
use model::api::{Deployed, NewDeployment};
use model::{AppName, DeploymentCause, VersionNumber, limits};

use super::deploy::{tell_live, tell_missing};
use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::Failure;
use crate::screen;

/// Serve an older version of an app again
///
/// Without `--to`, the version that was served before the present one. Requests in flight finish on the version they
/// began with. With `--json`: the API's `Deployed` document.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge rollback shop
  midge rollback shop --to 2")]
pub struct Options {
    /// The app
    app: AppName,
    /// The version to serve
    #[arg(long, value_name = "N", value_parser = version)]
    to: Option<VersionNumber>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

fn version(text: &str) -> Result<VersionNumber, String> {
    let number = text.parse().ok().and_then(VersionNumber::new);
    number.ok_or_else(|| "a version is a whole number from 1".to_owned())
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let wanted = NewDeployment {
        version: options.to,
        cause: DeploymentCause::Rollback,
        expect: None,
        wait: None,
    };
    let path = client.app_path(&options.app, "/deployments");
    let wait = limits::API_WAIT.default.duration();
    let deployed: Deployed = client.post_waiting(&path, &wanted, wait).await?;
    if options.form.json {
        screen::json(&deployed)?;
    } else {
        tell_missing(&options.app, &deployed);
    }
    tell_live("rolled back", &options.app, &deployed, options.form.json)
}
