//! `midge tenant`: make, list and delete those who own apps.

use clap::{Args, Subcommand};
use model::api::NewTenant;
use model::{TenantName, limits};

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::Failure;
use crate::screen;

/// Create, list and delete tenants
///
/// A tenant owns apps, and no token of one reaches another's. Its apps answer at `APP.TENANT.DOMAIN` unless they claim
/// hosts of their own. Only a token for the platform itself makes and deletes tenants.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge tenant create alice
  midge token create ci --tenant alice --verb deploy
  midge deploy --tenant alice
  midge tenant list
  midge tenant delete alice --with-apps")]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    List(List),
    Delete(Delete),
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

/// Delete a tenant with its tokens, certificates, secrets and uploads
///
/// A tenant that has apps stays, unless they are to go with it: with all of their versions and all that their stores hold.
/// Nothing of it can be brought back; who creates a tenant of the same name begins with nothing. Asks first on a terminal;
/// elsewhere `--yes` is needed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge tenant delete alice
  midge tenant delete alice --with-apps --yes")]
struct Delete {
    /// The tenant
    name: TenantName,
    /// Delete its apps as well
    #[arg(long)]
    with_apps: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    platform: Platform,
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    match &options.action {
        Action::Create(options) => create(options).await,
        Action::List(options) => list(options).await,
        Action::Delete(options) => delete(options).await,
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

async fn delete(options: &Delete) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let name = &options.name;
    let what = match options.with_apps {
        true => format!("the tenant `{name}` with all of its apps and what they keep"),
        false => format!("the tenant `{name}`"),
    };
    if !options.yes {
        screen::confirm_deletion(&what)?;
    }
    let path = format!("/v1/tenants/{name}?with-apps={}", options.with_apps);
    let wait = limits::API_WAIT.default.duration();
    client.delete(&path, wait).await?;
    screen::line(format_args!("deleted the tenant {name}"))
}
