//! `midge secret`: values that a tenant's apps read and that nobody is shown.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use model::api::{SecretChanged, SecretSummary};
use model::{AppName, SecretName, SecretText, limits};
use zeroize::Zeroizing;

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::{Exit, Failure, While as _};
use crate::screen;

/// Set, list and delete secrets
///
/// A secret belongs to the tenant. An app reads those that its manifest grants (`[grant] secrets = ["stripe-key"]`), by the
/// interfaces that it reads configuration by. The platform keeps its value sealed, and shows it to nobody.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge secret set stripe-key
  midge secret set stripe-key --from stripe.key
  midge secret list
  midge secret delete stripe-key")]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Set(Set),
    List(List),
    Delete(Delete),
}

/// Set a secret, in the place of the one of this name
///
/// The value is read from the terminal, where it is not shown, or from standard input, or from a file; never from the command
/// line, which other programs can read. It is text of at most 64 KiB. One line end at its end is left out: `echo` and
/// editors add it. Once this is done, the next request to every app that is granted it finds the new value; no app is
/// deployed anew.
///
/// With `--json`: the API's `SecretChanged` document.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge secret set stripe-key
  midge secret set stripe-key --from stripe.key
  openssl rand -base64 32 | midge secret set session-key")]
struct Set {
    /// What apps call it: letters a-z, digits and `-`
    name: SecretName,
    /// Take the value from this file
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

/// List the tenant's secrets, without their values
///
/// With `--json`: an array of the API's `SecretSummary` documents.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge secret list
  midge secret list --json | jq -r '.[].name'")]
struct List {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

/// Delete a secret: apps find it undefined from now on
///
/// With `--json`: the API's `SecretChanged` document.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge secret delete stripe-key")]
struct Delete {
    /// Its name, as `midge secret list` shows it
    name: SecretName,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    match &options.action {
        Action::Set(options) => set(options).await,
        Action::List(options) => list(options).await,
        Action::Delete(options) => delete(options).await,
    }
}

async fn set(options: &Set) -> Result<(), Failure> {
    let name = &options.name;
    let value = match &options.from {
        Some(file) => from_file(file)?,
        None if io::stdin().is_terminal() => asked(name)?,
        None => text(io::stdin().lock(), "standard input")?,
    };
    let client = Client::new(&options.platform)?;
    let changed = put(&client, name, &value).await?;
    let granted = &changed.secret.granted;
    if granted.is_empty() && !options.form.json {
        screen::note(format_args!(
            "no app that is served is granted it: add `secrets = [\"{name}\"]` below `[grant]` in midge.toml, and deploy"
        ));
    }
    tell("set", &changed, options.form.json)
}

/// Sets a secret.
pub async fn put(
    client: &Client,
    name: &SecretName,
    value: &SecretText,
) -> Result<SecretChanged, Failure> {
    let value = value.expose().as_bytes().to_vec();
    client.put_bytes(&path(client, name), value.into()).await
}

async fn list(options: &List) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let all: Vec<SecretSummary> = client.get(&client.tenant_path("/secrets")).await?;
    if options.form.json {
        return screen::json(&all);
    }
    let row = |secret: &SecretSummary| {
        vec![
            secret.name.to_string(),
            secret.revision.to_string(),
            screen::moment(secret.set_ms),
            match secret.granted.is_empty() {
                true => "-".to_owned(),
                false => names(&secret.granted, ","),
            },
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    screen::table(&["name", "revision", "set", "granted to"], &rows)
}

async fn delete(options: &Delete) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let path = path(&client, &options.name);
    let changed: SecretChanged = client.delete_told(&path).await?;
    if !changed.secret.granted.is_empty() && !options.form.json {
        screen::note(format_args!(
            "these are granted it and find it undefined: {}",
            names(&changed.secret.granted, ", ")
        ));
    }
    tell("deleted", &changed, options.form.json)
}

/// Says how far a change has come, and fails if it is not live everywhere.
fn tell(done: &str, changed: &SecretChanged, quietly: bool) -> Result<(), Failure> {
    let SecretChanged { secret, live } = changed;
    let name = &secret.name;
    if quietly {
        screen::json(changed)?;
    } else {
        screen::line(format_args!(
            "{done} {name}: live on {} of {} nodes in {} ms",
            live.nodes, live.of, live.elapsed_ms
        ))?;
    }
    if live.nodes == live.of {
        return Ok(());
    }
    let (nodes, of) = (live.nodes, live.of);
    let what = format!("`{name}` is {done}, but live on {nodes} of {of} nodes only");
    Err(Failure::new(Exit::NotLive, what)
        .hint("it reaches the others when they can be reached; `midge status` shows each node"))
}

fn names(apps: &[AppName], between: &str) -> String {
    let names: Vec<&str> = apps.iter().map(AppName::as_str).collect();
    names.join(between)
}

fn path(client: &Client, name: &SecretName) -> String {
    client.tenant_path(&format!("/secrets/{name}"))
}

fn asked(name: &SecretName) -> Result<SecretText, Failure> {
    let most = limits::SECRET.default.as_usize();
    match screen::ask_hidden(&format!("the value of {name}"), most)? {
        Some(line) => value_of(line, "what was typed"),
        None => Err(Failure::new(
            Exit::Interrupted,
            format!("interrupted: `{name}` was not set"),
        )),
    }
}

/// The value that a file holds.
pub fn from_file(path: &Path) -> Result<SecretText, Failure> {
    let name = format!("`{}`", path.display());
    let file = std::fs::File::open(path).or_fail(|| format!("opening {name}"))?;
    text(file, &name)
}

/// The value that `from` holds, without a line end at its end; `name` is what errors call it.
fn text(from: impl io::Read, name: &str) -> Result<SecretText, Failure> {
    // A value of the full length, its line end, and one byte more, so that too much is seen as too much.
    let most = limits::SECRET.default.bytes() + 3;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most as usize));
    let read = from.take(most).read_to_end(&mut bytes);
    read.or_fail(|| format!("reading {name}"))?;
    for end in [b"\n", b"\r"] {
        match bytes.strip_suffix(end) {
            Some(rest) => {
                let length = rest.len();
                bytes.truncate(length);
            }
            None => break,
        }
    }
    value_of(bytes, name)
}

fn value_of(bytes: Zeroizing<Vec<u8>>, name: &str) -> Result<SecretText, Failure> {
    SecretText::new(bytes)
        .map_err(|error| Failure::usage(format!("{name} cannot be a secret: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_at_the_end_is_left_out_and_nothing_else() {
        let check = |written: &str, expected: Option<&str>| {
            let found = text(written.as_bytes(), "it");
            let found = found.as_ref().map(SecretText::expose).ok();
            assert_eq!(found, expected, "{written:?}");
        };
        check("a", Some("a"));
        check("a\n", Some("a"));
        check("a\r\n", Some("a"));
        check("a\n\n", Some("a\n"));
        check("a\r", Some("a\r"));
        check(" a \tb\n", Some(" a \tb"));
        check("\n", None);
        check("", None);
        let most = "x".repeat(limits::SECRET.default.as_usize());
        check(&most, Some(&most));
        check(&format!("{most}\r\n"), Some(&most));
        check(&format!("{most}x"), None);
        check(&format!("{most}xxxxx"), None);
    }

    #[test]
    fn what_is_wrong_with_a_value_is_told_without_it() {
        let failure = text(&b"hunter2\xff"[..], "`key`").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.what.contains("`key`"), "{}", failure.what);
        assert!(!failure.what.contains("hunter2"), "{}", failure.what);
    }
}
