//! Changes: requests that are finished though their client has gone, and answered once for each `Idempotency-Key`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use model::{Hasher, limits};

use super::problem::{Refused, stopping};
use super::request;
use crate::auth::Caller;
use crate::control::Platform;
use crate::records::replies::{self, Reply};

/// The header that makes a repeated request count once.
const KEY: &str = "idempotency-key";

/// The keys whose first request is not answered yet, each with its token.
#[derive(Clone, Default)]
pub(crate) struct Pending(Arc<Mutex<BTreeSet<(String, String)>>>);

/// One of them; gone when dropped.
struct Claim {
    pending: Pending,
    name: (String, String),
}

impl Pending {
    fn claim(&self, token: &str, key: &str) -> Option<Claim> {
        let name = (token.to_owned(), key.to_owned());
        let inserted = self
            .0
            .lock()
            .expect("nothing panics while the keys are locked")
            .insert(name.clone());
        // Made only if it is one: a claim's end takes the name out, whoever put it in.
        inserted.then(|| Claim {
            pending: self.clone(),
            name,
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Ok(mut pending) = self.pending.0.lock() {
            pending.remove(&self.name);
        }
    }
}

/// A change whose body is small: it is part of what a key stands for.
pub(crate) async fn small(
    State(platform): State<Arc<Platform>>,
    request: Request,
    next: Next,
) -> Response {
    run(platform, request, next, Meaning::Whole).await
}

/// An upload: its path holds the digest of its body.
pub(crate) async fn upload(
    State(platform): State<Arc<Platform>>,
    request: Request,
    next: Next,
) -> Response {
    run(platform, request, next, Meaning::Path).await
}

/// A change whose body is a secret, and sets the same when it is sent again. Nothing is remembered of it: who has the
/// records could find out from a digest what a short secret is.
pub(crate) async fn secret(
    State(platform): State<Arc<Platform>>,
    mut request: Request,
    next: Next,
) -> Response {
    request.headers_mut().remove(KEY);
    run(platform, request, next, Meaning::Path).await
}

/// What a key stands for, besides the method.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Path and body.
    Whole,
    Path,
}

async fn run(platform: Arc<Platform>, request: Request, next: Next, meaning: Meaning) -> Response {
    if platform.changes.is_closed() {
        return stopping().into_response();
    }
    if platform.changes.len() as u64 >= limits::API_CHANGES.default {
        let title = "the platform is busy";
        let detail = format!("{} changes are under way", limits::API_CHANGES.default);
        return Refused::new(503, "overloaded", title, detail).into_response();
    }
    let doing = platform.clone();
    let change = platform
        .changes
        .spawn(async move { once(&doing, request, next, meaning).await });
    match change.await {
        Ok(Ok(response)) => response,
        Ok(Err(refused)) => refused.into_response(),
        Err(error) => Refused::internal(error).into_response(),
    }
}

/// Answers a request, or repeats what was answered to the same one before.
async fn once(
    platform: &Platform,
    request: Request,
    next: Next,
    meaning: Meaning,
) -> Result<Response, Refused> {
    let Some(key) = key_of(request.headers())? else {
        return Ok(next.run(request).await);
    };
    let caller = request.extensions().get::<Caller>();
    let token = caller
        .expect("every change lies behind the gate")
        .token
        .clone();
    let Some(_claim) = platform.pending.claim(&token, &key) else {
        let title = "the first request with this key is not answered yet";
        let detail = "wait for its answer, or ask again in a moment";
        return Err(Refused::new(409, "idempotency-in-progress", title, detail));
    };

    let mut hasher = Hasher::new();
    hasher.update(format!("{} {}\n", request.method(), request.uri()).as_bytes());
    let request = if meaning == Meaning::Whole {
        let (parts, body) = request.into_parts();
        let bytes = request::read(platform, &parts, body).await?;
        hasher.update(&bytes);
        Request::from_parts(parts, Body::from(bytes))
    } else {
        request
    };
    let digest = hasher.finish();

    let (asked, now) = ((token.clone(), key.clone()), platform.now());
    let known = platform
        .records
        .read(move |c| replies::find(c, &asked.0, &asked.1, now))
        .await?;
    if let Some(reply) = known {
        if reply.request != digest {
            let title = "this key stands for another request";
            let detail =
                "an `Idempotency-Key` was used for another method, address or body; take a new one";
            return Err(Refused::new(422, "idempotency-conflict", title, detail));
        }
        return Ok(repeat(reply));
    }
    let response = next.run(request).await;
    remember(platform, token, key, digest, response).await
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    let mut sent = headers.get_all(KEY).iter();
    let Some(first) = sent.next() else {
        return Ok(None);
    };
    let text = first.to_str().unwrap_or("");
    let fits = (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if fits && sent.next().is_none() {
        return Ok(Some(text.to_owned()));
    }
    let title = "the `Idempotency-Key` cannot be read";
    let detail = "send one, of 1 to 255 visible ASCII characters without spaces";
    Err(Refused::new(400, "idempotency-malformed", title, detail))
}

fn repeat(reply: Reply) -> Response {
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(&reply.content_type)
        && !kind.is_empty()
    {
        headers.insert(CONTENT_TYPE, kind);
    }
    let again = HeaderValue::from_static("true");
    headers.insert("idempotency-replayed", again);
    response
}

/// A reply that is not repeated as it is: it holds a secret, which nothing may keep.
#[derive(Clone)]
pub(crate) struct Secret {
    /// What a repetition is answered instead.
    pub instead: model::api::Problem,
}

/// Keeps the reply, unless it is one that another try may turn into a better one.
async fn remember(
    platform: &Platform,
    token: String,
    key: String,
    request: model::Digest,
    response: Response,
) -> Result<Response, Refused> {
    let status = response.status().as_u16();
    if status >= 500 || matches!(status, 401 | 408 | 429) {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(Refused::internal)?.to_bytes();
    let reply = match parts.extensions.get::<Secret>() {
        Some(Secret { instead }) => Reply {
            request,
            status: instead.status,
            content_type: "application/problem+json".into(),
            body: serde_json::to_vec(instead).expect("a problem always has a JSON form"),
        },
        None => {
            let kind = parts.headers.get(CONTENT_TYPE);
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("");
            Reply {
                request,
                status,
                content_type: kind.to_owned(),
                body: body.to_vec(),
            }
        }
    };
    let now = platform.now();
    let kept = platform
        .records
        .write(move |t| replies::add(t, &token, &key, &reply, now))
        .await;
    if let Err(error) = kept {
        // The change is made; a refusal now would make the client try again.
        platform.notice(format!("a reply could not be remembered: {error}"));
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}
