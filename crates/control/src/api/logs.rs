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
use model::{LogRecord, LogStream, Owner, Since, Statuses};
use serde::Deserialize;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;

use super::apps;
use super::problem::Refused;
use super::request::{self, Place};
use crate::auth::{Caller, Reach};
use crate::control::Platform;
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
    /// Lines of requests with these statuses only.
    status: Option<Statuses>,
    /// Lines from then on only.
    since: Option<Since>,
}

/// Which lines are shown, and go into the count of the newest ones.
struct Filter {
    stream: Option<LogStream>,
    status: Option<Statuses>,
    since_ms: Option<u64>,
}

/// `GET …/apps/{app}/logs?follow=&tail=&stream=&status=&since=`
pub(super) async fn tail(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    place: Place,
    uri: Uri,
) -> Result<Response, Refused> {
    let id = place.app()?;
    caller.check(Verb::Read, Reach::App(&id))?;
    let wanted: Wanted = request::query(&uri)?;
    let filter = Filter::new(wanted.stream, wanted.status, wanted.since, platform.now())?;
    let owner = apps::present(&platform, id).await?;

    let LogTail { recent, live } = platform.distribution.logs(&owner);
    let mut lines: VecDeque<Bytes> = recent
        .into_iter()
        .filter(|line| filter.takes(line))
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
        owner,
        lines,
        live,
        filter,
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
    owner: Owner,
    /// What is to be sent at once.
    lines: VecDeque<Bytes>,
    live: tokio::sync::broadcast::Receiver<Bytes>,
    filter: Filter,
    /// Lines that came faster than they were taken.
    missed: u64,
    checked: Instant,
}

impl Follower {
    /// The next line with its end; none when the platform stops, the token no longer holds or the app is gone.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.checked.elapsed() >= RECHECK {
                let holds = tokens::still_holds(&self.platform, &self.caller).await;
                holds.ok()?;
                // The next app of the name has a log of its own.
                let present = apps::present(&self.platform, self.owner.app.clone()).await;
                present.ok().filter(|present| *present == self.owner)?;
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
        if self.filter.takes(&line) {
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

impl Filter {
    /// # Errors
    /// Only lines of requests have a status: with another stream, nothing could ever be shown.
    fn new(
        stream: Option<LogStream>,
        status: Option<Statuses>,
        since: Option<Since>,
        now_ms: u64,
    ) -> Result<Self, Refused> {
        let others = stream.is_some_and(|stream| stream != LogStream::Request);
        if others && status.is_some() {
            let title = "the query cannot be answered";
            let detail =
                "only lines of the stream `request` have a status; leave out `stream` or `status`";
            return Err(Refused::new(400, "query-malformed", title, detail));
        }
        Ok(Self {
            stream,
            status,
            since_ms: since.map(|since| since.at_ms(now_ms)),
        })
    }

    fn takes(&self, line: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Of {
            time_ms: u64,
            stream: LogStream,
            done: Option<Done>,
        }
        #[derive(Deserialize)]
        struct Done {
            status: u16,
        }
        if self.stream.is_none() && self.status.is_none() && self.since_ms.is_none() {
            return true;
        }
        let Ok(of) = serde_json::from_slice::<Of>(line) else {
            return false;
        };
        let status = of.done.map(|done| done.status);
        self.stream.is_none_or(|stream| stream == of.stream)
            && self.since_ms.is_none_or(|since| since <= of.time_ms)
            && (self.status.as_ref())
                .is_none_or(|statuses| status.is_some_and(|status| statuses.contains(status)))
    }
}
