//! `midge certificate`: what a tenant's apps are known by over TLS, at hosts of the tenant's own.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use model::api::{CertificateSummary, NewCertificate};
use model::{CertificateName, Host, limits};

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::{Failure, While as _};
use crate::screen;

/// Set, list and delete certificates
///
/// A tenant's certificate is shown to clients that speak TLS with a host of one of the tenant's apps. The platform keeps
/// its key sealed, and shows it to nobody.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge certificate set shop --chain shop.pem --key shop.key
  midge certificate list
  midge certificate delete shop")]
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

/// Set a certificate, in the place of the one of this name
///
/// With `--json`: the API's `CertificateSummary` document.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge certificate set shop --chain shop.pem --key shop.key")]
struct Set {
    /// What to call it: letters a-z, digits and `-`
    name: CertificateName,
    /// The certificate, then those of its issuers, as PEM
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// Its private key, as PEM, not encrypted
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

/// List the tenant's certificates, without their keys
///
/// With `--json`: an array of the API's `CertificateSummary` documents.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge certificate list
  midge certificate list --json | jq -r '.[].hosts[]'")]
struct List {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

/// Delete a certificate: clients are not shown it any longer
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge certificate delete shop")]
struct Delete {
    /// Its name, as `midge certificate list` shows it
    name: CertificateName,
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
    let new = NewCertificate {
        chain: text(&options.chain)?,
        key: text(&options.key)?,
    };
    let client = Client::new(&options.platform)?;
    let path = path(&client, &options.name);
    let set: CertificateSummary = client.put(&path, &new).await?;
    if options.form.json {
        return screen::json(&set);
    }
    if set.shown_for.is_empty() {
        let hosts = set.hosts.join(", ");
        screen::note(format_args!(
            "it is shown to nobody yet: no app of this tenant has a route with a host of {hosts}"
        ));
    }
    let until = screen::moment(set.not_after_ms);
    screen::line(format_args!("set {}, good until {until}", set.name))
}

async fn list(options: &List) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let all: Vec<CertificateSummary> = client.get(&client.tenant_path("/certificates")).await?;
    if options.form.json {
        return screen::json(&all);
    }
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    let rows: Vec<_> = all.iter().map(|it| row(it, now_ms)).collect();
    let header = ["name", "hosts", "shown for", "until", "fingerprint"];
    screen::table(&header, &rows)
}

fn row(certificate: &CertificateSummary, now_ms: u64) -> Vec<String> {
    let shown: Vec<&str> = certificate.shown_for.iter().map(Host::as_str).collect();
    let until = screen::moment(certificate.not_after_ms);
    let ended = certificate.not_after_ms < now_ms;
    vec![
        certificate.name.to_string(),
        certificate.hosts.join(","),
        match shown.is_empty() {
            true => "-".to_owned(),
            false => shown.join(","),
        },
        format!("{until}{}", if ended { " (ended)" } else { "" }),
        certificate.fingerprint.short(),
    ]
}

async fn delete(options: &Delete) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let path = path(&client, &options.name);
    client.delete(&path, Duration::ZERO).await?;
    screen::line(format_args!("deleted {}", options.name))
}

fn path(client: &Client, name: &CertificateName) -> String {
    client.tenant_path(&format!("/certificates/{name}"))
}

/// What a file holds, if it is no larger than the platform would take.
fn text(path: &Path) -> Result<String, Failure> {
    let limit = limits::CERTIFICATE.default;
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(limit.bytes() + 1).read_to_string(&mut text))
        .or_fail(|| format!("reading `{}`", path.display()))?;
    if text.len() as u64 > limit.bytes() {
        let path = path.display();
        return Err(Failure::usage(format!("`{path}` is larger than {limit}"))
            .hint("a chain holds one certificate and those of its issuers"));
    }
    Ok(text)
}
