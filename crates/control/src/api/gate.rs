//! The gate before every handler: who asks, and whether the request may be read at all.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use model::limits;

use super::problem::{Inner, Refused};
use super::request::check_length;
use crate::auth::{Caller, TokenText};
use crate::control::{Peer, Platform};
use crate::tokens::{self, AuthError};

/// Lets known callers through. Nothing of the body is read before.
pub(crate) async fn known(
    State(platform): State<Arc<Platform>>,
    mut request: Request,
    next: Next,
) -> Response {
    match caller(&platform, &request).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    }
}

/// Tells the operator what a reply leaves out.
pub(crate) async fn tell(
    State(platform): State<Arc<Platform>>,
    request: Request,
    next: Next,
) -> Response {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let mut response = next.run(request).await;
    if let Some(Inner(why)) = response.extensions_mut().remove::<Inner>() {
        platform.notice(format!("`{asked}` failed: {why}"));
    }
    response
}

/// Refuses bodies larger than any request but an upload may have.
pub(crate) async fn small_body(request: Request, next: Next) -> Response {
    match check_length(request.headers(), limits::API_BODY.default) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// The caller that a request's token names. The future holds nothing of the request, whose body is not `Sync`.
pub(crate) fn caller<'a>(
    platform: &'a Platform,
    request: &Request,
) -> impl Future<Output = Result<Caller, Refused>> + Send + use<'a> {
    let credentials = credentials(request);
    async move {
        let (token, address) = credentials?;
        Ok(tokens::authenticate(platform, &token, address).await?)
    }
}

fn credentials(request: &Request) -> Result<(String, IpAddr), Refused> {
    check_query(request.uri().query().unwrap_or(""))?;
    let address = request
        .extensions()
        .get::<Peer>()
        .map(|peer| peer.0.ip())
        .ok_or_else(|| Refused::internal("a request came without its client's address"))?;
    Ok((bearer(request.headers())?.to_owned(), address))
}

/// A token in an address ends in histories and logs.
fn check_query(query: &str) -> Result<(), Refused> {
    if TokenText::is_in(query) || query.split('&').any(|part| part.contains("token=")) {
        let detail = "a token does not belong in an address, which is logged; send `Authorization: Bearer TOKEN`, and revoke the one you sent";
        let title = "the address holds a token";
        return Err(Refused::new(400, "token-in-query", title, detail));
    }
    Ok(())
}

fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let first = sent.next().ok_or(AuthError::Missing)?;
    if sent.next().is_some() {
        return Err(AuthError::Twice);
    }
    let text = first.to_str().map_err(|_| AuthError::Malformed)?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(AuthError::Missing),
    }
}
