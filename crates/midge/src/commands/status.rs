//! `midge status`: how the platform is.

use clap::Args;
use model::api::Status;

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::Failure;
use crate::screen;

/// Show how the platform is and what each node serves
///
/// A node is behind while its generation is lower than the platform's. With `--json`: the API's `Status` document.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge status
  midge status --json | jq '.nodes[].worker_restarts'")]
pub struct Options {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let status: Status = client.get("/v1/status").await?;
    if options.form.json {
        return screen::json(&status);
    }
    screen::line(format_args!(
        "midge {} serves {} apps below {}, generation {}",
        status.version,
        status.apps,
        status.domain.as_str(),
        status.generation
    ))?;
    let rows: Vec<_> = status
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.name.clone(),
                node.generation.to_string(),
                node.workers.to_string(),
                node.worker_restarts.to_string(),
                node.listen.clone(),
            ]
        })
        .collect();
    screen::table(
        &["node", "generation", "workers", "restarts", "listen"],
        &rows,
    )
}
