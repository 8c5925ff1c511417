//! Deployments: which version an app serves now. Deploy and rollback are the same act.

use serde::{Deserialize, Serialize};

use crate::{Generation, VersionNumber};

/// A deployment's number within its app; grows by one with each move of the pointer.
pub type Revision = u64;

/// Why the pointer was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentCause {
    Deploy,
    Rollback,
}

/// One move of an app's pointer to a version; the newest says what is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    pub revision: Revision,
    pub version: VersionNumber,
    pub cause: DeploymentCause,
    /// The catalog's generation that carries this deployment.
    pub generation: Generation,
    /// When, in milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// The id of the token that moved it.
    pub by: String,
}
