//! The words of Midge: every type that crosses a wire, a pipe or a disk, and every limit.
//!
//! | word | type |
//! |---|---|
//! | Tenant, App | [`TenantName`], [`AppName`], [`AppId`] |
//! | Version | [`Version`], [`VersionNumber`], [`Manifest`] |
//! | Deployment | [`Deployment`], [`Revision`] |
//! | Catalog | [`Catalog`], [`Delta`], [`Generation`] |
//! | Route, Grant | [`Route`], [`Grants`], [`HttpGrant`] |
//! | Artifact | [`Digest`], [`ArtifactKey`] |
//! | Invocation | [`Outcome`], [`Usage`], [`Fault`] |
//! | Limit | [`limits`], [`OwnLimits`] |
//!
//! Nothing here reads a file, a socket or a clock, and nothing here knows what runs a guest.

pub mod api;
mod artifact;
mod backup;
mod catalog;
mod deployment;
mod destination;
mod grant;
mod http_grant;
mod kv;
pub mod limits;
mod log;
mod log_filter;
mod manifest;
mod name;
mod outcome;
pub mod pipe;
mod reply;
mod reuse;
mod route;
mod secret;
mod signature;
mod tenant_limits;
pub mod ticket;
pub mod trace;
mod unit;
pub mod upgrade;
mod version;

pub use artifact::{
    ArtifactKey, ArtifactKeyError, BuildKey, CpuClass, Digest, DigestError, EngineSetting, Hasher,
    NativeHeader,
};
pub use backup::{BackupFile, BackupManifest};
pub use catalog::{
    Catalog, CatalogError, CatalogHead, Change, Delta, Entry, Generation, Incarnations,
};
pub use deployment::{Deployment, DeploymentCause, Revision};
pub use destination::{Destination, DestinationError, DestinationHost, HttpScheme};
pub use grant::{Granted, Grants};
pub use http_grant::{HttpGrant, HttpGrantError};
pub use kv::{Expect, Item, KeyPage, KvChange, KvDone, KvError, KvRevision, StoreId, StoreUsage};
pub use limits::AppLimits;
pub use log::{LogRecord, LogStream, RequestRecord};
pub use log_filter::{Since, SinceError, Statuses, StatusesError};
pub use manifest::{Manifest, ManifestError, RouteClaim};
pub use name::{
    AppId, AppName, CertificateName, Incarnation, MAX_NAME_BYTES, NameError, Owner, SecretName,
    StoreName, TenantName,
};
pub use outcome::{Fault, Outcome, Usage};
pub use reply::{Coding, Replies};
pub use reuse::Reuse;
pub use route::{Host, PathPrefix, Route, RouteError};
pub use secret::{Secret, SecretError, SecretId, SecretText, Secrets, SecretsRevision};
pub use signature::{PublicKey, Purpose, SecretKey, SignatureError, Signed};
pub use tenant_limits::{LimitsRevision, NewLimit, OwnLimits, TenantLimits};
pub use unit::{Millis, Size, UnitError};
pub use version::{GuestKind, Import, Version, VersionNumber};
