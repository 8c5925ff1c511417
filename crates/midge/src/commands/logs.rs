//! `midge logs`: what an app said and what became of its requests.

use clap::{Args, ValueEnum};
use model::{AppName, LogRecord, LogStream, Since, Statuses, StatusesError};

use crate::args::Platform;
use crate::client::Client;
use crate::failure::{Exit, Failure, without_controls};
use crate::screen;

/// Show an app's log, and follow it
///
/// One line for each request, and one for each line that the app wrote. With `--json`: the platform's `LogRecord`
/// documents, one a line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge logs shop
  midge logs shop -f --stream stderr
  midge logs shop -f --status 5xx --since 10m --json
  midge logs shop --status 404,5xx --since 2026-11-24T07:00:00Z
  midge logs shop --json | jq -r 'select(.done.status >= 500).request'")]
pub struct Options {
    /// The app
    app: AppName,
    /// Go on as new lines come, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Begin with at most this many of the newest lines
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    tail: u32,
    /// Only lines of this stream
    #[arg(long, value_enum, value_name = "STREAM")]
    stream: Option<Stream>,
    /// Only lines of requests that were answered so: `404`, `5xx`, or several with commas; 0 means not at all
    #[arg(long, value_name = "STATUS", value_parser = statuses)]
    status: Option<String>,
    /// Only lines from then on: so long ago, such as `10m`, or a time, such as `2026-11-24T07:05:03Z`
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Write each line as JSON, for scripts
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    platform: Platform,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Stream {
    /// One line for each request
    Request,
    /// What the app wrote to standard output
    Stdout,
    /// What the app wrote to standard error
    Stderr,
    /// What the platform has to say: why a request failed
    Platform,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Platform => "platform",
        }
    }
}

/// A list of statuses as the platform reads it.
fn statuses(text: &str) -> Result<String, StatusesError> {
    text.parse::<Statuses>().map(|_| text.to_owned())
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = text.parse() {
        return Ok(Since::Ago(ago));
    }
    let at: Option<jiff::Timestamp> = text.parse().ok();
    let ms = at.and_then(|at| u64::try_from(at.as_millisecond()).ok());
    ms.map(Since::At).ok_or_else(|| {
        format!(
            "`{text}` is not a time; write how long ago, such as `10m`, or a time with its zone, such as `2026-11-24T07:05:03Z`"
        )
    })
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    check(options)?;
    let client = Client::new(&options.platform)?;
    let mut path = client.app_path(&options.app, &format!("/logs?tail={}", options.tail));
    if options.follow {
        path.push_str("&follow=true");
    }
    if let Some(stream) = options.stream {
        path.push_str("&stream=");
        path.push_str(stream.as_str());
    }
    if let Some(status) = &options.status {
        path.push_str("&status=");
        path.push_str(status);
    }
    if let Some(since) = options.since {
        path.push_str(&format!("&since={since}"));
    }
    let mut lines = client.lines(&path).await?;
    loop {
        let line = tokio::select! {
            line = lines.next() => line?,
            // How following ends.
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(line) = line else {
            return match options.follow {
                true => Err(Failure::new(
                    Exit::Unreachable,
                    "the platform ended the stream: it is stopping",
                )),
                false => Ok(()),
            };
        };
        if options.json {
            screen::line(String::from_utf8_lossy(&line))?;
        } else {
            screen::line(readable(&line, for_people))?;
        }
    }
}

/// Only the line of a request has a status: with another stream, nothing could ever be shown.
fn check(options: &Options) -> Result<(), Failure> {
    match (&options.status, options.stream) {
        (None, _) | (_, None | Some(Stream::Request)) => Ok(()),
        (Some(_), Some(stream @ (Stream::Stdout | Stream::Stderr | Stream::Platform))) => {
            Err(Failure::usage(format!(
                "`--status` chooses lines of requests, and `--stream {}` shows none of those",
                stream.as_str()
            ))
            .hint("leave out one of them"))
        }
    }
}

/// A line of a log as `form` shows its record. What a newer platform says and this program does not know stays as it came.
pub fn readable(line: &[u8], form: impl FnOnce(&LogRecord) -> String) -> String {
    without_controls(&match serde_json::from_slice(line) {
        Ok(record) => form(&record),
        Err(_) => String::from_utf8_lossy(line).into_owned(),
    })
}

/// What was said, and by whom: the app on one of its streams, or the platform about it.
pub fn said(record: &LogRecord) -> String {
    let text = &record.text;
    match record.stream {
        LogStream::Stdout => format!("out: {text}"),
        LogStream::Stderr => format!("err: {text}"),
        LogStream::Platform => format!("midge: {text}"),
        LogStream::Request => text.clone(),
    }
}

fn for_people(record: &LogRecord) -> String {
    let at = screen::moment_ms(record.time_ms);
    let request = &record.request;
    let text = match &record.done {
        Some(done) => {
            let ms = done.usage.wall_us as f64 / 1000.0;
            let cpu = done.usage.cpu_us as f64 / 1000.0;
            let (method, host, path) = (&done.method, &done.host, &done.path);
            let (status, outcome, version) = (done.status, done.outcome, record.version);
            let cold = if done.cold { " cold" } else { "" };
            format!(
                "{method} {host}{path} {status} {outcome} {ms:.1} ms (cpu {cpu:.1} ms) version {version}{cold}"
            )
        }
        None => said(record),
    };
    format!("{at} {request} {text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Digest, Outcome, RequestRecord, TenantName, Usage, VersionNumber};

    fn record(stream: LogStream, text: &str, done: Option<RequestRecord>) -> LogRecord {
        LogRecord {
            time_ms: 1_795_503_903_042,
            tenant: TenantName::default_tenant(),
            app: "shop".parse().unwrap(),
            version: VersionNumber::new(3).unwrap(),
            digest: Digest::of(b""),
            request: "01J0000000ABCDEFGHJKMNPQRS".into(),
            trace: None,
            stream,
            text: text.into(),
            done,
        }
    }

    #[test]
    fn a_time_is_so_long_ago_or_a_moment_with_its_zone() {
        let check = |text: &str, expected: Option<Since>| assert_eq!(since(text).ok(), expected);
        check("10m", Some(Since::Ago(model::Millis::secs(600))));
        let at = Since::At(1_795_503_903_042);
        check("2026-11-24T07:05:03.042Z", Some(at));
        check("2026-11-24T08:05:03.042+01:00", Some(at));
        for wrong in [
            "10",
            "2026-11-24",
            "2026-11-24T07:05:03",
            "noon",
            "1969-12-31T23:00:00Z",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_line_says_when_which_request_and_what() {
        let check = |record: LogRecord, expected: &str| {
            let line = serde_json::to_vec(&record).unwrap();
            assert_eq!(readable(&line, for_people), expected);
        };
        check(
            record(LogStream::Stderr, "oh no", None),
            "2026-11-24T07:05:03.042Z 01J0000000ABCDEFGHJKMNPQRS err: oh no",
        );
        check(
            record(LogStream::Stdout, "\u{1b}[2J", None),
            "2026-11-24T07:05:03.042Z 01J0000000ABCDEFGHJKMNPQRS out: \\u{1b}[2J",
        );
        let done = RequestRecord {
            method: "GET".into(),
            host: "shop.localhost".into(),
            path: "/".into(),
            status: 503,
            outcome: Outcome::CpuLimit,
            usage: Usage {
                cpu_us: 50_100,
                wall_us: 61_240,
                ..Usage::default()
            },
            cold: true,
            client: "127.0.0.1".into(),
        };
        check(
            record(LogStream::Request, "", Some(done)),
            "2026-11-24T07:05:03.042Z 01J0000000ABCDEFGHJKMNPQRS GET shop.localhost/ 503 cpu-limit 61.2 ms (cpu 50.1 ms) version 3 cold",
        );
    }
}
