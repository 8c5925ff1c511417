//! The client of the control API: requests with deadlines, safe to repeat, and answers in words.

mod access;
mod answer;
mod upload;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use model::{AppName, TenantName, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use access::Access;
pub use answer::{Lines, NEW_TOKEN};
use upload::{Body, Upload};

use crate::args::Platform;
use crate::failure::{Exit, Failure};

/// The header that makes a repeated mutation count once.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A connection to one platform as one bearer.
pub struct Client {
    http: legacy::Client<HttpConnector, Body>,
    access: Access,
    tenant: TenantName,
}

/// One request, in a form that can be sent again.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    content: Content,
    /// How long the head of the answer may take.
    wait: Duration,
}

enum Content {
    None,
    Json(Bytes),
    Bytes(Bytes),
    Wasm(Upload),
}

impl Client {
    /// The platform that the options and this user's profiles mean.
    pub fn new(options: &Platform) -> Result<Self, Failure> {
        Ok(Self::with(Access::find(options)?, options.tenant.clone()))
    }

    pub fn with(access: Access, tenant: TenantName) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(limits::CLIENT_CONNECT.default.duration()));
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self {
            http,
            access,
            tenant,
        }
    }

    /// Whether the token with this id is the one that lets this client in.
    pub fn is_let_in_by(&self, id: &str) -> bool {
        let shown = self.access.token.strip_prefix("midge_");
        shown.is_some_and(|shown| !id.is_empty() && shown.starts_with(id))
    }

    /// A path below the tenant's.
    pub fn tenant_path(&self, rest: &str) -> String {
        format!("/v1/tenants/{}{rest}", self.tenant)
    }

    /// A path below the app's.
    pub fn app_path(&self, app: &AppName, rest: &str) -> String {
        self.tenant_path(&format!("/apps/{app}{rest}"))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = self.ask(Method::GET, path, Content::None).await?;
        self.document(answer).await
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.post_waiting(path, body, Duration::ZERO).await
    }

    /// As [`Self::post`], where the platform may take `longer` over the answer.
    pub async fn post_waiting<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        longer: Duration,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).expect("every request has a JSON form");
        let ask = Ask {
            method: Method::POST,
            path,
            content: Content::Json(body.into()),
            wait: limits::CLIENT_WAIT.default.duration() + longer,
        };
        let answer = self.send(ask).await?;
        self.document(answer).await
    }

    /// Puts a document in the place of what lies at `path`, or where nothing does.
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).expect("every request has a JSON form");
        let content = Content::Json(body.into());
        let answer = self.ask(Method::PUT, path, content).await?;
        self.document(answer).await
    }

    /// Changes what lies at `path` where the document says something.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).expect("every request has a JSON form");
        let content = Content::Json(body.into());
        let answer = self.ask(Method::PATCH, path, content).await?;
        self.document(answer).await
    }

    /// What lies at `path`, as it is.
    pub async fn bytes(&self, path: &str) -> Result<Bytes, Failure> {
        let answer = self.ask(Method::GET, path, Content::None).await?;
        self.body(answer).await
    }

    /// Puts bytes in the place of what lies at `path`, or where nothing does.
    pub async fn put_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        bytes: Bytes,
    ) -> Result<T, Failure> {
        let answer = self.ask(Method::PUT, path, Content::Bytes(bytes)).await?;
        self.document(answer).await
    }

    /// Ends what lies at `path`, which may take `longer` where nodes have to hear of it.
    pub async fn delete(&self, path: &str, longer: Duration) -> Result<(), Failure> {
        let ask = Ask {
            method: Method::DELETE,
            path,
            content: Content::None,
            wait: limits::CLIENT_WAIT.default.duration() + longer,
        };
        let answer = self.send(ask).await?;
        self.body(answer).await.map(drop)
    }

    /// Ends what lies at `path`, and hears what became of it.
    pub async fn delete_told<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = self.ask(Method::DELETE, path, Content::None).await?;
        self.document(answer).await
    }

    /// Puts bytes under `path`, saying on the way how many have left.
    pub async fn upload(
        &self,
        path: &str,
        bytes: Bytes,
        on_sent: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        // The answer comes after the last byte: what a slow line needs is not the platform's delay.
        let slowest = Duration::from_millis(bytes.len() as u64 / SLOWEST_BYTES_A_MS);
        let ask = Ask {
            method: Method::PUT,
            path,
            content: Content::Wasm(Upload::new(bytes, on_sent)),
            wait: limits::CLIENT_WAIT.default.duration() + slowest,
        };
        let answer = self.send(ask).await?;
        self.body(answer).await.map(drop)
    }

    /// The lines of an answer that may never end.
    pub async fn lines(&self, path: &str) -> Result<Lines, Failure> {
        let answer = self.ask(Method::GET, path, Content::None).await?;
        Ok(Lines::new(answer.into_body()))
    }

    /// An answer that is too large to hold, piece by piece.
    pub async fn download(&self, path: &str) -> Result<Pieces<'_>, Failure> {
        let answer = self.ask(Method::POST, path, Content::None).await?;
        Ok(Pieces {
            client: self,
            body: answer.into_body(),
        })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        content: Content,
    ) -> Result<Response<Incoming>, Failure> {
        let wait = limits::CLIENT_WAIT.default.duration();
        let ask = Ask {
            method,
            path,
            content,
            wait,
        };
        self.send(ask).await
    }

    /// Sends until there is an answer or no more hope. Repeating is safe: what changes something carries a key that
    /// makes it count once.
    async fn send(&self, ask: Ask<'_>) -> Result<Response<Incoming>, Failure> {
        let key = idempotency_key();
        let mut tries = 0;
        loop {
            tries += 1;
            let request = self.request(&ask, &key)?;
            match tokio::time::timeout(ask.wait, self.http.request(request)).await {
                Ok(Ok(answer)) if answer.status().is_success() => return Ok(answer),
                Ok(Ok(answer)) => return Err(self.refusal(answer).await),
                Ok(Err(error)) if tries >= limits::CLIENT_TRIES.default => {
                    return Err(self.unreachable(&error));
                }
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100 * tries)).await,
                Err(_) => return Err(self.late(ask.wait)),
            }
        }
    }

    fn request(&self, ask: &Ask<'_>, key: &str) -> Result<Request<Body>, Failure> {
        let uri = format!("{}{}", self.access.api, ask.path);
        let uri: Uri = uri
            .parse()
            .map_err(|_| Failure::usage(format!("`{uri}` is not an address")))?;
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(uri)
            .header(header::ACCEPT, "application/json, application/problem+json")
            .header(
                header::USER_AGENT,
                concat!("midge/", env!("CARGO_PKG_VERSION")),
            )
            .header(
                header::AUTHORIZATION,
                format!("Bearer {}", self.access.token),
            );
        if ask.method != Method::GET {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        let (kind, body) = match &ask.content {
            Content::None => (None, Body::Whole(Full::default())),
            Content::Json(json) => (
                Some("application/json"),
                Body::Whole(Full::new(json.clone())),
            ),
            Content::Bytes(bytes) => (
                Some("application/octet-stream"),
                Body::Whole(Full::new(bytes.clone())),
            ),
            Content::Wasm(upload) => (Some("application/wasm"), Body::Pieces(upload.again())),
        };
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        Ok(request
            .body(body)
            .expect("a checked token and constant headers make a request"))
    }

    async fn document<T: DeserializeOwned>(
        &self,
        answer: Response<Incoming>,
    ) -> Result<T, Failure> {
        let body = self.body(answer).await?;
        serde_json::from_slice(&body).map_err(|error| self.stranger(&error.to_string()))
    }

    async fn body(&self, answer: Response<Incoming>) -> Result<Bytes, Failure> {
        let limit = limits::CLIENT_REPLY.default.as_usize();
        let wait = limits::CLIENT_WAIT.default.duration();
        let collect = Limited::new(answer.into_body(), limit).collect();
        match tokio::time::timeout(wait, collect).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(self.unreachable(&*error)),
            Err(_) => Err(self.late(wait)),
        }
    }

    async fn refusal(&self, answer: Response<Incoming>) -> Failure {
        let status = answer.status();
        match self.body(answer).await {
            Ok(body) => match serde_json::from_slice(&body) {
                Ok(problem) => answer::refusal(&problem),
                Err(_) => self.stranger(&format!("it refuses with {status} and says nothing more")),
            },
            Err(failure) => failure,
        }
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> Failure {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text = inner.to_string();
            cause = inner.source();
        }
        Failure::new(
            Exit::Unreachable,
            format!(
                "the platform at `{}` cannot be reached: {text}",
                self.access.api
            ),
        )
        .hint("start it with `midge up`, or name another with `--api URL`")
    }

    fn late(&self, wait: Duration) -> Failure {
        let (api, wait) = (&self.access.api, wait.as_secs());
        Failure::new(
            Exit::Unreachable,
            format!("the platform at `{api}` did not answer within {wait} s"),
        )
        .hint("`midge status` says how it is")
    }

    fn stranger(&self, what: &str) -> Failure {
        Failure::new(
            Exit::Unreachable,
            format!(
                "`{}` does not answer as Midge's control API does: {what}",
                self.access.api
            ),
        )
        .hint("check `--api`; apps answer at another address than the API")
    }
}

/// An answer on its way; whole only if it ends well.
pub struct Pieces<'a> {
    client: &'a Client,
    body: Incoming,
}

impl Pieces<'_> {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let wait = limits::CLIENT_WAIT.default.duration();
        loop {
            match tokio::time::timeout(wait, self.body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => {}
                },
                Ok(Some(Err(error))) => return Err(self.client.unreachable(&error)),
                Ok(None) => return Ok(None),
                Err(_) => return Err(self.client.late(wait)),
            }
        }
    }
}

/// An upload over a line slower than this (100 KB a second) is given up.
const SLOWEST_BYTES_A_MS: u64 = 100;

fn idempotency_key() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
