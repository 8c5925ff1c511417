//! How an invocation ended, whose fault that was, and what it used.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose failure something is: decides the status, the alert, the retry and the bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Who sent the request.
    Caller,
    /// The app's own code.
    App,
    /// Midge, its operator or its machine.
    Platform,
}

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $fault:expr;)*) => {
        /// How one invocation ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Outcome { $($(#[$doc])* $name,)* }

        impl Outcome {
            /// Every outcome, in the order of this file.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word of the `midge-error` header, the log line and the metric.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status of a reply that the platform makes for this outcome, if the guest's own
            /// head has not left yet.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Whose failure it is; `None` if it is none.
            pub const fn fault(self) -> Option<Fault> {
                match self { $(Self::$name => $fault,)* }
            }
        }
    };
}

outcomes! {
    /// The guest answered and ended.
    Ok = "ok", 200, None;
    /// The request broke a rule of HTTP or one of ours (RFC 9112).
    BadRequest = "bad-request", 400, Some(Fault::Caller);
    /// No app has a route that covers this host and path.
    NotFound = "not-found", 404, Some(Fault::Caller);
    /// The body did not arrive in time.
    RequestTimeout = "request-timeout", 408, Some(Fault::Caller);
    /// Over TLS, the request names another host than its connection did (RFC 9110 §15.5.20).
    Misdirected = "misdirected", 421, Some(Fault::Caller);
    /// The request target is longer than the limit.
    TargetTooLong = "target-too-long", 414, Some(Fault::Caller);
    /// An `Expect` header other than `100-continue`.
    ExpectationFailed = "expectation-failed", 417, Some(Fault::Caller);
    /// The header section is larger than the limit.
    HeadersTooLarge = "headers-too-large", 431, Some(Fault::Caller);
    /// The client went away before the reply was complete.
    ClientGone = "client-gone", 499, Some(Fault::Caller);
    /// The request went through the platform too often already: apps call each other in a circle (RFC 8586).
    LoopDetected = "loop-detected", 508, Some(Fault::App);
    /// The guest trapped, panicked, or exited with an error.
    Trap = "trap", 500, Some(Fault::App);
    /// The guest ended without answering.
    NoResponse = "no-response", 500, Some(Fault::App);
    /// The guest answered with something that is not a reply: a status out of range, a broken CGI header.
    BadResponse = "bad-response", 502, Some(Fault::App);
    /// The guest used up its CPU time.
    CpuLimit = "cpu-limit", 503, Some(Fault::App);
    /// The guest used up its memory and trapped.
    MemoryLimit = "memory-limit", 503, Some(Fault::App);
    /// The invocation took longer than its wall time.
    WallLimit = "wall-limit", 504, Some(Fault::App);
    /// The version failed too often of late; nothing was run. Retry later.
    Quarantined = "quarantined", 503, Some(Fault::App);
    /// No slot came free in time; nothing was run. Retry later.
    Overloaded = "overloaded", 503, Some(Fault::Platform);
    /// The app's code is not on this node, or was refused; nothing was run.
    Unavailable = "unavailable", 503, Some(Fault::Platform);
    /// The platform failed.
    Internal = "internal", 500, Some(Fault::Platform);
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What one invocation used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time of the guest and of the host functions it called, in microseconds.
    pub cpu_us: u64,
    /// From the request's head to the end of the reply, in microseconds.
    pub wall_us: u64,
    /// The time to make the instance, in microseconds; part of `cpu_us`.
    pub instantiate_us: u64,
    /// The most linear memory it held, summed over its memories, in bytes.
    pub memory_bytes: u64,
    /// Request body bytes that the guest was handed.
    pub bytes_in: u64,
    /// Reply body bytes that the guest wrote.
    pub bytes_out: u64,
}
