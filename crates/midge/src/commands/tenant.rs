//! `midge tenant`: make and list those who own apps.

use clap::{Args, Subcommand};
use model::TenantName;
use model::api::NewTenant;

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::Failure;
use crate::screen;

/// Create and list tenants
///
/// A tenant owns apps, and no token of one reaches another's. Its apps answer at `APP.TENANT.DOMAIN` unless they claim
/// hosts of their own. Only a token for the platform itself makes tenants.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge tenant create alice
  midge token create ci --tenant alice --verb deploy
  midge deploy --tenant alice
  midge tenant list")]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    List(List),
}

/// Create a tenant
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge tenant create alice")]
struct Create {
    /// What it is called: letters a-z, digits and `-`
    name: TenantName,
    #[command(flatten)]
    platform: Platform,
}

/// List the tenants that the token reaches
///
/// With `--json`: an array of names.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge tenant list
  midge tenant list --json | jq -r '.[]'")]
struct List {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    match &options.action {
        Action::Create(options) => create(options).await,
        Action::List(options) => list(options).await,
    }
}

async fn create(options: &Create) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let new = NewTenant {
        name: options.name.clone(),
    };
    let made: TenantName = client.post("/v1/tenants", &new).await?;
    screen::line(format_args!("made the tenant {made}"))
}

async fn list(options: &List) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let tenants: Vec<TenantName> = client.get("/v1/tenants").await?;
    if options.form.json {
        return screen::json(&tenants);
    }
    let rows: Vec<_> = tenants
        .iter()
        .map(|tenant| vec![tenant.to_string()])
        .collect();
    screen::table(&["tenant"], &rows)
}
