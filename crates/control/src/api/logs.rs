//! An app's log: the newest lines, and those that follow, as one JSON record a line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use distribution::LogTail;
use futures_util::stream;
use http::Uri;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use model::api::Verb;
use model::{LogRecord, LogStream};
use serde::Deserialize;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;

use super::problem::Refused;
use super::request::{self, Place};
use crate::auth::{Caller, Reach};
use crate::control::Platform;
use crate::deploy::DeployError;
use crate::records::apps;
use crate::tokens;

/// How often a follower's token is looked at again.
const RECHECK: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Whether to go on with new lines.
    #[serde(default)]
    follow: bool,
    /// How many of the newest lines to begin with; all that are kept, if none is said.
    tail: Option<usize>,
    /// One stream only.
    stream: Option<LogStream>,
}

/// `GET …/apps/{app}/logs?follow=&tail=&stream=`
pub(super) async fn tail(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    place: Place,
    uri: Uri,
) -> Result<Response, Refused> {
    let id = place.app()?;
    caller.check(Verb::Read, Reach::App(&id))?;
    let wanted: Wanted = request::query(&uri)?;
    let asked = id.clone();
    let app = platform
        .records
        .read(move |c| apps::find(c, &asked))
        .await?;
    app.ok_or_else(|| DeployError::NoApp(id.clone()))?;

    let LogTail { recent, live } = platform.distribution.logs(&id);
    let mut lines: VecDeque<Bytes> = recent
        .into_iter()
        .filter(|line| is_wanted(line, wanted.stream))
        .collect();
    let most = wanted.tail.unwrap_or(usize::MAX);
    lines.drain(..lines.len().saturating_sub(most));
    let headers = [
        (CONTENT_TYPE, "application/x-ndjson"),
        (CACHE_CONTROL, "no-store"),
    ];
    if !wanted.follow {
        let text: Vec<u8> = lines
            .iter()
            .flat_map(|l| [&l[..], b"\n"].concat())
            .collect();
        return Ok((headers, text).into_response());
    }
    let follower = Follower {
        platform,
        caller,
        lines,
        live,
        stream: wanted.stream,
        missed: 0,
        checked: Instant::now(),
    };
    let lines = stream::unfold(follower, |mut follower| async move {
        let line = follower.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), follower))
    });
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Who follows a log.
struct Follower {
    platform: Arc<Platform>,
    caller: Caller,
    /// What is to be sent at once.
    lines: VecDeque<Bytes>,
    live: tokio::sync::broadcast::Receiver<Bytes>,
    stream: Option<LogStream>,
    /// Lines that came faster than they were taken.
    missed: u64,
    checked: Instant,
}

impl Follower {
    /// The next line with its end; none when the platform stops or the token no longer holds.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.checked.elapsed() >= RECHECK {
                let holds = tokens::still_holds(&self.platform, &self.caller).await;
                holds.ok()?;
                self.checked = Instant::now();
            }
            if let Some(line) = self.lines.pop_front() {
                return Some([&line[..], b"\n"].concat().into());
            }
            let came = tokio::select! {
                () = self.platform.closing().cancelled() => match self.live.try_recv() {
                    // What was said before the end is heard.
                    Ok(line) => Ok(Ok(line)),
                    Err(TryRecvError::Lagged(missed)) => Ok(Err(RecvError::Lagged(missed))),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
                },
                came = tokio::time::timeout_at(self.checked + RECHECK, self.live.recv()) => came,
            };
            match came {
                Err(_) => {}
                Ok(Err(RecvError::Closed)) => return None,
                Ok(Err(RecvError::Lagged(missed))) => self.missed += missed,
                Ok(Ok(line)) => self.take(line),
            }
        }
    }

    fn take(&mut self, line: Bytes) {
        if self.missed > 0 {
            self.lines.extend(gap(&line, self.missed));
            self.missed = 0;
        }
        if is_wanted(&line, self.stream) {
            self.lines.push_back(line);
        }
    }
}

/// A line of the platform's that says how many are missing before `next`.
fn gap(next: &[u8], missed: u64) -> Option<Bytes> {
    let mut record: LogRecord = serde_json::from_slice(next).ok()?;
    record.stream = LogStream::Platform;
    record.text = format!("{missed} lines came faster than they were read, and are missing here");
    record.done = None;
    Some(serde_json::to_vec(&record).ok()?.into())
}

fn is_wanted(line: &[u8], stream: Option<LogStream>) -> bool {
    #[derive(Deserialize)]
    struct Of {
        stream: LogStream,
    }
    let Some(wanted) = stream else {
        return true;
    };
    serde_json::from_slice::<Of>(line).is_ok_and(|of| of.stream == wanted)
}
