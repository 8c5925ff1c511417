//! The trace of a request: taken from its `traceparent` or begun here, handed to the guest, and recorded if it is one of
//! those that are.
//!
//! Only a worker whose operator wants traces has a [`Tracing`]; without one headers are neither read nor written here.

use std::cell::{Cell, RefCell};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use capabilities::calls::Called;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use model::limits;
use model::trace::{Call, SampleRatio, SpanId, Stretch, TraceId, TraceParent};
use rustix::time::{ClockId, clock_gettime};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes that are drawn from the kernel at once.
const DRAWN: usize = 512;

/// Which requests are recorded.
pub struct Tracing {
    ratio: SampleRatio,
    random: RefCell<Random>,
    /// A second, and how many requests were recorded in it because they said so.
    honoured: Cell<(u32, u64)>,
}

/// The trace of one request.
pub struct Trace {
    pub id: TraceId,
    /// The span of the guest: what the guest is told.
    pub guest: SpanId,
    pub recording: Option<Recording>,
}

/// What is recorded of a request as it goes on.
pub struct Recording {
    pub span: SpanId,
    /// The span that asked, if the request named one.
    pub parent: Option<SpanId>,
    pub state: String,
    began: Instant,
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub begun_ns: u64,
    pub routed_ns: u64,
    // Only the worker's one thread takes it, so it is never contended; an `Observer` must be `Sync` all the same.
    marks: Mutex<Marks>,
}

/// The moments of a request, in nanoseconds from its beginning.
#[derive(Default)]
pub struct Marks {
    /// As the client sees it; empty until the guest is to be run.
    pub scheme: &'static str,
    pub slot_ns: Option<u64>,
    pub load: Option<Stretch>,
    pub instantiate: Option<Stretch>,
    pub guest_began_ns: Option<u64>,
    pub guest_ended_ns: Option<u64>,
    pub calls: Vec<Call>,
    pub calls_dropped: u64,
}

impl Tracing {
    pub fn new(ratio: SampleRatio) -> Self {
        Self {
            ratio,
            random: RefCell::new(Random::new()),
            honoured: Cell::new((0, 0)),
        }
    }

    /// The trace of a request with these headers, which began then and was routed now, in this `second` of the worker.
    ///
    /// A request that says that it is recorded elsewhere is recorded here, at most [`limits::TRACES_HONOURED`] in a
    /// second; one that says it is not is not. For the others chance decides.
    pub fn begin(&self, headers: &HeaderMap, began: Instant, second: u32) -> Trace {
        let asked = asked(headers);
        let mut random = self.random.borrow_mut();
        let recorded = match asked {
            Some(asked) if !asked.sampled => false,
            Some(_) if self.honours(second) => true,
            _ => self.ratio.takes(u64::from_ne_bytes(random.draw())),
        };
        let (span, guest) = (random.span(), random.span());
        Trace {
            id: asked.map_or_else(|| random.trace(), |asked| asked.trace),
            guest,
            recording: recorded.then(|| Recording {
                span,
                parent: asked.map(|asked| asked.span),
                state: asked.map_or_else(String::new, |_| state(headers)),
                began,
                begun_ns: now_ns().saturating_sub(nanos(began.elapsed().as_nanos())),
                routed_ns: nanos(began.elapsed().as_nanos()),
                marks: Mutex::default(),
            }),
        }
    }

    fn honours(&self, second: u32) -> bool {
        let (of, count) = self.honoured.get();
        let count = if of == second { count + 1 } else { 1 };
        self.honoured.set((second, count));
        count <= limits::TRACES_HONOURED.default
    }
}

impl Trace {
    /// Tells the guest; the client used this scheme. What came with a `traceparent` that is none is not passed on, as the rules of W3C have it.
    pub fn pass(&self, scheme: &'static str, headers: &mut HeaderMap) {
        if let Some(recording) = &self.recording {
            recording.marks().scheme = scheme;
        }
        if asked(headers).is_none() {
            headers.remove(TRACESTATE);
        }
        let parent = TraceParent {
            trace: self.id,
            span: self.guest,
            sampled: self.recording.is_some(),
        };
        let value = HeaderValue::from_bytes(&parent.value());
        headers.insert(TRACEPARENT, value.expect("it is digits and dashes"));
    }
}

impl Recording {
    pub fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, in nanoseconds from the request's beginning.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// A moment in nanoseconds from the request's beginning.
    pub fn at(&self, moment: Instant) -> u64 {
        nanos(moment.saturating_duration_since(self.began).as_nanos())
    }

    pub fn stretch(&self, from: Instant, to: Instant) -> Stretch {
        Stretch {
            from_ns: self.at(from),
            to_ns: self.at(to),
        }
    }

    pub fn called(&self, called: Called) {
        let mut marks = self.marks();
        if marks.calls.len() as u64 >= limits::TRACE_CALLS.default {
            marks.calls_dropped += 1;
            return;
        }
        marks.calls.push(Call {
            name: called.name.to_owned(),
            stretch: self.stretch(called.from, called.to),
            span: called.span,
        });
    }
}

/// What a request says of its trace, if it says so once and by the rules.
fn asked(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACEPARENT).into_iter();
    match (values.next(), values.next()) {
        (Some(value), None) => TraceParent::read(value.as_bytes()),
        _ => None,
    }
}

/// A request's `tracestate` for its spans; nothing if it is longer than they carry.
fn state(headers: &HeaderMap) -> String {
    let values = headers.get_all(TRACESTATE).into_iter();
    let parts: Option<Vec<&str>> = values.map(|value| value.to_str().ok()).collect();
    let state = parts.unwrap_or_default().join(",");
    if state.len() as u64 <= limits::TRACE_STATE.default.bytes() {
        state
    } else {
        String::new()
    }
}

/// The clock of the log lines, finer than they need it.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// As many nanoseconds as a number holds: 584 years.
fn nanos(nanos: u128) -> u64 {
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Random bytes, drawn from the kernel many at a time.
struct Random {
    bytes: [u8; DRAWN],
    used: usize,
}

impl Random {
    fn new() -> Self {
        Self {
            bytes: [0; DRAWN],
            used: DRAWN,
        }
    }

    fn draw<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > DRAWN {
            getrandom::fill(&mut self.bytes).expect("the kernel gave random bytes at the start");
            self.used = 0;
        }
        let drawn = self.bytes[self.used..].first_chunk();
        self.used += N;
        *drawn.expect("there are as many, as was looked above")
    }

    fn trace(&mut self) -> TraceId {
        loop {
            if let Some(id) = TraceId::new(self.draw()) {
                return id;
            }
        }
    }

    fn span(&mut self) -> SpanId {
        loop {
            if let Some(id) = SpanId::new(self.draw()) {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const NOT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn tracing(share: f64) -> Tracing {
        Tracing::new(SampleRatio::try_from(share).unwrap())
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    /// What the guest is told, and the trace.
    fn pass(tracing: &Tracing, lines: &[(&'static str, &'static str)]) -> (HeaderMap, Trace) {
        let mut headers = headers(lines);
        let trace = tracing.begin(&headers, Instant::now(), 0);
        trace.pass("http", &mut headers);
        (headers, trace)
    }

    #[test]
    fn a_guest_is_told_the_trace_that_the_request_brought_or_a_new_one() {
        let check = |lines: &[(&'static str, &'static str)], kept: bool, state: &[&str]| {
            for share in [0.0, 1.0] {
                let (headers, trace) = pass(&tracing(share), lines);
                let told = TraceParent::read(headers[TRACEPARENT].as_bytes()).unwrap();
                let expected = TraceParent {
                    trace: trace.id,
                    span: trace.guest,
                    sampled: trace.recording.is_some(),
                };
                assert_eq!(told, expected, "{lines:?}");
                assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
                let same = trace.id.to_string() == "4bf92f3577b34da6a3ce929d0e0e4736";
                assert_eq!(same, kept, "{lines:?}");
                let states: Vec<_> = headers.get_all(TRACESTATE).iter().collect();
                assert_eq!(states, state, "{lines:?}");
            }
        };
        let (parent, state) = ("traceparent", "tracestate");
        check(&[], false, &[]);
        check(&[(parent, SAMPLED)], true, &[]);
        check(&[(parent, NOT), (state, "a=1")], true, &["a=1"]);
        let states = [(parent, SAMPLED), (state, "a=1"), (state, "b=2")];
        check(&states, true, &["a=1", "b=2"]);
        check(&[(parent, SAMPLED), (parent, SAMPLED)], false, &[]);
        check(&[(parent, "00-0"), (state, "a=1")], false, &[]);
        check(&[(state, "a=1")], false, &[]);
    }

    #[test]
    fn chance_decides_only_where_the_request_does_not() {
        let recorded = |share: f64, lines: &[(&'static str, &'static str)]| {
            let (_, trace) = pass(&tracing(share), lines);
            trace.recording
        };
        assert!(recorded(0.0, &[]).is_none());
        assert!(recorded(1.0, &[]).unwrap().parent.is_none());
        assert!(recorded(1.0, &[("traceparent", NOT)]).is_none());
        let asked = [("traceparent", SAMPLED), ("tracestate", "a=1")];
        let recording = recorded(0.0, &asked).unwrap();
        assert_eq!(recording.parent.unwrap().to_string(), "00f067aa0ba902b7");
        assert_eq!(recording.state, "a=1");
        let without = [("traceparent", "00-0"), ("tracestate", "a=1")];
        assert_eq!(recorded(1.0, &without).unwrap().state, "");
    }

    #[test]
    fn a_client_cannot_have_more_than_so_many_requests_recorded_in_a_second() {
        let tracing = tracing(0.0);
        let headers = headers(&[("traceparent", SAMPLED)]);
        let recorded = |second: u32| {
            let began = Instant::now();
            let traces = (0..500).map(|_| tracing.begin(&headers, began, second));
            traces.filter(|trace| trace.recording.is_some()).count() as u64
        };
        for second in [0, 1, 7] {
            assert_eq!(recorded(second), limits::TRACES_HONOURED.default);
        }
    }

    #[test]
    fn ids_differ_and_calls_are_bounded() {
        let tracing = tracing(1.0);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let trace = tracing.begin(&HeaderMap::new(), Instant::now(), 0);
            let span = trace.recording.as_ref().unwrap().span;
            assert!(seen.insert(trace.id.to_string()));
            assert!(seen.insert(trace.guest.to_string()) && seen.insert(span.to_string()));
        }
        let trace = tracing.begin(&HeaderMap::new(), Instant::now(), 0);
        let recording = trace.recording.unwrap();
        for _ in 0..limits::TRACE_CALLS.default + 3 {
            recording.called(Called {
                name: "config.get",
                from: Instant::now(),
                to: Instant::now(),
                span: None,
            });
        }
        let marks = recording.marks();
        assert_eq!(marks.calls.len() as u64, limits::TRACE_CALLS.default);
        assert_eq!(marks.calls_dropped, 3);
    }
}
