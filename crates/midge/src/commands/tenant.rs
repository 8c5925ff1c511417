//! `midge tenant`: make, list and delete those who own apps, and say what each may have.

use std::fmt::Display;
use std::str::FromStr;

use clap::{Args, Subcommand};
use model::api::{
    LimitSummary, NewTenant, NewTenantLimits, TenantLimitsChanged, TenantLimitsSummary,
};
use model::{NewLimit, Size, TenantName, limits};

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::screen;

/// Create, list and delete tenants, and limit them
///
/// A tenant owns apps, and no token of one reaches another's. Its apps answer at `APP.TENANT.DOMAIN` unless they claim
/// hosts of their own. Only a token for the platform itself makes, deletes and limits tenants.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge tenant create alice
  midge token create ci --tenant alice --verb deploy
  midge deploy --tenant alice
  midge tenant list
  midge tenant limits alice --apps 10
  midge tenant delete alice --with-apps")]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    List(List),
    Limits(Limits),
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

/// Show what a tenant may have, or change it
///
/// Without options: each limit, whether it is the platform's or the tenant's own, and what is in use where that is known. With
/// options: those that are named are changed and hold once this is done, all others stay; the word `default` takes back to
/// what the platform gives. A tenant keeps what it has beyond a limit that is lowered, and gets no more.
///
/// With `--json`: the API's `TenantLimitsSummary` document, or `TenantLimitsChanged`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge tenant limits alice
  midge tenant limits alice --apps 10 --slots 100 --kv-store 256MiB
  midge tenant limits alice --slots default
  midge tenant limits alice --json | jq .apps.used")]
struct Limits {
    /// The tenant
    name: TenantName,
    /// How many apps it may have
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    apps: Option<NewLimit<u64>>,
    /// How many instances it may have live at once in one worker
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    slots: Option<NewLimit<u64>>,
    /// What each of its key-value stores may hold, such as `256MiB`
    #[arg(long, value_name = "SIZE", value_parser = size, allow_negative_numbers = true)]
    kv_store: Option<NewLimit<Size>>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

/// Delete a tenant with its tokens, certificates, secrets, uploads and limits
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
        Action::Limits(options) => limit_or_show(options).await,
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

async fn limit_or_show(options: &Limits) -> Result<(), Failure> {
    let new = NewTenantLimits {
        apps: options.apps.unwrap_or_default(),
        slots: options.slots.unwrap_or_default(),
        kv_store: options.kv_store.unwrap_or_default(),
    };
    let client = Client::new(&options.platform)?;
    let path = format!("/v1/tenants/{}/limits", options.name);
    if new == NewTenantLimits::default() {
        let summary: TenantLimitsSummary = client.get(&path).await?;
        return match options.form.json {
            true => screen::json(&summary),
            false => show(&summary),
        };
    }
    let changed: TenantLimitsChanged = client.patch(&path, &new).await?;
    tell(options, &changed)
}

/// Says how far a change has come, and fails if it does not hold everywhere.
fn tell(options: &Limits, changed: &TenantLimitsChanged) -> Result<(), Failure> {
    let TenantLimitsChanged { limits, live } = changed;
    let (name, nodes, of) = (&options.name, live.nodes, live.of);
    if options.form.json {
        screen::json(changed)?;
    } else {
        let ms = live.elapsed_ms;
        screen::line(format_args!(
            "changed the limits of {name}: live on {nodes} of {of} nodes in {ms} ms"
        ))?;
        show(limits)?;
    }
    if nodes == of {
        return Ok(());
    }
    let what =
        format!("the limits of `{name}` are changed, but live on {nodes} of {of} nodes only");
    Err(Failure::new(Exit::NotLive, what)
        .hint("they reach the others when they can be reached; `midge status` shows each node"))
}

fn show(summary: &TenantLimitsSummary) -> Result<(), Failure> {
    let TenantLimitsSummary {
        apps,
        slots,
        kv_store,
    } = summary;
    let rows = [
        row("apps", apps),
        row("slots", slots),
        row("kv-store", kv_store),
    ];
    screen::table(&["limit", "value", "whose", "in use", "at most"], &rows)
}

fn row<T: Display>(name: &str, limit: &LimitSummary<T>) -> Vec<String> {
    let whose = match limit.own {
        true => "the tenant's own",
        false => "the platform's",
    };
    let used = limit.used.as_ref();
    vec![
        name.to_owned(),
        limit.value.to_string(),
        whose.to_owned(),
        used.map_or_else(|| "-".to_owned(), T::to_string),
        limit.ceiling.to_string(),
    ]
}

fn count(text: &str) -> Result<NewLimit<u64>, String> {
    limit(text).map_err(|_: String| "it is a whole number, or the word `default`".to_owned())
}

/// A number without a unit would be bytes, which nobody means.
fn size(text: &str) -> Result<NewLimit<Size>, String> {
    if text != "0" && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("it has no unit; write `{text}MiB` or `{text}GiB`"));
    }
    limit(text)
}

/// A limit as it is written.
fn limit<T>(text: &str) -> Result<NewLimit<T>, String>
where
    T: FromStr,
    T::Err: Display,
{
    match text {
        "default" => Ok(NewLimit::Default),
        text => text
            .parse()
            .map(NewLimit::Own)
            .map_err(|error| format!("{error}; or write `default`")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_value_or_the_word_default() {
        let counted = |text, expected| assert_eq!(count(text).ok(), expected, "{text}");
        counted("0", Some(NewLimit::Own(0)));
        counted("17", Some(NewLimit::Own(17)));
        counted("default", Some(NewLimit::Default));
        for bad in ["", "-1", "1.5", "ten", "Default", "99999999999999999999"] {
            counted(bad, None);
        }
        let sized = |text, expected| assert_eq!(limit::<Size>(text).ok(), expected, "{text}");
        sized("0B", Some(NewLimit::Own(Size(0))));
        sized("1MiB", Some(NewLimit::Own(Size::mib(1))));
        sized("default", Some(NewLimit::Default));
        sized("much", None);
        sized("1 MB", None);
    }
}
