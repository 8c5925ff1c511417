//! One request of an app, from its head to the last byte of its reply: what its log line and the counts are made of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use http::{Method, Uri};
use model::{LogStream, Outcome, Usage};
use runtime::{Ended, LineSink, Observer};

use super::line::Done;
use super::report::Report;
use super::request_id::RequestId;
use super::table::App;

/// A request and what became of it. Whoever has a part in it (the invocation, the reply's body) holds it; when the
/// last of them lets go, its line is written. So there is exactly one, and it comes after everything was freed.
pub struct Exchange {
    pub id: RequestId,
    pub app: Arc<App>,
    report: Arc<Report>,
    method: Method,
    uri: Uri,
    authority: HeaderValue,
    client: Arc<str>,
    pub began: Instant,
    // Only the worker's one thread takes it, so it is never contended; an `Observer` must be `Sync` all the same.
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// What the client was told instead of the guest's word; counts more than how the guest ended.
    refused: Option<Outcome>,
    ended: Option<Outcome>,
    usage: Usage,
    /// CPU time that compressing the reply took.
    compressing: Duration,
    status: u16,
    cold: bool,
}

/// What is known of a request as it begins.
pub struct Beginning<'a> {
    pub id: RequestId,
    pub app: Arc<App>,
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub authority: &'a HeaderValue,
    pub client: &'a Arc<str>,
    pub began: Instant,
}

impl Exchange {
    pub fn begin(report: &Arc<Report>, beginning: Beginning<'_>) -> Self {
        Self {
            id: beginning.id,
            app: beginning.app,
            report: report.clone(),
            method: beginning.method.clone(),
            uri: beginning.uri.clone(),
            authority: beginning.authority.clone(),
            client: beginning.client.clone(),
            began: beginning.began,
            progress: Mutex::default(),
        }
    }

    /// The app had to be loaded.
    pub fn cold(&self) {
        self.progress().cold = true;
    }

    /// The head of the reply is on its way.
    pub fn replied(&self, status: u16) {
        self.progress().status = status;
    }

    /// The platform answers instead of the guest, or cuts its reply short.
    pub fn refused(&self, outcome: Outcome) {
        self.progress().refused = Some(outcome);
    }

    /// The reply's body is over, after this many bytes.
    pub fn sent(&self, bytes: u64) {
        self.progress().usage.bytes_out = bytes;
    }

    /// Compressing the reply took so much CPU time.
    pub fn compressed(&self, cpu: Duration) {
        self.progress().compressing += cpu;
    }

    /// Tells the app's owner why.
    pub fn explain(&self, text: &str) {
        self.lines().line(LogStream::Platform, text);
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said about a request, by its guest or about it; it may come when the request is over.
struct Voice {
    id: RequestId,
    app: Arc<App>,
    report: Arc<Report>,
}

impl LineSink for Voice {
    fn line(&self, stream: LogStream, text: &str) {
        let served = self.report.served(&self.app);
        self.report.output(served, &self.id, stream, text);
    }
}

impl Observer for Exchange {
    fn lines(&self) -> Arc<dyn LineSink> {
        Arc::new(Voice {
            id: self.id,
            app: self.app.clone(),
            report: self.report.clone(),
        })
    }

    fn ended(&self, ended: Ended) {
        let mut progress = self.progress();
        progress.ended = Some(ended.outcome);
        progress.usage = Usage {
            bytes_out: progress.usage.bytes_out,
            ..ended.usage
        };
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let progress = self
            .progress
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let outcome = match progress.refused.or(progress.ended) {
            Some(outcome) => outcome,
            None if std::thread::panicking() => Outcome::Internal,
            // Nobody answered and nobody ran: hyper dropped the request with its connection.
            None => Outcome::ClientGone,
        };
        progress.usage.cpu_us +=
            u64::try_from(progress.compressing.as_micros()).unwrap_or(u64::MAX);
        progress.usage.wall_us =
            u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        // Who was refused before anything ran says nothing of the version.
        let ran = progress.ended.is_some();
        let done = Done {
            method: self.method.as_str(),
            authority: self.authority.to_str().unwrap_or_default(),
            path: self.uri.path(),
            status: progress.status,
            outcome,
            usage: &progress.usage,
            cold: progress.cold,
            client: &self.client,
        };
        let served = self.report.served(&self.app);
        self.report.finished(served, &self.id, &done);
        if ran {
            self.report
                .judge(&self.app.entry, served, &self.id, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{AppLimits, Digest, Entry, Grants, GuestKind, LogRecord, Replies, VersionNumber};

    use super::*;
    use crate::worker::request_id::RequestIds;

    fn record(act: impl FnOnce(&Arc<Exchange>)) -> LogRecord {
        let report = Arc::new(Report::default());
        let entry = Entry {
            id: "alice/shop".parse().unwrap(),
            version: VersionNumber::new(1).unwrap(),
            revision: 1,
            kind: GuestKind::HttpComponent,
            wasm: Digest::of(b"x"),
            routes: vec![],
            grant: Grants::default(),
            limits: AppLimits::default(),
            reply: Replies::default(),
            reuse: None,
        };
        let exchange = Arc::new(Exchange::begin(
            &report,
            Beginning {
                id: RequestIds::new(1).next(0),
                app: Arc::new(App {
                    entry: Arc::new(entry),
                    served: Default::default(),
                }),
                method: &Method::GET,
                uri: &"/x?secret=1".parse().unwrap(),
                authority: &HeaderValue::from_static("shop.test:80"),
                client: &"::1".into(),
                began: Instant::now(),
            },
        ));
        act(&exchange);
        assert!(
            report.rest().is_none(),
            "the line comes when everyone has let go"
        );
        drop(exchange);
        let line = String::from_utf8(report.rest().unwrap()).unwrap();
        assert!(!line.contains("secret"));
        serde_json::from_str(line.split_once('\t').unwrap().1).unwrap()
    }

    fn ended(outcome: Outcome) -> Ended {
        Ended {
            outcome,
            usage: Usage {
                cpu_us: 7,
                ..Usage::default()
            },
        }
    }

    #[test]
    fn the_line_says_what_the_client_met() {
        let check = |act: fn(&Arc<Exchange>), outcome: Outcome, status: u16, bytes_out: u64| {
            let done = record(act).done.unwrap();
            let found = (done.outcome, done.status, done.usage.bytes_out);
            assert_eq!(found, (outcome, status, bytes_out));
        };
        check(|_| {}, Outcome::ClientGone, 0, 0);
        check(
            |e| (e.refused(Outcome::Overloaded), e.replied(503)).1,
            Outcome::Overloaded,
            503,
            0,
        );
        check(
            |e| {
                e.replied(200);
                e.sent(5);
                e.ended(ended(Outcome::Ok));
            },
            Outcome::Ok,
            200,
            5,
        );
        check(
            |e| {
                e.replied(200);
                e.ended(ended(Outcome::Ok));
                e.sent(5);
                e.refused(Outcome::BadResponse);
            },
            Outcome::BadResponse,
            200,
            5,
        );
    }
}
