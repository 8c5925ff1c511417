//! `midge kv`: what apps keep in their key-value stores.

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use capabilities::kv::check_key;
use clap::{Args, Subcommand};
use model::api::{KvItem, KvStoreSummary};
use model::{AppName, KeyPage, KvError, Millis, Size, StoreName, limits};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::{Failure, While as _};
use crate::screen;

/// Read and write the key-value stores of an app
///
/// A store belongs to one app and exists as soon as it is named; the app reaches those that its manifest grants
/// (`[grant] kv = ["default"]`).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge kv set shop greeting 'Hello'
  midge kv get shop greeting
  midge kv list shop --prefix cart/ --store carts
  midge kv export shop > shop.jsonl
  midge kv import shop shop.jsonl")]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Stores(Stores),
    List(List),
    Get(Get),
    Set(Set),
    Delete(Delete),
    Export(Export),
    Import(Import),
}

/// Where a key is looked for.
#[derive(Debug, Args)]
struct Place {
    /// Whose stores
    app: AppName,
    /// The store, as the manifest grants it
    #[arg(long, value_name = "NAME", default_value = "default")]
    store: StoreName,
    #[command(flatten)]
    platform: Platform,
}

/// List the stores of an app that hold anything
///
/// With `--json`: an array of the API's `KvStoreSummary` documents.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge kv stores shop")]
struct Stores {
    /// Whose stores
    app: AppName,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

/// List the keys of a store, a line each
///
/// With `--json`: one array of keys.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge kv list shop --prefix cart/
  midge kv list shop --store carts --json | jq length")]
struct List {
    #[command(flatten)]
    place: Place,
    /// Those alone that begin so
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    #[command(flatten)]
    form: Form,
}

/// Write a key's value to standard output, as it is
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge kv get shop greeting
  midge kv get shop logo > logo.png")]
struct Get {
    #[command(flatten)]
    place: Place,
    /// Which
    #[arg(value_parser = key)]
    key: String,
}

/// Set a key
///
/// With `--json`: the API's `KvItem` document.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge kv set shop greeting 'Hello'
  midge kv set shop logo --file logo.png
  date | midge kv set shop seen --file - --ttl 1h")]
struct Set {
    #[command(flatten)]
    place: Place,
    /// Which
    #[arg(value_parser = key)]
    key: String,
    /// Its value, as text
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    value: Option<String>,
    /// Its value, as a file's content; `-` is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How long it stays, such as `90s` or `1h`; for ever if not said
    #[arg(long, value_name = "TIME")]
    ttl: Option<Millis>,
    #[command(flatten)]
    form: Form,
}

/// Delete a key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge kv delete shop greeting")]
struct Delete {
    #[command(flatten)]
    place: Place,
    /// Which
    #[arg(value_parser = key)]
    key: String,
}

/// Write every key and value of a store to standard output
///
/// One JSON document a line, with `key` and `value`, the latter in base64. What is set meanwhile may be in it or not. When a
/// value ends is not exported.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge kv export shop --store carts > carts.jsonl")]
struct Export {
    #[command(flatten)]
    place: Place,
    /// Those keys alone that begin so
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
}

/// Set what `midge kv export` wrote
///
/// Keys that are there already are replaced, all others stay. A line that cannot be read ends it; those before it are set.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge kv import shop carts.jsonl --store carts
  midge kv export shop | midge kv import shop-test -")]
struct Import {
    #[command(flatten)]
    place: Place,
    /// The file; `-` is standard input
    file: PathBuf,
}

/// A line of an export.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    /// In base64.
    value: String,
}

/// What may be a key.
fn key(text: &str) -> Result<String, KvError> {
    check_key(text).map(|()| text.to_owned())
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    match &options.action {
        Action::Stores(options) => stores(options).await,
        Action::List(options) => list(options).await,
        Action::Get(options) => get(options).await,
        Action::Set(options) => set(options).await,
        Action::Delete(options) => delete(options).await,
        Action::Export(options) => export(options).await,
        Action::Import(options) => import(options).await,
    }
}

/// A store as the client reaches it.
struct Store {
    client: Client,
    path: String,
}

impl Store {
    fn of(place: &Place) -> Result<Self, Failure> {
        let client = Client::new(&place.platform)?;
        let path = client.app_path(&place.app, &format!("/kv/{}", place.store));
        Ok(Self { client, path })
    }

    fn key(&self, key: &str) -> String {
        format!("{}/{}", self.path, encoded(key))
    }

    /// A page of keys.
    async fn page(&self, prefix: &str, after: Option<&str>) -> Result<KeyPage, Failure> {
        let mut path = format!("{}?prefix={}", self.path, encoded(prefix));
        if let Some(after) = after {
            path.push_str("&after=");
            path.push_str(&encoded(after));
        }
        self.client.get(&path).await
    }

    async fn value(&self, key: &str) -> Result<Bytes, Failure> {
        self.client.bytes(&self.key(key)).await
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Option<Millis>) -> Result<KvItem, Failure> {
        let mut path = self.key(key);
        if let Some(ttl) = ttl {
            path.push_str(&format!("?ttl={ttl}"));
        }
        self.client.put_bytes(&path, value).await
    }
}

async fn stores(options: &Stores) -> Result<(), Failure> {
    let client = Client::new(&options.platform)?;
    let path = client.app_path(&options.app, "/kv");
    let all: Vec<KvStoreSummary> = client.get(&path).await?;
    if options.form.json {
        return screen::json(&all);
    }
    let row = |it: &KvStoreSummary| {
        vec![
            it.store.to_string(),
            it.keys.to_string(),
            screen::size(it.bytes),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    screen::table(&["store", "keys", "size"], &rows)
}

async fn list(options: &List) -> Result<(), Failure> {
    let store = Store::of(&options.place)?;
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.page(&options.prefix, after.as_deref()).await?;
        if options.form.json {
            all.extend_from_slice(&page.keys);
        } else {
            for key in &page.keys {
                screen::line(key.escape_debug())?;
            }
        }
        after = page.keys.last().cloned();
        if !page.more {
            break;
        }
    }
    if options.form.json {
        return screen::json(&all);
    }
    Ok(())
}

async fn get(options: &Get) -> Result<(), Failure> {
    let store = Store::of(&options.place)?;
    let value = store.value(&options.key).await?;
    let mut out = io::stdout().lock();
    let written = out.write_all(&value).and_then(|()| {
        // A prompt is to begin a line of its own.
        if out.is_terminal() && !value.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
        out.flush()
    });
    written.or_fail(|| "writing the value".into())
}

async fn set(options: &Set) -> Result<(), Failure> {
    let value = match (&options.value, &options.file) {
        (Some(text), _) => Bytes::from(text.clone()),
        (None, Some(file)) => content(file)?,
        (None, None) => return Err(Failure::usage("a value is missing: give it, or a --file")),
    };
    let store = Store::of(&options.place)?;
    let item = store.set(&options.key, value, options.ttl).await?;
    if options.form.json {
        return screen::json(&item);
    }
    let size = screen::size(item.bytes);
    screen::line(format_args!("set {} ({size})", item.key.escape_debug()))
}

async fn delete(options: &Delete) -> Result<(), Failure> {
    let store = Store::of(&options.place)?;
    let path = store.key(&options.key);
    store.client.delete(&path, Duration::ZERO).await?;
    screen::line(format_args!("deleted {}", options.key.escape_debug()))
}

async fn export(options: &Export) -> Result<(), Failure> {
    let store = Store::of(&options.place)?;
    let mut after: Option<String> = None;
    loop {
        let page = store.page(&options.prefix, after.as_deref()).await?;
        for key in &page.keys {
            let value = match store.value(key).await {
                Ok(value) => value,
                // It went meanwhile.
                Err(failure) if failure.code.as_deref() == Some("key-not-found") => continue,
                Err(failure) => return Err(failure),
            };
            let line = Line {
                key: key.clone(),
                value: BASE64_STANDARD.encode(&value),
            };
            let line = serde_json::to_string(&line).expect("a line always has a JSON form");
            screen::line(line)?;
        }
        after = page.keys.last().cloned();
        if !page.more {
            return Ok(());
        }
    }
}

async fn import(options: &Import) -> Result<(), Failure> {
    let store = Store::of(&options.place)?;
    let mut lines = io::BufReader::new(open(&options.file)?);
    // A value in base64, a key with every byte escaped, and the words around them.
    let most = limits::KV_VALUE.default.bytes() / 3 * 4 + 8 * limits::KV_KEY.default.bytes();
    let mut set = 0u64;
    for number in 1u64.. {
        let mut text = String::new();
        let read = (&mut lines).take(most).read_line(&mut text);
        if read.or_fail(|| format!("reading `{}`", options.file.display()))? == 0 {
            break;
        }
        let unfit = |why: String| {
            Failure::usage(format!(
                "line {number} of `{}` cannot be imported: {why}; the {set} before it are set",
                options.file.display()
            ))
        };
        let line: Line = serde_json::from_str(&text).map_err(|error| unfit(error.to_string()))?;
        let value = BASE64_STANDARD.decode(&line.value);
        let value = value.map_err(|error| unfit(format!("`value` is no base64: {error}")))?;
        store.set(&line.key, value.into(), None).await?;
        set += 1;
    }
    screen::line(format_args!("set {set} keys"))
}

fn open(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).or_fail(|| format!("opening `{}`", path.display()))?;
    Ok(Box::new(file))
}

/// What a file holds, if it is no larger than a value may be.
fn content(path: &Path) -> Result<Bytes, Failure> {
    let limit = limits::KV_VALUE.default;
    let mut bytes = Vec::new();
    let read = open(path)?.take(limit.bytes() + 1).read_to_end(&mut bytes);
    read.or_fail(|| format!("reading `{}`", path.display()))?;
    if Size(bytes.len() as u64) > limit {
        let path = path.display();
        return Err(Failure::usage(format!(
            "`{path}` is larger than a value may be, {limit}"
        )));
    }
    Ok(bytes.into())
}

/// What stands in a path or query as it is: RFC 3986 §2.3.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// As part of a path or query.
fn encoded(text: &str) -> String {
    match text {
        // Alone, they would be taken for steps of the path.
        "." | ".." => text.replace('.', "%2E"),
        _ => utf8_percent_encode(text, PLAIN).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_part_of_a_path_whatever_it_holds() {
        assert_eq!(encoded("a-b_c.d~9"), "a-b_c.d~9");
        assert_eq!(encoded("a/b?c=d&e#f %"), "a%2Fb%3Fc%3Dd%26e%23f%20%25");
        assert_eq!(encoded("é\0"), "%C3%A9%00");
        assert_eq!(
            (encoded("."), encoded("..")),
            ("%2E".into(), "%2E%2E".into())
        );
    }

    #[test]
    fn a_line_is_read_as_it_is_written_and_no_other_is() {
        let line = Line {
            key: "a\n\"b".into(),
            value: BASE64_STANDARD.encode([0, 255]),
        };
        let text = serde_json::to_string(&line).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        assert!(serde_json::from_str::<Line>(r#"{"key":"a","value":"","more":1}"#).is_err());
    }
}
