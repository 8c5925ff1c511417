//! Reuse: instances that answer more than one request, as an app's own choice.

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::limits::{self, LimitError};

/// The manifest's table `[reuse]`, for services of `wasi:http` 0.3. Left out, each request has an instance of its own.
///
/// What a request leaves in its instance, the next one finds there; so an instance answers requests of one version of
/// one app, and of nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reuse {
    /// [`limits::REUSE_REQUESTS`]
    pub requests: u64,
    /// [`limits::REUSE_CONCURRENT`]
    pub concurrent: u64,
    /// [`limits::REUSE_IDLE`]
    pub idle: Millis,
}

impl Default for Reuse {
    fn default() -> Self {
        Self {
            requests: limits::REUSE_REQUESTS.default,
            concurrent: limits::REUSE_CONCURRENT.default,
            idle: limits::REUSE_IDLE.default,
        }
    }
}

impl Reuse {
    /// Whether each number is above zero and within its ceiling.
    pub fn check(&self) -> Result<(), LimitError> {
        let (requests, concurrent) = (limits::REUSE_REQUESTS, limits::REUSE_CONCURRENT);
        limits::check(requests.name, self.requests, requests.ceiling)?;
        limits::check(concurrent.name, self.concurrent, concurrent.ceiling)?;
        limits::check(
            limits::REUSE_IDLE.name,
            self.idle,
            limits::REUSE_IDLE.ceiling,
        )
    }
}
