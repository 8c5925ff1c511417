//! The collector: what is sent to it, again if it asks for that, and what it answers.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use model::limits;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Notice;

/// The first pause before the same is sent again.
const PAUSE: Duration = Duration::from_secs(1);

/// A kind of what is sent.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        })
    }
}

/// Why something did not reach the collector.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it did not answer within {}", limits::OTLP_WAIT.default)]
    Late,
    #[error("it answers {status}")]
    Refused {
        status: StatusCode,
        /// How long it asks to be left alone.
        pause: Option<Duration>,
    },
}

impl NotTaken {
    /// The pause after which the same may be taken, if one may help.
    fn pause(&self, tries: u32) -> Option<Duration> {
        let doubled = PAUSE * 2u32.saturating_pow(tries - 1);
        match self {
            Self::Unreachable(_) | Self::Late => Some(doubled),
            Self::Refused { status, pause } => matches!(status.as_u16(), 429 | 502 | 503 | 504)
                .then(|| {
                    pause
                        .unwrap_or(doubled)
                        .min(limits::OTLP_PAUSE.default.duration())
                }),
        }
    }
}

pub struct Collector {
    client: Client<HttpConnector, Full<Bytes>>,
    /// Without a slash at its end.
    base: String,
    /// Cancelled when there is no time left for sending again.
    hurry: CancellationToken,
    notice: Notice,
    /// By signal, whether the last was not taken.
    failing: [AtomicBool; 3],
}

impl Collector {
    pub fn new(base: &Uri, notice: Notice) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(limits::OTLP_WAIT.default.duration()));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self {
            client,
            base: base.to_string().trim_end_matches('/').to_owned(),
            hurry: CancellationToken::new(),
            notice,
            failing: Default::default(),
        }
    }

    /// From now on nothing is sent again.
    pub fn hurry(&self) {
        self.hurry.cancel();
    }

    /// Sends a body, several times if that may help; says how many of its records the collector refused.
    pub async fn send(&self, signal: Signal, body: Bytes) -> Result<u64, NotTaken> {
        let mut tries = 1;
        loop {
            let sent = self.send_once(signal, body.clone()).await;
            let Err(error) = &sent else {
                return sent;
            };
            let pause = error.pause(tries);
            let pause = pause.filter(|_| u64::from(tries) < limits::OTLP_TRIES.default);
            let Some(pause) = pause else {
                return sent;
            };
            tokio::select! {
                () = self.hurry.cancelled() => return sent,
                () = tokio::time::sleep(pause) => tries += 1,
            }
        }
    }

    /// Sends a body once.
    pub async fn send_once(&self, signal: Signal, body: Bytes) -> Result<u64, NotTaken> {
        let wait = limits::OTLP_WAIT.default.duration();
        let sent = timeout(wait, self.post(signal, body)).await;
        let sent = sent.unwrap_or(Err(NotTaken::Late));
        let was_failing = self.failing[signal as usize].swap(sent.is_err(), Relaxed);
        match &sent {
            Err(error) if !was_failing => (self.notice)(&format!(
                "the collector at `{}` takes no {signal}: {error}; what it does not take in time is dropped and counted \
                 in `midge_telemetry_dropped_total`",
                self.base
            )),
            Ok(_) if was_failing => (self.notice)(&format!(
                "the collector at `{}` takes {signal} again",
                self.base
            )),
            _ => {}
        }
        sent
    }

    async fn post(&self, signal: Signal, body: Bytes) -> Result<u64, NotTaken> {
        let agent = concat!("midge/", env!("CARGO_PKG_VERSION"));
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/v1/{signal}", self.base))
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, HeaderValue::from_static(agent))
            .body(Full::new(body))
            .map_err(unreachable)?;
        let reply = self.client.request(request).await.map_err(unreachable)?;
        let status = reply.status();
        if !status.is_success() {
            let pause = pause(&reply);
            return Err(NotTaken::Refused { status, pause });
        }
        Ok(refused(reply).await)
    }
}

fn unreachable(error: impl std::error::Error) -> NotTaken {
    // What says why stands at the end of the chain.
    let mut last: &dyn std::error::Error = &error;
    while let Some(source) = last.source() {
        last = source;
    }
    NotTaken::Unreachable(last.to_string())
}

fn pause(reply: &Response<Incoming>) -> Option<Duration> {
    let seconds = reply.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().map(Duration::from_secs).ok()
}

/// How many records an answer says were refused. The answers to traces, metrics and logs have one form. One that cannot be
/// read refuses nothing: its status says that all was taken.
async fn refused(reply: Response<Incoming>) -> u64 {
    let limit = limits::OTLP_REPLY.default.as_usize();
    let Ok(body) = Limited::new(reply.into_body(), limit).collect().await else {
        return 0;
    };
    let answer = ExportTraceServiceResponse::decode(body.to_bytes());
    let partial = answer.ok().and_then(|answer| answer.partial_success);
    partial.map_or(0, |partial| {
        u64::try_from(partial.rejected_spans).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_sent_again_and_ever_later() {
        let check = |error: NotTaken, tries: u32, expected: Option<u64>| {
            let pause = error.pause(tries).map(|pause| pause.as_secs());
            assert_eq!(pause, expected, "{error}");
        };
        let refused = |status: u16, pause: Option<u64>| NotTaken::Refused {
            status: StatusCode::from_u16(status).unwrap(),
            pause: pause.map(Duration::from_secs),
        };
        check(NotTaken::Late, 1, Some(1));
        check(NotTaken::Unreachable("x".into()), 3, Some(4));
        check(refused(503, None), 2, Some(2));
        check(refused(503, Some(7)), 2, Some(7));
        check(refused(429, Some(9999)), 1, Some(30));
        for status in [301, 400, 401, 404, 413, 500] {
            check(refused(status, Some(1)), 1, None);
        }
    }
}
