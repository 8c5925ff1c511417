//! A line of an app's log as a log record of OpenTelemetry.

use bytes::Bytes;
use model::{Fault, LogRecord, LogStream, RequestRecord};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{
    LogRecord as Record, ResourceLogs, ScopeLogs, SeverityNumber,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::{number, scope, spans, text};

/// The body that says all of these lines.
pub fn request(batch: &[Bytes], resource: &Resource) -> Bytes {
    let lines = batch.iter();
    let records = lines.filter_map(|line| Some(record(serde_json::from_slice(line).ok()?)));
    let records = ScopeLogs {
        scope: Some(scope()),
        log_records: records.collect(),
        ..ScopeLogs::default()
    };
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource.clone()),
            scope_logs: vec![records],
            ..ResourceLogs::default()
        }],
    };
    request.encode_to_vec().into()
}

fn record(line: LogRecord) -> Record {
    let severity = severity(&line);
    let time_ns = line.time_ms.saturating_mul(1_000_000);
    let mut attributes = vec![
        text("midge.tenant", line.tenant.to_string()),
        text("midge.app", line.app.to_string()),
        number("midge.version", line.version.0.get().into()),
        text("midge.request.id", line.request),
    ];
    attributes.extend(line.done.iter().flat_map(spans::http));
    let event = match line.stream {
        LogStream::Request => "midge.request",
        LogStream::Platform => "midge.platform",
        LogStream::Stdout | LogStream::Stderr => "",
    };
    match line.stream {
        LogStream::Stdout => attributes.push(text("log.iostream", "stdout")),
        LogStream::Stderr => attributes.push(text("log.iostream", "stderr")),
        LogStream::Request | LogStream::Platform => {}
    }
    let body = line.done.as_ref().map_or(line.text, said);
    Record {
        time_unix_nano: time_ns,
        observed_time_unix_nano: time_ns,
        severity_number: severity.into(),
        severity_text: severity_text(severity).into(),
        body: Some(AnyValue {
            value: Some(Value::StringValue(body)),
        }),
        attributes,
        trace_id: line
            .trace
            .map_or_else(Vec::new, |trace| trace.bytes().to_vec()),
        event_name: event.into(),
        ..Record::default()
    }
}

/// A request in a line for people.
fn said(done: &RequestRecord) -> String {
    let RequestRecord {
        method,
        host,
        path,
        status,
        outcome,
        ..
    } = done;
    format!("{method} {host}{path} {status} {outcome}")
}

/// Failures of the app or the platform are errors; what the caller did, and what is said on standard error, is worth a
/// look.
fn severity(line: &LogRecord) -> SeverityNumber {
    match (line.stream, &line.done) {
        (LogStream::Request, Some(done)) => match done.outcome.fault() {
            None => SeverityNumber::Info,
            Some(Fault::Caller) => SeverityNumber::Warn,
            Some(Fault::App | Fault::Platform) => SeverityNumber::Error,
        },
        (LogStream::Request | LogStream::Stdout, _) => SeverityNumber::Info,
        (LogStream::Stderr | LogStream::Platform, _) => SeverityNumber::Warn,
    }
}

fn severity_text(severity: SeverityNumber) -> &'static str {
    match severity {
        SeverityNumber::Error => "ERROR",
        SeverityNumber::Warn => "WARN",
        _ => "INFO",
    }
}

#[cfg(test)]
mod tests {
    use model::trace::TraceId;
    use model::{Digest, Outcome, Usage, VersionNumber};

    use super::*;

    fn line(stream: LogStream, outcome: Option<Outcome>) -> LogRecord {
        LogRecord {
            time_ms: 7,
            tenant: "alice".parse().unwrap(),
            app: "shop".parse().unwrap(),
            version: VersionNumber::new(3).unwrap(),
            digest: Digest::of(b""),
            request: "r".into(),
            trace: TraceId::new([1; 16]),
            stream,
            text: if outcome.is_none() { "said" } else { "" }.into(),
            done: outcome.map(|outcome| RequestRecord {
                method: "GET".into(),
                host: "shop.test".into(),
                path: "/x".into(),
                status: 200,
                outcome,
                usage: Usage::default(),
                cold: false,
                client: "::1".into(),
            }),
        }
    }

    #[test]
    fn a_record_is_as_severe_as_its_outcome_or_its_stream() {
        let check = |stream: LogStream, outcome: Option<Outcome>, expected: &str, body: &str| {
            let record = record(line(stream, outcome));
            assert_eq!(record.severity_text, expected, "{stream:?} {outcome:?}");
            assert_eq!(
                (record.time_unix_nano, &*record.trace_id),
                (7_000_000, &[1; 16][..])
            );
            let said = record.body.unwrap().value;
            assert_eq!(said, Some(Value::StringValue(body.into())));
        };
        let request = LogStream::Request;
        let of = |outcome: &str| format!("GET shop.test/x 200 {outcome}");
        check(request, Some(Outcome::Ok), "INFO", &of("ok"));
        check(
            request,
            Some(Outcome::ClientGone),
            "WARN",
            &of("client-gone"),
        );
        check(request, Some(Outcome::Trap), "ERROR", &of("trap"));
        check(request, Some(Outcome::Internal), "ERROR", &of("internal"));
        check(LogStream::Stdout, None, "INFO", "said");
        check(LogStream::Stderr, None, "WARN", "said");
        check(LogStream::Platform, None, "WARN", "said");
    }

    #[test]
    fn what_is_no_record_is_left_out() {
        let good = serde_json::to_vec(&line(LogStream::Stdout, None)).unwrap();
        let batch = [Bytes::from_static(b"{}"), good.into()];
        let body = request(&batch, &Resource::default());
        let request = ExportLogsServiceRequest::decode(body).unwrap();
        assert_eq!(request.resource_logs[0].scope_logs[0].log_records.len(), 1);
    }
}
