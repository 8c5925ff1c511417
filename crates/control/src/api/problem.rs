//! Refusals: every error of the API as `application/problem+json`, with its stable code and its status.

use std::fmt::Display;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use distribution::DistributionError;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use model::api::Problem;
use rustix::io::Errno;

use crate::auth::NotAllowed;
use crate::backup::BackupError;
use crate::certificate::Unusable;
use crate::certificates::CertificateError;
use crate::compile::CompileError;
use crate::deploy::DeployError;
use crate::natives::NativeError;
use crate::records::RecordsError;
use crate::rollout::RolloutError;
use crate::routes::RouteRefusal;
use crate::tenants::TenantError;
use crate::tokens::{AuthError, TokenError};
use crate::turns::TurnError;
use crate::versions::VersionError;

/// A request that is not answered as asked.
#[derive(Debug)]
pub(crate) struct Refused {
    problem: Box<Problem>,
    retry_after: Option<u64>,
    /// What only the operator may know of it.
    inner: Option<String>,
}

/// What the operator should know of a reply, beside it.
#[derive(Clone)]
pub(crate) struct Inner(pub String);

impl Refused {
    pub fn new(status: u16, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            problem: Box::new(Problem::new(status, code, title, detail)),
            retry_after: None,
            inner: None,
        }
    }

    /// The platform failed. The caller learns that, and the operator why.
    pub fn internal(why: impl ToString) -> Self {
        let detail = "the platform failed, and its operator was told why; try again later";
        Self {
            inner: Some(why.to_string()),
            ..Self::new(500, "internal", "the platform failed", detail)
        }
    }

    /// What of a body that could not be read may be told where the body holds a secret.
    pub fn without_the_body(mut self) -> Self {
        if self.problem.code == "body-unfit" {
            self.problem.detail = "a field is missing, unknown or of another type; `/v1/openapi.json` says which there are (what was sent holds a secret and is not repeated)".into();
        }
        self
    }

    fn disk_full() -> Self {
        let detail = "the platform's disk is full; nothing was changed: its operator has to make room, then try again";
        Self::new(507, "disk-full", "the disk is full", detail)
    }

    /// `error` as whoever asked may read it, `why` as the operator does.
    fn disk_failed(error: impl Display, why: impl ToString) -> Self {
        let detail = format!(
            "the platform cannot use its disk ({error}); nothing was changed: its operator was told more and has to see to the disk, then try again"
        );
        Self {
            inner: Some(why.to_string()),
            ..Self::new(500, "disk-failed", "the disk failed", detail)
        }
    }

    fn retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let text = serde_json::to_vec(&self.problem).expect("a problem always has a JSON form");
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = StatusCode::from_u16(self.problem.status)
            .expect("problems are made with statuses written here");
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, kind);
        if self.problem.status == 401 {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(inner) = self.inner {
            response.extensions_mut().insert(Inner(inner));
        }
        response
    }
}

/// Whether an error of the file system means that there is no room.
pub(crate) fn is_disk_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Whether an error of the file system means that the disk, or who may use it, is to be seen to.
fn is_disk_failed(error: &std::io::Error) -> bool {
    let failed = [
        Errno::IO,
        Errno::ROFS,
        Errno::ACCESS,
        Errno::PERM,
        Errno::UCLEAN,
        Errno::STALE,
    ];
    Errno::from_io_error(error).is_some_and(|errno| failed.contains(&errno))
}

/// What an error of the file system means; `why` is what the operator reads of it.
fn of_disk(error: &std::io::Error, why: impl ToString) -> Refused {
    if is_disk_full(error) {
        Refused::disk_full()
    } else if is_disk_failed(error) {
        Refused::disk_failed(error, why)
    } else {
        Refused::internal(why)
    }
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        of_disk(&error, &error)
    }
}

impl From<RecordsError> for Refused {
    fn from(error: RecordsError) -> Self {
        match error {
            RecordsError::DiskFull => Self::disk_full(),
            RecordsError::Busy(_) => {
                let title = "the platform is busy";
                Self::new(503, "records-busy", title, error.to_string()).retry_after(1)
            }
            RecordsError::Closed => stopping(),
            RecordsError::DiskFailed(ref sqlite)
            | RecordsError::Unopened {
                error: ref sqlite, ..
            } => Self::disk_failed(sqlite, &error),
            RecordsError::Unsynced(ref sqlite) => {
                let detail = format!(
                    "the platform's disk failed before this had reached it ({sqlite}); whether it was made is known once the platform's operator, who was told more, has seen to the disk and started it again: look then, and try again"
                );
                Self {
                    inner: Some(error.to_string()),
                    ..Self::new(500, "disk-failed", "the disk failed", detail)
                }
            }
            RecordsError::Stopped { .. } => {
                let title = "the records take no more";
                let detail = "the platform's disk failed, and nothing can be asked or changed before its operator, who was told more, has seen to the disk and started the platform again; apps are served on";
                Self::new(503, "records-stopped", title, detail)
            }
            other => Self::internal(other),
        }
    }
}

impl From<DistributionError> for Refused {
    fn from(error: DistributionError) -> Self {
        match error {
            DistributionError::Io {
                error: ref cause, ..
            } => of_disk(cause, &error),
            DistributionError::NoArtifact(_) => {
                let title = "an artifact is not kept";
                let detail = format!("{error}; upload it again");
                Self::new(422, "artifact-missing", title, detail)
            }
            DistributionError::Closed => stopping(),
            other => Self::internal(other),
        }
    }
}

impl From<AuthError> for Refused {
    fn from(error: AuthError) -> Self {
        let (status, code) = match &error {
            AuthError::Missing => (401, "token-missing"),
            AuthError::Twice => (400, "token-twice"),
            AuthError::Malformed => (401, "token-malformed"),
            AuthError::Unknown => (401, "token-unknown"),
            AuthError::Expired => (401, "token-expired"),
            AuthError::Revoked => (401, "token-revoked"),
            AuthError::TooMany(_) => (429, "token-failures"),
            AuthError::Records(_) => {
                return match error {
                    AuthError::Records(error) => error.into(),
                    other => Self::internal(other),
                };
            }
        };
        let refused = Self::new(status, code, "the caller is not known", error.to_string());
        match error {
            AuthError::TooMany(seconds) => refused.retry_after(seconds),
            _ => refused,
        }
    }
}

impl From<NotAllowed> for Refused {
    fn from(error: NotAllowed) -> Self {
        Self::new(
            403,
            "scope",
            "the token does not reach this",
            error.to_string(),
        )
    }
}

impl From<TokenError> for Refused {
    fn from(error: TokenError) -> Self {
        let (status, code) = match error {
            TokenError::Records(error) => return error.into(),
            TokenError::Ended(error) => return error.into(),
            TokenError::File(error) => return error.into(),
            TokenError::Random(error) => return Self::internal(error),
            TokenError::BeyondScope => (403, "scope"),
            TokenError::AppWithoutTenant => (422, "scope-malformed"),
            TokenError::LabelTooLong(_) => (422, "label-too-long"),
            TokenError::TooMany(_) => (409, "too-many-tokens"),
            TokenError::NoTenant(_) => (404, "tenant-not-found"),
            TokenError::NoToken(_) => (404, "token-not-found"),
            TokenError::ExpiresAtOnce => (422, "expiry-zero"),
        };
        Self::new(
            status,
            code,
            "the token cannot be made or ended",
            error.to_string(),
        )
    }
}

impl From<TenantError> for Refused {
    fn from(error: TenantError) -> Self {
        let (status, code) = match error {
            TenantError::Records(error) => return error.into(),
            TenantError::Exists(_) => (409, "tenant-exists"),
            TenantError::TooMany(_) => (409, "too-many-tenants"),
            TenantError::First => (409, "tenant-first"),
            TenantError::Deploy(error) => return error.into(),
        };
        let title = "the tenant was not made or deleted";
        Self::new(status, code, title, error.to_string())
    }
}

impl From<CertificateError> for Refused {
    fn from(error: CertificateError) -> Self {
        let text = error.to_string();
        let (status, code) = match error {
            CertificateError::Records(error) => return error.into(),
            CertificateError::Random(_) | CertificateError::Interrupted => {
                return Self::internal(text);
            }
            CertificateError::Unusable(Unusable::TooLarge { .. }) => (413, "certificate-too-large"),
            CertificateError::Unusable(Unusable::Expired { .. } | Unusable::Early { .. }) => {
                (422, "certificate-out-of-time")
            }
            CertificateError::Unusable(_) => (422, "certificate-unusable"),
            CertificateError::TooManyHosts { .. } | CertificateError::NoHost(_) => {
                (422, "certificate-hosts")
            }
            CertificateError::Reserved { .. } | CertificateError::Internal(_) => {
                (422, "certificate-host-reserved")
            }
            CertificateError::TakenByOther(_) => (409, "certificate-host-taken"),
            CertificateError::TooMany(_) | CertificateError::TooManyInAll(_) => {
                (409, "too-many-certificates")
            }
            CertificateError::NoTenant(_) => (404, "tenant-not-found"),
            CertificateError::NoCertificate { .. } => (404, "certificate-not-found"),
        };
        let title = title_of(status, "the certificate was not taken");
        Self::new(status, code, title, text)
    }
}

impl From<RouteRefusal> for Refused {
    fn from(error: RouteRefusal) -> Self {
        let (status, code) = match error {
            RouteRefusal::Reserved { .. } | RouteRefusal::Internal(_) => (422, "route-reserved"),
            RouteRefusal::TooLong(_) => (422, "route-too-long"),
            RouteRefusal::Twice(_) => (422, "route-twice"),
            RouteRefusal::TakenByOwn { .. } | RouteRefusal::TakenByOther(_) => (409, "route-taken"),
        };
        Self::new(
            status,
            code,
            "the app may not have this route",
            error.to_string(),
        )
    }
}

impl From<CompileError> for Refused {
    fn from(error: CompileError) -> Self {
        let text = error.to_string();
        let (status, code) = match error {
            CompileError::Refused { code, text } => {
                return Self::new(422, &code, "the upload cannot be served", text);
            }
            CompileError::Io { error, .. } => return of_disk(&error, text),
            CompileError::CpuLimit(_) => (422, "compile-cpu-limit"),
            CompileError::MemoryLimit(_) => (422, "compile-memory-limit"),
            CompileError::OutputLimit(_) => (422, "compile-output-limit"),
            CompileError::TimeLimit(_) => (503, "compile-time-limit"),
            CompileError::Failed { how, .. } => {
                let detail =
                    format!("the compiler failed on it ({how}); the operator was told more");
                return Self {
                    inner: Some(text),
                    ..Self::new(
                        422,
                        "compile-failed",
                        "the upload cannot be compiled",
                        detail,
                    )
                };
            }
        };
        Self::new(status, code, "the upload cannot be compiled", text)
    }
}

impl From<NativeError> for Refused {
    fn from(error: NativeError) -> Self {
        let text = error.to_string();
        let title = "there is no native code";
        match error {
            NativeError::Compile(error) => error.into(),
            NativeError::Distribution(error) => error.into(),
            NativeError::Records(error) => error.into(),
            NativeError::Turn(TurnError::QueueFull { .. }) => {
                Self::new(503, "compile-queue-full", title, text).retry_after(5)
            }
            NativeError::Turn(TurnError::WaitedTooLong(_)) => {
                Self::new(503, "compile-wait", title, text).retry_after(60)
            }
            NativeError::DamagedUpload(_) => Self::new(422, "artifact-damaged", title, text),
        }
    }
}

impl From<VersionError> for Refused {
    fn from(error: VersionError) -> Self {
        let (status, code) = match error {
            VersionError::Route(error) => return error.into(),
            VersionError::Native(error) => return error.into(),
            VersionError::Records(error) => return error.into(),
            VersionError::Ended(error) => return error.into(),
            VersionError::NoTenant(_) => (404, "tenant-not-found"),
            VersionError::OtherName { .. } => (422, "name-mismatch"),
            VersionError::Manifest(_) => (422, "manifest-refused"),
            VersionError::NoReuse => (422, "reuse-refused"),
            VersionError::NoArtifact(_) => (422, "artifact-missing"),
            VersionError::TooManyApps(_) => (409, "too-many-apps"),
            VersionError::TooManyOfTenant { .. } => (409, "too-many-apps-of-tenant"),
            VersionError::NotGranted(_) => (422, "import-not-granted"),
        };
        let title = title_of(status, "the version was not made");
        Self::new(status, code, title, error.to_string())
    }
}

impl From<DeployError> for Refused {
    fn from(error: DeployError) -> Self {
        let text = error.to_string();
        let (status, code) = match error {
            DeployError::Route(error) => return error.into(),
            DeployError::Records(error) => return error.into(),
            DeployError::Ended(error) => return error.into(),
            DeployError::Stopping => return stopping(),
            DeployError::QueueFull(_) => {
                let title = "the platform is busy";
                return Self::new(503, "deploy-queue-full", title, text).retry_after(1);
            }
            DeployError::NoTenant(_) => (404, "tenant-not-found"),
            DeployError::HasApps { .. } => (409, "tenant-has-apps"),
            DeployError::NoApp(_) => (404, "app-not-found"),
            DeployError::NoVersion { .. } => (404, "version-not-found"),
            DeployError::NothingBefore(_) => (409, "no-earlier-version"),
            DeployError::Moved { .. } => (409, "deployment-conflict"),
        };
        Self::new(status, code, title_of(status, "nothing was deployed"), text)
    }
}

impl From<RolloutError> for Refused {
    fn from(error: RolloutError) -> Self {
        match error {
            RolloutError::Deploy(error) => error.into(),
            RolloutError::Native(error) => error.into(),
        }
    }
}

impl From<BackupError> for Refused {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Io { error, .. } if is_disk_full(&error) => Self::disk_full(),
            BackupError::Records(error) => error.into(),
            BackupError::Stores(error) => error.into(),
            other => {
                let title = "there is no backup";
                Self::new(500, "backup-failed", title, other.to_string())
            }
        }
    }
}

/// What is not there is that, whatever was to be done with it.
fn title_of(status: u16, otherwise: &'static str) -> &'static str {
    if status == 404 {
        "there is no such thing"
    } else {
        otherwise
    }
}

/// The platform is about to end.
pub(crate) fn stopping() -> Refused {
    let detail = "the platform is stopping; try again when it is back";
    Refused::new(503, "stopping", "the platform is stopping", detail).retry_after(5)
}
