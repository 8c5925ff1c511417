//! Log records: one line of JSON each, on disk, on the wire and on the screen.

use serde::{Deserialize, Serialize};

use crate::trace::TraceId;
use crate::{AppName, Digest, Outcome, TenantName, Usage, VersionNumber};

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogStream {
    /// The platform's line about one request.
    Request,
    /// The guest's standard output.
    Stdout,
    /// The guest's standard error.
    Stderr,
    /// What the platform has to say to the app's owner: why an invocation failed, with the backtrace.
    Platform,
}

/// One line of an app's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
    pub tenant: TenantName,
    pub app: AppName,
    pub version: VersionNumber,
    pub digest: Digest,
    /// The request's id: 26 characters, as in the reply's `midge-request-id` header.
    pub request: String,
    /// The request's trace, where requests have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
    pub stream: LogStream,
    /// The guest's or the platform's text, control characters escaped; empty on a request line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Set on request lines only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<RequestRecord>,
}

/// What a request line says of the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    pub method: String,
    pub host: String,
    /// The path without its query, which may carry secrets.
    pub path: String,
    /// The status that was sent; 0 if none was.
    pub status: u16,
    pub outcome: Outcome,
    pub usage: Usage,
    /// Whether the app had to be loaded for this request.
    pub cold: bool,
    /// The client's address as the platform saw it.
    pub client: String,
}
