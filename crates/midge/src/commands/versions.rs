//! `midge versions`: an app's versions and which of them is served.

use clap::Args;
use model::api::AppSummary;
use model::{AppName, Version};

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::Failure;
use crate::screen;

/// List the versions of an app
///
/// The one that is served now is marked with `*`. With `--json`: an array of the API's `Version` documents.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge versions shop
  midge versions shop --json | jq '.[0].wasm'")]
pub struct Options {
    /// The app
    app: AppName,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let versions: Vec<Version> = client
        .get(&client.app_path(&options.app, "/versions"))
        .await?;
    if options.form.json {
        return screen::json(&versions);
    }
    let app: AppSummary = client.get(&client.app_path(&options.app, "")).await?;
    let rows: Vec<_> = versions
        .iter()
        .map(|version| {
            let served = app.version == Some(version.number);
            vec![
                if served { "*" } else { "" }.to_owned(),
                version.number.to_string(),
                screen::moment(version.created_ms),
                screen::size(version.wasm_bytes),
                version.kind.as_str().to_owned(),
                version.wasm.short(),
                version.created_by.clone(),
            ]
        })
        .collect();
    screen::table(
        &["", "version", "made", "size", "kind", "digest", "by"],
        &rows,
    )
}
