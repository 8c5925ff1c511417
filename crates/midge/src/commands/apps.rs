//! `midge apps`: the apps of a tenant.

use clap::Args;
use model::VersionNumber;
use model::api::AppSummary;

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::Failure;
use crate::screen;

/// List the apps and what they serve
///
/// `version` is what an app serves now, `latest` its newest version. With `--json`: an array of the API's
/// `AppSummary` documents.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge apps
  midge apps --json | jq -r '.[].app'")]
pub struct Options {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let apps: Vec<AppSummary> = client.get(&client.tenant_path("/apps")).await?;
    if options.form.json {
        return screen::json(&apps);
    }
    if apps.is_empty() {
        screen::note("there are no apps yet; `midge new NAME` begins one");
        return Ok(());
    }
    let rows: Vec<_> = apps.iter().map(row).collect();
    screen::table(&["app", "version", "latest", "deployed", "url"], &rows)
}

fn row(app: &AppSummary) -> Vec<String> {
    let number = |version: Option<VersionNumber>| match version {
        Some(version) => version.to_string(),
        None => "-".to_owned(),
    };
    vec![
        app.app.to_string(),
        number(app.version),
        app.latest.to_string(),
        app.deployed_ms.map_or("-".to_owned(), screen::moment),
        app.urls.join(" "),
    ]
}
