//! A traced request as spans: the request, and in it routing, loading, the instance and its guest, and the guest's calls.

use bytes::Bytes;
use model::trace::{Call, SpanId, Stretch, Traced};
use model::{Fault, Outcome, RequestRecord};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status};
use prost::Message as _;

use super::{attribute, number, scope, text};

/// What a request takes besides its texts, and each of its calls.
const FIXED_BYTES: u64 = 1024;
const CALL_BYTES: u64 = 64;

/// The sampled flag of a `traceparent`.
const SAMPLED: u32 = 1;

/// About how many bytes a request takes while it waits.
pub fn cost(traced: &Traced) -> u64 {
    let texts = traced.state.len() + traced.done.path.len() + traced.done.host.len();
    FIXED_BYTES + texts as u64 + CALL_BYTES * traced.calls.len() as u64
}

/// The body that says all of these requests.
pub fn request(batch: &[Traced], resource: &Resource) -> Bytes {
    let spans = ScopeSpans {
        scope: Some(scope()),
        spans: batch.iter().flat_map(spans).collect(),
        ..ScopeSpans::default()
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![spans],
            ..ResourceSpans::default()
        }],
    };
    request.encode_to_vec().into()
}

/// The attributes of a request by the conventions of OpenTelemetry.
pub fn http(done: &RequestRecord) -> Vec<KeyValue> {
    let known = is_known(&done.method);
    let method = if known {
        done.method.as_str()
    } else {
        "_OTHER"
    };
    let mut attributes = vec![
        text("http.request.method", method),
        text("server.address", &*done.host),
        text("url.path", &*done.path),
        text("client.address", &*done.client),
        number("http.request.body.size", done.usage.bytes_in),
        number("http.response.body.size", done.usage.bytes_out),
        attribute("faas.coldstart", Value::BoolValue(done.cold)),
        text("midge.outcome", done.outcome.code()),
    ];
    if !known {
        attributes.push(text("http.request.method_original", &*done.method));
    }
    if done.status > 0 {
        attributes.push(number("http.response.status_code", done.status.into()));
    }
    if is_failure(done.outcome) {
        attributes.push(text("error.type", done.outcome.code()));
    } else if done.status >= 500 {
        attributes.push(text("error.type", done.status.to_string()));
    }
    attributes
}

/// The methods of RFC 9110 and RFC 5789.
fn is_known(method: &str) -> bool {
    let known = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    known.contains(&method)
}

/// Whether it is anyone's failure but the caller's.
fn is_failure(outcome: Outcome) -> bool {
    matches!(outcome.fault(), Some(Fault::App | Fault::Platform))
}

/// All spans of a request; those that were not reached are left out.
fn spans(traced: &Traced) -> Vec<Span> {
    let routing = Stretch {
        from_ns: 0,
        to_ns: traced.routed_ns,
    };
    let mut spans = vec![
        whole(traced),
        child(traced, traced.span, "routing", routing),
    ];
    if let Some(load) = traced.load {
        spans.push(child(traced, traced.span, "load", load));
    }
    if let Some(instantiate) = traced.instantiate {
        spans.push(child(traced, traced.span, "instantiate", instantiate));
    }
    if let Some(began) = traced.guest_began_ns {
        spans.push(guest(traced, began));
        let calls = traced.calls.iter();
        spans.extend(calls.map(|call| called(traced, call)));
    }
    spans
}

/// A guest's call. One that asked elsewhere has told there who asks.
fn called(traced: &Traced, call: &Call) -> Span {
    let span = child(traced, traced.guest, &call.name, call.stretch);
    match call.span {
        None => span,
        Some(id) => Span {
            span_id: id.bytes().to_vec(),
            kind: SpanKind::Client.into(),
            ..span
        },
    }
}

/// The span of the request itself.
fn whole(traced: &Traced) -> Span {
    let done = &traced.done;
    let stretch = Stretch {
        from_ns: 0,
        to_ns: traced.ended_ns,
    };
    let mut attributes = http(done);
    attributes.extend([
        text("midge.tenant", traced.app.tenant.to_string()),
        text("midge.app", traced.app.app.to_string()),
        number("midge.version", traced.version.0.get().into()),
        text("midge.request.id", &*traced.request),
    ]);
    if !traced.scheme.is_empty() {
        attributes.push(text("url.scheme", &*traced.scheme));
    }
    if let Some(slot_ns) = traced.slot_ns {
        let waited = slot_ns.saturating_sub(traced.routed_ns);
        attributes.push(number("midge.slot.wait_us", waited / 1000));
    }
    let name = if is_known(&done.method) {
        done.method.as_str()
    } else {
        "HTTP"
    };
    let parent = traced.parent.map(|parent| parent.bytes().to_vec());
    let flags = SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32;
    let remote = SpanFlags::ContextIsRemoteMask as u32;
    Span {
        span_id: traced.span.bytes().to_vec(),
        flags: flags | parent.as_ref().map_or(0, |_| remote),
        parent_span_id: parent.unwrap_or_default(),
        kind: SpanKind::Server.into(),
        attributes,
        status: (is_failure(done.outcome) || done.status >= 500).then(|| failed(done)),
        ..span(traced, name, stretch)
    }
}

/// The guest's own span, from when it was handed the request to its end.
fn guest(traced: &Traced, from_ns: u64) -> Span {
    let stretch = Stretch {
        from_ns,
        to_ns: traced.guest_ended_ns.unwrap_or(traced.ended_ns),
    };
    let usage = &traced.done.usage;
    let mut attributes = vec![
        number("midge.cpu_us", usage.cpu_us),
        number("midge.memory_bytes", usage.memory_bytes),
    ];
    if traced.calls_dropped > 0 {
        attributes.push(number("midge.calls.dropped", traced.calls_dropped));
    }
    Span {
        span_id: traced.guest.bytes().to_vec(),
        attributes,
        status: (traced.done.outcome.fault() == Some(Fault::App)).then(|| failed(&traced.done)),
        ..child(traced, traced.span, "guest", stretch)
    }
}

fn failed(done: &RequestRecord) -> Status {
    Status {
        code: StatusCode::Error.into(),
        message: done.outcome.code().into(),
    }
}

/// A span within the span `parent` of the same request.
fn child(traced: &Traced, parent: SpanId, name: &str, stretch: Stretch) -> Span {
    Span {
        span_id: new_id(),
        parent_span_id: parent.bytes().to_vec(),
        flags: SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32,
        kind: SpanKind::Internal.into(),
        ..span(traced, name, stretch)
    }
}

fn span(traced: &Traced, name: &str, stretch: Stretch) -> Span {
    Span {
        trace_id: traced.trace.bytes().to_vec(),
        trace_state: traced.state.clone(),
        name: name.into(),
        start_time_unix_nano: traced.begun_ns.saturating_add(stretch.from_ns),
        end_time_unix_nano: traced.begun_ns.saturating_add(stretch.to_ns),
        ..Span::default()
    }
}

fn new_id() -> Vec<u8> {
    let drawn = getrandom::u64().expect("the kernel gave random bytes at the start");
    // Zero would be no id.
    drawn.max(1).to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use model::trace::TraceId;
    use model::{Usage, VersionNumber};

    use super::*;

    fn traced(outcome: Outcome, status: u16) -> Traced {
        let stretch = |from_ns, to_ns| Stretch { from_ns, to_ns };
        Traced {
            trace: TraceId::new([1; 16]).unwrap(),
            parent: SpanId::new([2; 8]),
            span: SpanId::new([3; 8]).unwrap(),
            guest: SpanId::new([4; 8]).unwrap(),
            state: "a=1".into(),
            begun_ns: 1000,
            routed_ns: 10,
            slot_ns: Some(20),
            load: Some(stretch(20, 30)),
            instantiate: Some(stretch(40, 50)),
            guest_began_ns: Some(50),
            guest_ended_ns: Some(80),
            ended_ns: 100,
            calls: vec![Call {
                name: "config.get".into(),
                stretch: stretch(60, 70),
                span: None,
            }],
            calls_dropped: 2,
            request: "r".into(),
            app: "alice/shop".parse().unwrap(),
            version: VersionNumber::new(3).unwrap(),
            scheme: "https".into(),
            done: RequestRecord {
                method: "GET".into(),
                host: "shop.test".into(),
                path: "/x".into(),
                status,
                outcome,
                usage: Usage::default(),
                cold: true,
                client: "::1".into(),
            },
        }
    }

    fn names(spans: &[Span]) -> Vec<(&str, u64, u64, u8)> {
        let spans = spans.iter();
        spans
            .map(|span| {
                let (from, to) = (span.start_time_unix_nano, span.end_time_unix_nano);
                (&*span.name, from, to, span.parent_span_id[0])
            })
            .collect()
    }

    #[test]
    fn every_part_of_a_request_is_a_span_in_its_place() {
        let all = spans(&traced(Outcome::Ok, 200));
        assert_eq!(
            names(&all),
            [
                ("GET", 1000, 1100, 2),
                ("routing", 1000, 1010, 3),
                ("load", 1020, 1030, 3),
                ("instantiate", 1040, 1050, 3),
                ("guest", 1050, 1080, 3),
                ("config.get", 1060, 1070, 4),
            ]
        );
        assert_eq!(
            (&all[0].span_id[..], &all[4].span_id[..]),
            (&[3; 8][..], &[4; 8][..])
        );
        for span in &all {
            assert_eq!(
                (&span.trace_id[..], &*span.trace_state),
                (&[1; 16][..], "a=1")
            );
            assert_eq!(span.status, None);
        }
    }

    #[test]
    fn what_was_not_reached_is_no_span() {
        let refused = Traced {
            parent: None,
            load: None,
            instantiate: None,
            guest_began_ns: None,
            guest_ended_ns: None,
            calls: Vec::new(),
            ..traced(Outcome::Overloaded, 503)
        };
        let all = spans(&refused);
        let found: Vec<_> = all.iter().map(|span| &*span.name).collect();
        assert_eq!(found, ["GET", "routing"]);
        assert!(all[0].parent_span_id.is_empty());
    }

    #[test]
    fn a_request_of_an_instance_that_another_made_has_a_guest_of_its_own() {
        let reused = Traced {
            load: None,
            instantiate: None,
            calls: Vec::new(),
            ..traced(Outcome::Ok, 200)
        };
        let all = spans(&reused);
        let expected = [
            ("GET", 1000, 1100, 2),
            ("routing", 1000, 1010, 3),
            ("guest", 1050, 1080, 3),
        ];
        assert_eq!(names(&all), expected);
        assert_eq!(all[2].span_id, [4; 8]);
    }

    #[test]
    fn a_failure_is_one_only_if_it_is_not_the_callers() {
        let check = |outcome: Outcome, status: u16, request: bool, guest: bool| {
            let all = spans(&traced(outcome, status));
            let failed = |span: &Span| span.status.is_some();
            assert_eq!(
                (failed(&all[0]), failed(&all[4])),
                (request, guest),
                "{outcome}"
            );
            let typed = all[0].attributes.iter().any(|a| a.key == "error.type");
            assert_eq!(typed, request);
        };
        check(Outcome::Ok, 404, false, false);
        check(Outcome::Ok, 503, true, false);
        check(Outcome::ClientGone, 0, false, false);
        check(Outcome::Trap, 500, true, true);
        check(Outcome::BadResponse, 200, true, true);
        check(Outcome::Internal, 500, true, false);
    }
}
