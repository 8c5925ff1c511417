//! The control API, version 1: every operation with its path, and the layers before them.
//!
//! Handlers read what was asked, check that the caller may, call one function of the control plane and write its
//! answer. `openapi.json` describes all of it; a test holds the two together.

mod apps;
mod artifacts;
mod certificates;
mod change;
mod deployments;
mod gate;
mod kv;
mod logs;
mod platform;
mod problem;
mod request;
mod secrets;
mod server;
mod tenant_limits;
mod tenants;
mod tokens;
mod versions;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, patch, post, put};

use crate::control::Platform;
pub(crate) use change::Pending;
use problem::Refused;
pub(crate) use server::serve;

/// An operation: its method and path, as `openapi.json` has them, and what answers it.
type Operation = (&'static str, &'static str, MethodRouter<Arc<Platform>>);

const TENANT: &str = "/v1/tenants/{tenant}";

/// Every operation of the API.
fn operations(platform: &Arc<Platform>) -> Vec<Operation> {
    let known = || from_fn_with_state(platform.clone(), gate::known);
    let small = || from_fn_with_state(platform.clone(), change::small);
    let upload = || from_fn_with_state(platform.clone(), change::upload);
    let secret = || from_fn_with_state(platform.clone(), change::secret);
    // The layer that is added last is met first.
    let ask = |handler: MethodRouter<Arc<Platform>>| {
        handler.layer(known()).layer(from_fn(gate::small_body))
    };
    let change = |handler: MethodRouter<Arc<Platform>>| ask(handler.layer(small()));
    let artifact = put(artifacts::upload).layer(upload()).layer(known());

    vec![
        ("get", "/healthz", get(platform::healthy)),
        ("get", "/readyz", get(platform::ready)),
        ("get", "/metrics", get(platform::metrics)),
        ("get", "/v1/openapi.json", get(platform::openapi)),
        ("get", "/v1/status", ask(get(platform::status))),
        ("get", "/v1/usage", ask(get(platform::usage))),
        ("post", "/v1/backup", ask(post(platform::backup))),
        ("get", "/v1/tokens", ask(get(tokens::list))),
        ("post", "/v1/tokens", change(post(tokens::create))),
        ("delete", "/v1/tokens/{id}", change(delete(tokens::revoke))),
        ("get", "/v1/tenants", ask(get(tenants::list))),
        ("post", "/v1/tenants", change(post(tenants::create))),
        (
            "delete",
            "/v1/tenants/{tenant}",
            change(delete(tenants::delete)),
        ),
        ("get", "/limits", ask(get(tenant_limits::show))),
        ("patch", "/limits", change(patch(tenant_limits::change))),
        ("post", "/artifacts/missing", ask(post(artifacts::missing))),
        ("put", "/artifacts/{digest}", artifact),
        ("get", "/certificates", ask(get(certificates::list))),
        (
            "put",
            "/certificates/{name}",
            change(put(certificates::set)),
        ),
        (
            "delete",
            "/certificates/{name}",
            change(delete(certificates::delete)),
        ),
        ("get", "/secrets", ask(get(secrets::list))),
        (
            "put",
            "/secrets/{name}",
            ask(put(secrets::set).layer(secret())),
        ),
        ("delete", "/secrets/{name}", change(delete(secrets::delete))),
        ("get", "/apps", ask(get(apps::list))),
        ("get", "/apps/{app}", ask(get(apps::one))),
        ("delete", "/apps/{app}", change(delete(apps::delete))),
        ("get", "/apps/{app}/versions", ask(get(versions::list))),
        (
            "post",
            "/apps/{app}/versions",
            change(post(versions::create)),
        ),
        (
            "get",
            "/apps/{app}/versions/{number}",
            ask(get(versions::one)),
        ),
        (
            "get",
            "/apps/{app}/deployments",
            ask(get(deployments::list)),
        ),
        (
            "post",
            "/apps/{app}/deployments",
            change(post(deployments::create)),
        ),
        ("get", "/apps/{app}/deployment", ask(get(deployments::now))),
        ("get", "/apps/{app}/logs", ask(get(logs::tail))),
        ("get", "/apps/{app}/kv", ask(get(kv::stores))),
        ("get", "/apps/{app}/kv/{store}", ask(get(kv::keys))),
        ("get", "/apps/{app}/kv/{store}/{key}", ask(get(kv::get))),
        (
            "put",
            "/apps/{app}/kv/{store}/{key}",
            // Its body may be large, and sending it again changes nothing more.
            put(kv::set).layer(known()),
        ),
        (
            "delete",
            "/apps/{app}/kv/{store}/{key}",
            change(delete(kv::delete)),
        ),
    ]
}

/// Where an operation answers: those of a tenant lie below it.
fn full_path(path: &str) -> String {
    let of_a_tenant = [
        "/apps",
        "/artifacts",
        "/certificates",
        "/limits",
        "/secrets",
    ];
    if of_a_tenant.iter().any(|first| path.starts_with(first)) {
        format!("{TENANT}{path}")
    } else {
        path.to_owned()
    }
}

/// The whole API.
pub(crate) fn router(platform: Arc<Platform>) -> Router {
    let mut router = Router::new();
    for (_, path, handler) in operations(&platform) {
        router = router.route(&full_path(path), handler);
    }
    router
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(platform.clone(), gate::tell))
        .with_state(platform)
}

async fn nothing() -> Refused {
    let detail = "the API has no such address; `/v1/openapi.json` lists those it has";
    Refused::new(404, "not-found", "there is nothing here", detail)
}

async fn wrong_method() -> Refused {
    let detail = "this address does not take this method; the `Allow` header names those it takes";
    Refused::new(
        405,
        "method-not-allowed",
        "the method is not allowed here",
        detail,
    )
}

#[cfg(test)]
mod tests;
