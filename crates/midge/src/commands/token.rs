//! `midge token`: make, list and revoke what lets people and machines in.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use model::api::{CreatedToken, NewToken, Scope, TokenSummary, Verb};
use model::{AppName, Millis};

use crate::args::{Form, Platform};
use crate::client::{Client, NEW_TOKEN};
use crate::failure::Failure;
use crate::screen;

/// Create, list and revoke tokens
///
/// A token reaches one tenant or all, one app or all, and allows to read, to deploy, or everything. Its text is shown
/// once, when it is made; the platform keeps only a digest.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge token create ci --verb deploy --app shop --expires 30d
  midge token list
  midge token revoke 5PqzUq3v")]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Create a token and show it once
///
/// With `--json`: the API's `CreatedToken` document.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge token create ci --verb deploy --app shop --expires 30d
  midge token create --verb read --json | jq -r .token
  midge token create operator --verb admin --all-tenants")]
struct Create {
    /// What it is for
    #[arg(default_value = "")]
    label: String,
    /// What it allows; each includes the ones before it
    #[arg(long, value_enum, default_value_t = Allows::Deploy)]
    verb: Allows,
    /// Reach only this app of the tenant
    #[arg(long, value_name = "APP", conflicts_with = "all_tenants")]
    app: Option<AppName>,
    /// Reach every tenant and the platform itself
    #[arg(long)]
    all_tenants: bool,
    /// End after this long, such as `30d` [default: never]
    #[arg(long, value_name = "DURATION")]
    expires: Option<Millis>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Allows {
    /// See apps, versions, deployments and logs
    Read,
    /// Upload, make versions, deploy, roll back, set certificates and secrets
    Deploy,
    /// Delete apps, certificates and secrets; create, list and revoke tokens
    Admin,
}

impl From<Allows> for Verb {
    fn from(allows: Allows) -> Self {
        match allows {
            Allows::Read => Self::Read,
            Allows::Deploy => Self::Deploy,
            Allows::Admin => Self::Admin,
        }
    }
}

/// List the tokens there are, without their texts
///
/// With `--json`: an array of the API's `TokenSummary` documents.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge token list
  midge token list --json | jq -r '.[] | select(.last_used_ms == null).id'")]
struct List {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

/// Revoke a token at once
///
/// Who revokes the token of the command itself needs another one for the next.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge token revoke 5PqzUq3v")]
struct Revoke {
    /// The token's id, as `midge token list` shows it
    id: String,
    #[command(flatten)]
    platform: Platform,
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    match &options.action {
        Action::Create(options) => create(options).await,
        Action::List(options) => list(options).await,
        Action::Revoke(options) => revoke(options).await,
    }
}

async fn create(options: &Create) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let wanted = NewToken {
        label: options.label.clone(),
        scope: Scope {
            tenant: (!options.all_tenants).then(|| options.platform.tenant.clone()),
            app: options.app.clone(),
            verb: options.verb.into(),
        },
        expires_in: options.expires,
    };
    let created: CreatedToken = client.post("/v1/tokens", &wanted).await?;
    if options.form.json {
        return screen::json(&created);
    }
    let id = &created.summary.id;
    screen::note(format_args!(
        "made the token {id}; this is the one time it is shown:"
    ));
    screen::line(&created.token)
}

async fn list(options: &List) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let tokens: Vec<TokenSummary> = client.get("/v1/tokens").await?;
    if options.form.json {
        return screen::json(&tokens);
    }
    let rows: Vec<_> = tokens.iter().map(row).collect();
    screen::table(
        &[
            "id", "reaches", "allows", "made", "expires", "used", "label",
        ],
        &rows,
    )
}

fn row(token: &TokenSummary) -> Vec<String> {
    let Scope { tenant, app, verb } = &token.scope;
    let reaches = match (tenant, app) {
        (None, _) => "everything".to_owned(),
        (Some(tenant), None) => tenant.to_string(),
        (Some(tenant), Some(app)) => format!("{tenant}/{app}"),
    };
    let allows = match verb {
        Verb::Read => "read",
        Verb::Deploy => "deploy",
        Verb::Admin => "admin",
    };
    let moment = |ms: Option<u64>, never: &str| ms.map_or(never.to_owned(), screen::moment);
    vec![
        token.id.clone(),
        reaches,
        allows.to_owned(),
        screen::moment(token.created_ms),
        moment(token.expires_ms, "never"),
        moment(token.last_used_ms, "-"),
        crate::failure::without_controls(&token.label),
    ]
}

async fn revoke(options: &Revoke) -> Result<(), Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let id = &options.id;
    if id.is_empty() || !id.chars().all(plain) {
        return Err(Failure::usage("a token's id has letters and digits only")
            .hint("`midge token list` shows the ids"));
    }
    let client = Client::new(&options.platform)?;
    client
        .delete(&format!("/v1/tokens/{id}"), Duration::ZERO)
        .await?;
    screen::line(format_args!("revoked {id}"))?;
    if client.is_let_in_by(id) {
        screen::note(format_args!(
            "it was the token of this command: {NEW_TOKEN}"
        ));
    }
    Ok(())
}
