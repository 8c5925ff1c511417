//! What leaves the platform for those who watch it, and where to.

use http::Uri;
use http::uri::Scheme;
use model::trace::SampleRatio;
use model::{Millis, limits};
use node::{LogOutputs, OtlpSettings};
use serde::Deserialize;

use super::{limited, unusable};
use crate::failure::Failure;

/// `[telemetry]` of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    otlp: Option<String>,
    traces: Option<f64>,
    metrics: Option<bool>,
    metrics_every: Option<Millis>,
    logs: Option<Vec<LogOutput>>,
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LogOutput {
    File,
    Stdout,
    Otlp,
}

/// What leaves the platform for those who watch it.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    pub logs: LogOutputs,
    /// The collector, if there is one.
    pub otlp: Option<OtlpSettings>,
}

impl Telemetry {
    /// What the file comes to.
    pub fn of(file: File) -> Result<Self, Failure> {
        let logs = file.logs.unwrap_or_else(|| vec![LogOutput::File]);
        let goes_to = |output: LogOutput| logs.contains(&output);
        let outputs = LogOutputs {
            files: goes_to(LogOutput::File),
            stdout: goes_to(LogOutput::Stdout),
        };
        let Some(address) = file.otlp else {
            let homeless = [
                ("`telemetry.traces` is", file.traces.is_some()),
                ("`telemetry.metrics` is", file.metrics.is_some()),
                ("`telemetry.metrics-every` is", file.metrics_every.is_some()),
                ("\"otlp\" in `telemetry.logs` is", goes_to(LogOutput::Otlp)),
            ];
            return match homeless.iter().find(|(_, set)| *set) {
                Some((what, _)) => Err(unusable(
                    &format!("{what} set, and `telemetry.otlp` names no collector"),
                    "name one, such as `otlp = \"http://127.0.0.1:4318\"`",
                )),
                None => Ok(Self {
                    logs: outputs,
                    otlp: None,
                }),
            };
        };
        let ratio = |share: f64| {
            SampleRatio::try_from(share).map_err(|error| {
                let hint = "0 traces only requests whose `traceparent` asks for it; leave `traces` out for none";
                unusable(&format!("`telemetry.traces`: {error}"), hint)
            })
        };
        let every = limited(&limits::METRICS_EVERY, file.metrics_every)?;
        let otlp = OtlpSettings {
            collector: collector(&address)?,
            traces: file.traces.map(ratio).transpose()?,
            metrics: file.metrics.unwrap_or(true).then_some(every),
            logs: goes_to(LogOutput::Otlp),
        };
        Ok(Self {
            logs: outputs,
            otlp: Some(otlp),
        })
    }
}

/// The address of a collector: `http`, a host, and perhaps a port and a path.
fn collector(address: &str) -> Result<Uri, Failure> {
    let refused = |why: &str| {
        unusable(
            &format!("`telemetry.otlp` is `{address}`: {why}"),
            "write the address of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`",
        )
    };
    let uri: Uri = address
        .parse()
        .map_err(|error| refused(&format!("{error}")))?;
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => {}
        Some(scheme) if *scheme == Scheme::HTTPS => {
            return Err(refused(
                "Midge speaks no TLS to a collector; run one beside it that does, and name that",
            ));
        }
        _ => return Err(refused("it does not begin with `http://`")),
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(refused("it has a user name, and Midge sends none"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(refused("it has no host"));
    }
    if uri.query().is_some() {
        return Err(refused("it has a query, which has no place there"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::super::Flags;
    use super::super::tests::{refuses, settled};
    use super::*;

    #[test]
    fn what_cannot_be_sent_is_refused_by_name() {
        let telemetry = |line: &str, part: &str| refuses(&format!("[telemetry]\n{line}"), part);
        telemetry(
            "otlp = 'https://collector'",
            "Midge speaks no TLS to a collector",
        );
        telemetry(
            "otlp = 'collector:4318'",
            "it does not begin with `http://`",
        );
        telemetry(
            "otlp = '127.0.0.1:4318'",
            "`telemetry.otlp` is `127.0.0.1:4318`",
        );
        telemetry(
            "otlp = 'grpc://collector:4317'",
            "it does not begin with `http://`",
        );
        telemetry("otlp = 'http://me:secret@collector'", "a user name");
        telemetry("otlp = 'http://collector/?key=1'", "a query");
        telemetry("otlp = ''", "`telemetry.otlp` is ``");
        telemetry(
            "traces = 0.1",
            "`telemetry.traces` is set, and `telemetry.otlp`",
        );
        telemetry("metrics = true", "`telemetry.metrics` is set");
        telemetry(
            "logs = ['file', 'otlp']",
            "\"otlp\" in `telemetry.logs` is set",
        );
        telemetry("logs = ['syslog']", "syslog");
        telemetry(
            "otlp = 'http://a'\ntraces = 1.5",
            "`telemetry.traces`: 1.5 is no share",
        );
        telemetry("otlp = 'http://a'\ntraces = nan", "NaN is no share");
        telemetry("otlp = 'http://a'\nmetrics-every = '0s'", "may not be zero");
        telemetry("otlp = 'http://a'\nmetrics-every = '2h'", "at most 1h");
        telemetry("protocol = 'grpc'", "protocol");
    }

    #[test]
    fn a_collector_gets_metrics_and_nothing_else_unless_it_is_said() {
        let check = |more: &str, metrics: Option<Millis>, traces: Option<f64>, logs: bool| {
            let file = format!("[telemetry]\notlp = 'http://[::1]:4318'\n{more}");
            let settings = settled(Flags::default(), &file).unwrap();
            let otlp = settings.telemetry.otlp.unwrap();
            let found = (otlp.metrics, otlp.traces.map(f64::from), otlp.logs);
            assert_eq!(found, (metrics, traces, logs), "{more}");
            assert_eq!(settings.telemetry.logs.files, !logs);
        };
        check("", Some(Millis::secs(10)), None, false);
        check("metrics = false\ntraces = 0", None, Some(0.0), false);
        check(
            "traces = 1.0\nlogs = ['otlp']",
            Some(Millis::secs(10)),
            Some(1.0),
            true,
        );
    }
}
