//! The bodies of the control API, version 1 (`/v1`). CLI, dashboard and scripts have no other door.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    AppName, CertificateName, DeploymentCause, Digest, Generation, Host, KvRevision,
    LimitsRevision, Manifest, Millis, NewLimit, Revision, SecretName, SecretsRevision, Size,
    StoreName, TenantName, VersionNumber,
};

/// An error, as `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:midge:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// A stable word, such as `version-not-found`.
    pub code: String,
    /// What happened, in one line.
    pub title: String,
    pub status: u16,
    /// What, why and what to do.
    pub detail: String,
}

impl Problem {
    pub fn new(status: u16, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:midge:problem:{code}"),
            code: code.into(),
            title: title.into(),
            status,
            detail: detail.into(),
        }
    }
}

/// `POST /v1/tenants`; answered with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    pub name: TenantName,
}

/// `PATCH /v1/tenants/{tenant}/limits`; answered with a [`TenantLimitsChanged`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTenantLimits {
    #[serde(default, skip_serializing_if = "NewLimit::is_keep")]
    pub apps: NewLimit<u64>,
    #[serde(default, skip_serializing_if = "NewLimit::is_keep")]
    pub slots: NewLimit<u64>,
    #[serde(default, skip_serializing_if = "NewLimit::is_keep")]
    pub kv_store: NewLimit<Size>,
}

/// `GET /v1/tenants/{tenant}/limits`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantLimitsSummary {
    /// Apps of the tenant.
    pub apps: LimitSummary<u64>,
    /// Instances of the tenant that are live at once in one worker.
    pub slots: LimitSummary<u64>,
    /// Bytes of keys and values of each of its key-value stores.
    pub kv_store: LimitSummary<Size>,
}

/// A limit of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSummary<T> {
    /// What holds.
    pub value: T,
    /// Whether it is the tenant's own; else it is the platform's.
    pub own: bool,
    /// What holds for those who have none of their own.
    pub default: T,
    /// The most that a tenant may be given.
    pub ceiling: T,
    /// What is in use; left out where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<T>,
}

/// Limits of a tenant that were changed, and how far that has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantLimitsChanged {
    pub limits: TenantLimitsSummary,
    pub live: Live,
}

/// `POST /v1/tenants/{tenant}/artifacts/missing`: which of these must be uploaded?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    pub digests: Vec<Digest>,
}

/// `POST /v1/tenants/{tenant}/apps/{app}/versions`; answered with a [`crate::Version`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVersion {
    pub manifest: Manifest,
    /// The uploaded artifact.
    pub wasm: Digest,
    /// Refuse what needs a grant that it does not have, instead of linking a denier.
    #[serde(default)]
    pub strict: bool,
}

/// `POST /v1/tenants/{tenant}/apps/{app}/deployments`; answered with a [`Deployed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDeployment {
    /// None: the version that was served before the present one.
    #[serde(default)]
    pub version: Option<VersionNumber>,
    pub cause: DeploymentCause,
    /// Move the pointer only if this revision is the present one (0: if the app was never deployed).
    #[serde(default)]
    pub expect: Option<Revision>,
    /// How long to wait for every node to say it is live; at most [`crate::limits::API_WAIT`], which is also the default.
    #[serde(default)]
    pub wait: Option<Millis>,
}

/// A deployment that was made, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    pub deployment: crate::Deployment,
    pub live: Live,
    /// Where the app answers.
    pub urls: Vec<String>,
    /// Secrets that the version is granted and that are not set: guests find them undefined.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets_missing: Vec<SecretName>,
}

/// How many nodes serve a generation, or have a change of a secret or of a tenant's limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Nodes on which no request sent from now on meets an older version, or an older value.
    pub nodes: u32,
    pub of: u32,
    /// From the request for it to the last of those nodes' word.
    pub elapsed_ms: u64,
    /// What nodes said that refused the generation or cannot serve it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<String>,
}

/// An app in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSummary {
    pub tenant: TenantName,
    pub app: AppName,
    pub urls: Vec<String>,
    /// The version served now; none if the app was never deployed.
    pub version: Option<VersionNumber>,
    pub revision: Revision,
    pub deployed_ms: Option<u64>,
    pub latest: VersionNumber,
}

/// What a token lets its bearer do; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// See apps, versions, deployments and logs.
    Read,
    /// Upload, make versions, deploy, roll back, set certificates and secrets.
    Deploy,
    /// Delete apps, certificates and secrets; create, list and revoke tokens within the same scope.
    Admin,
}

/// What a token reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// None: every tenant, and the platform itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// None: every app of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    pub verb: Verb,
}

/// `POST /v1/tokens`; answered with a [`CreatedToken`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for, in its maker's words; at most 200 characters.
    #[serde(default)]
    pub label: String,
    pub scope: Scope,
    /// None: it does not expire.
    #[serde(default)]
    pub expires_in: Option<Millis>,
}

/// A token as lists show it: never with its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSummary {
    pub id: String,
    pub label: String,
    pub scope: Scope,
    pub created_ms: u64,
    pub expires_ms: Option<u64>,
    pub last_used_ms: Option<u64>,
}

/// A new token: the one time its text is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedToken {
    pub token: String,
    pub summary: TokenSummary,
}

/// `PUT /v1/tenants/{tenant}/certificates/{name}`; answered with a [`CertificateSummary`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCertificate {
    /// The certificate, then those of its issuers, as PEM.
    pub chain: String,
    /// Its private key, as PEM.
    pub key: String,
}

/// Never the key.
impl fmt::Debug for NewCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCertificate")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

/// A certificate as lists show it: never with its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSummary {
    pub name: CertificateName,
    /// The hosts that it names, in lower case; the first label may be `*`.
    pub hosts: Vec<String>,
    /// Those that it is shown for now: hosts of the tenant's apps that no other certificate of the tenant names better.
    pub shown_for: Vec<Host>,
    pub not_before_ms: u64,
    pub not_after_ms: u64,
    /// The SHA-256 of the certificate itself.
    pub fingerprint: Digest,
    pub created_ms: u64,
}

/// A secret as lists show it: never with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSummary {
    pub name: SecretName,
    /// The change that set it; a newer one has a larger number.
    pub revision: SecretsRevision,
    pub set_ms: u64,
    /// The tenant's apps that are served and granted it.
    pub granted: Vec<AppName>,
}

/// A secret that was set or deleted, and how far that has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretChanged {
    pub secret: SecretSummary,
    pub live: Live,
}

/// `GET /v1/status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Midge's own version.
    pub version: String,
    pub generation: Generation,
    pub domain: Host,
    pub apps: u64,
    pub nodes: Vec<NodeStatus>,
}

/// What a node last said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    /// The generation every one of its workers serves.
    pub generation: Generation,
    /// The change of secrets that every one of its workers has; 0 from releases that knew of none.
    #[serde(default)]
    pub secrets: SecretsRevision,
    /// The change of tenants' limits that every one of its workers has; 0 from releases that knew of none.
    #[serde(default)]
    pub limits: LimitsRevision,
    pub workers: u32,
    pub worker_restarts: u64,
    pub listen: String,
}

/// `GET /v1/usage`: what apps did and used, of those that the caller reaches and that were asked for at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformUsage {
    pub at_ms: u64,
    /// The upper bounds of the buckets of [`AppUsage::latency`].
    pub latency_bounds_us: Vec<u64>,
    pub apps: Vec<AppUsage>,
}

/// What one app did and used since the node's process began. Counts only grow, unless another process takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppUsage {
    pub tenant: TenantName,
    pub app: AppName,
    pub requests: u64,
    /// Those of them that failed by the app's own fault, and by the platform's.
    pub app_errors: u64,
    pub platform_errors: u64,
    pub cpu_us: u64,
    /// The most linear memory that one of its invocations held.
    pub memory_peak_bytes: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// How many requests took how long, from the head to the end of the reply: one number for each bound and one for what
    /// is beyond the last; zeros at the end are left out.
    pub latency: Vec<u64>,
    pub latency_sum_us: u64,
    /// The longest that one request took.
    pub latency_max_us: u64,
}

/// A key-value store of an app, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvStoreSummary {
    pub store: StoreName,
    pub keys: u64,
    /// Of keys and values.
    pub bytes: u64,
}

/// A key of a store that was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvItem {
    pub key: String,
    /// Of its value.
    pub bytes: u64,
    /// The change that wrote it.
    pub revision: KvRevision,
    /// When it ends, in milliseconds since 1970-01-01T00:00:00Z; left out if it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}
