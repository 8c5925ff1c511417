//! Versions: an immutable manifest and its artifact, numbered per app.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{Digest, EngineSetting, Manifest};

/// A version's number within its app: 1, 2, 3 …; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionNumber(pub NonZeroU32);

impl VersionNumber {
    /// The number `n`, or `None` for 0: versions begin at 1.
    pub fn new(n: u32) -> Option<Self> {
        NonZeroU32::new(n).map(Self)
    }
    pub fn as_u32(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a guest is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestKind {
    /// A component that exports `wasi:http/incoming-handler@0.2.*`.
    HttpComponent,
    /// A component that exports `wasi:http/handler@0.3.*`.
    HttpService,
    /// A core module with `_start` and preview-1 imports, spoken to by CGI (RFC 3875).
    CommandModule,
    /// A component that exports `wasi:cli/run@0.2.*`, spoken to by CGI.
    CommandComponent,
}

impl GuestKind {
    /// The engine settings that guests of this kind are compiled with.
    pub const fn setting(self) -> EngineSetting {
        match self {
            Self::HttpComponent | Self::CommandModule | Self::CommandComponent => EngineSetting::A,
            Self::HttpService => EngineSetting::B,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HttpComponent => "http-component",
            Self::HttpService => "http-service",
            Self::CommandModule => "command-module",
            Self::CommandComponent => "command-component",
        }
    }
}

/// An interface that a guest imports, and whether it is lent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "kebab-case")]
pub enum Import {
    /// Lent to everyone.
    Free { name: String },
    /// Lent as the manifest says.
    Granted { name: String },
    /// Known, and not granted: calls to it fail with its own access-denied error. So is every interface that needs a
    /// grant while no manifest is known.
    Denied { name: String },
}

impl Import {
    pub fn name(&self) -> &str {
        match self {
            Self::Free { name } | Self::Granted { name } | Self::Denied { name } => name,
        }
    }
}

/// An immutable manifest and the artifact it was uploaded with. No code changes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub number: VersionNumber,
    pub manifest: Manifest,
    /// The upload.
    pub wasm: Digest,
    pub wasm_bytes: u64,
    pub kind: GuestKind,
    pub imports: Vec<Import>,
    /// When it was made, in milliseconds since 1970-01-01T00:00:00Z.
    pub created_ms: u64,
    /// The id of the token that made it.
    pub created_by: String,
}
