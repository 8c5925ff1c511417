//! One request of an app, from its head to the last byte of its reply: what its log line and the counts are made of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use capabilities::calls::{CallSink, Called};
use http::header::HeaderValue;
use http::{HeaderMap, Method, Uri};
use model::trace::{SpanId, TraceId, TraceParent, Traced};
use model::{LogStream, Outcome, RequestRecord, Usage, limits};
use runtime::{Ended, LineSink, Observer, Overhead, Tracer};

use super::line::{Done, Names};
use super::report::Report;
use super::request_id::RequestId;
use super::table::{App, canonical_host};
use super::trace::{Recording, Trace};

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
    trace: Option<Box<Trace>>,
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
    /// None where requests have no traces.
    pub trace: Option<Box<Trace>>,
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
            trace: beginning.trace,
            progress: Mutex::default(),
        }
    }

    /// It has a slot.
    pub fn has_slot(&self) {
        if let Some(recording) = self.recording() {
            recording.marks().slot_ns = Some(recording.now());
        }
    }

    /// The app has to be loaded.
    pub fn cold(&self) {
        self.progress().cold = true;
    }

    /// It was loaded since then, or cannot be.
    pub fn loaded(&self, since: Instant) {
        if let Some(recording) = self.recording() {
            recording.marks().load = Some(recording.stretch(since, Instant::now()));
        }
    }

    /// Tells the guest the request's trace, in place of what the request said; the client used this scheme.
    pub fn pass_trace(&self, scheme: &'static str, headers: &mut HeaderMap) {
        if let Some(trace) = &self.trace {
            trace.pass(scheme, headers);
        }
    }

    /// Who hears the moments of the invocation, if they are recorded.
    pub fn tracer(self: &Arc<Self>) -> Option<Arc<dyn Tracer>> {
        self.recording().map(|_| self.clone() as Arc<dyn Tracer>)
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

    fn voice(&self) -> Voice {
        Voice {
            id: self.id,
            trace: self.names().trace,
            app: self.app.clone(),
            report: self.report.clone(),
        }
    }

    fn recording(&self) -> Option<&Recording> {
        self.trace.as_ref()?.recording.as_ref()
    }

    fn names(&self) -> Names<'_> {
        Names {
            id: &self.id,
            trace: self.trace.as_ref().map(|trace| trace.id),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said about a request, by its guest or about it, and what its instance uses; it may come when the request is
/// over.
struct Voice {
    id: RequestId,
    trace: Option<TraceId>,
    app: Arc<App>,
    report: Arc<Report>,
}

impl LineSink for Voice {
    fn line(&self, stream: LogStream, text: &str) {
        let served = self.report.served(&self.app);
        let names = Names {
            id: &self.id,
            trace: self.trace,
        };
        self.report.output(served, names, stream, text);
    }
}

impl Overhead for Voice {
    fn used(&self, cpu: Duration) {
        let served = self.report.served(&self.app);
        self.report.overhead(served, micros(cpu));
    }
}

impl Observer for Exchange {
    fn lines(&self) -> Arc<dyn LineSink> {
        Arc::new(self.voice())
    }

    fn overhead(&self) -> Arc<dyn Overhead> {
        Arc::new(self.voice())
    }

    fn ended(&self, ended: Ended) {
        if let Some(recording) = self.recording() {
            recording.marks().guest_ended_ns = Some(recording.now());
        }
        let mut progress = self.progress();
        progress.ended = Some(ended.outcome);
        progress.usage = Usage {
            bytes_out: progress.usage.bytes_out,
            ..ended.usage
        };
    }
}

impl CallSink for Exchange {
    fn called(&self, called: Called) {
        if let Some(recording) = self.recording() {
            recording.called(called);
        }
    }

    fn child(&self) -> Option<TraceParent> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).ok()?;
        Some(TraceParent {
            trace: self.trace.as_ref()?.id,
            span: SpanId::new(random)?,
            sampled: self.recording().is_some(),
        })
    }
}

impl Tracer for Exchange {
    fn instantiated(&self, from: Instant, to: Instant) {
        if let Some(recording) = self.recording() {
            recording.marks().instantiate = Some(recording.stretch(from, to));
        }
    }

    fn began(&self, at: Instant) {
        if let Some(recording) = self.recording() {
            recording.marks().guest_began_ns = Some(recording.at(at));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let progress = self.progress.get_mut();
        let progress = std::mem::take(progress.unwrap_or_else(PoisonError::into_inner));
        let outcome = match progress.refused.or(progress.ended) {
            Some(outcome) => outcome,
            None if std::thread::panicking() => Outcome::Internal,
            // Nobody answered and nobody ran: hyper dropped the request with its connection.
            None => Outcome::ClientGone,
        };
        let usage = Usage {
            cpu_us: progress.usage.cpu_us + micros(progress.compressing),
            wall_us: micros(self.began.elapsed()),
            ..progress.usage
        };
        // Who was refused before anything ran says nothing of the version.
        let ran = progress.ended.is_some();
        let done = Done {
            method: self.method.as_str(),
            authority: self.authority.to_str().unwrap_or_default(),
            path: self.uri.path(),
            status: progress.status,
            outcome,
            usage: &usage,
            cold: progress.cold,
            client: &self.client,
        };
        let served = self.report.served(&self.app);
        self.report.finished(served, self.names(), &done);
        if ran {
            self.report
                .judge(&self.app.entry, served, self.names(), outcome);
        }
        if let Some(trace) = &self.trace
            && let Some(recording) = &trace.recording
        {
            let traced = self.traced(trace, recording, &done);
            self.report.traced(traced);
        }
    }
}

impl Exchange {
    /// What the supervisor learns of a request that was recorded, when it is over.
    fn traced(&self, trace: &Trace, recording: &Recording, done: &Done<'_>) -> Traced {
        let marks = std::mem::take(&mut *recording.marks());
        let most = limits::LOG_PATH.default.as_usize();
        let entry = &self.app.entry;
        Traced {
            trace: trace.id,
            parent: recording.parent,
            span: recording.span,
            guest: trace.guest,
            state: recording.state.clone(),
            begun_ns: recording.begun_ns,
            routed_ns: recording.routed_ns,
            slot_ns: marks.slot_ns,
            load: marks.load,
            instantiate: marks.instantiate,
            guest_began_ns: marks.guest_began_ns,
            guest_ended_ns: marks.guest_ended_ns,
            ended_ns: recording.now(),
            calls: marks.calls,
            calls_dropped: marks.calls_dropped,
            request: self.id.as_str().to_owned(),
            app: entry.id.clone(),
            version: entry.version,
            scheme: marks.scheme.to_owned(),
            done: RequestRecord {
                method: done.method.to_owned(),
                host: canonical_host(done.authority).into_owned(),
                path: done.path[..done.path.floor_char_boundary(most)].to_owned(),
                status: done.status,
                outcome: done.outcome,
                usage: *done.usage,
                cold: done.cold,
                client: done.client.to_owned(),
            },
        }
    }
}

/// As many microseconds as a number holds.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use model::{AppLimits, Digest, Entry, Granted, GuestKind, LogRecord, Replies, VersionNumber};

    use super::*;
    use crate::worker::request_id::RequestIds;

    fn record(act: impl FnOnce(&Arc<Exchange>)) -> LogRecord {
        let report = Arc::new(Report::default());
        let entry = Entry {
            id: "alice/shop".parse().unwrap(),
            incarnations: Default::default(),
            version: VersionNumber::new(1).unwrap(),
            revision: 1,
            kind: GuestKind::HttpComponent,
            wasm: Digest::of(b"x"),
            routes: vec![],
            grant: Granted::default(),
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
                trace: None,
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
