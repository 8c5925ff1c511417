//! Tokens over the API: made within the caller's scope, shown once, listed without secrets, ended at once.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CACHE_CONTROL;
use model::api::{NewToken, Problem, TokenSummary, Verb};

use super::change::Secret;
use super::problem::Refused;
use super::request::{Json, Place};
use crate::auth::{Caller, Reach};
use crate::control::Platform;
use crate::{auth, tokens};

type Control = State<Arc<Platform>>;

/// `GET /v1/tokens`
pub(super) async fn list(
    State(platform): Control,
    caller: Caller,
) -> Result<axum::Json<Vec<TokenSummary>>, Refused> {
    check(&caller)?;
    Ok(axum::Json(tokens::list(&platform, &caller).await?))
}

/// `POST /v1/tokens`
pub(super) async fn create(
    State(platform): Control,
    caller: Caller,
    Json(new): Json<NewToken>,
) -> Result<Response, Refused> {
    check(&caller)?;
    let created = tokens::create(&platform, &caller, new).await?;
    let id = &created.summary.id;
    let instead = Problem::new(
        409,
        "token-shown-before",
        "this request made a token already",
        format!(
            "its text is shown once and kept nowhere; if it was lost, revoke `{id}` and ask with a new key"
        ),
    );
    let no_store = [(CACHE_CONTROL, "no-store")];
    let mut response = (StatusCode::CREATED, no_store, axum::Json(created)).into_response();
    response.extensions_mut().insert(Secret { instead });
    Ok(response)
}

/// `DELETE /v1/tokens/{id}`
pub(super) async fn revoke(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<StatusCode, Refused> {
    check(&caller)?;
    let id: String = place.part("id")?;
    tokens::revoke(&platform, &caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tokens are for who may do everything within a scope, however small.
fn check(caller: &Caller) -> Result<(), auth::NotAllowed> {
    match (&caller.scope.tenant, &caller.scope.app) {
        (None, _) => caller.check(Verb::Admin, Reach::Platform),
        (Some(tenant), _) => caller.check(Verb::Admin, Reach::Within(tenant)),
    }
}
