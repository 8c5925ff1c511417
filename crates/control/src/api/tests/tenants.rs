//! Tenants: made by who runs the platform, each once, and apart from then on.

use super::*;

#[tokio::test]
async fn a_tenant_is_made_once_and_listed() {
    let api = Api::start().await;
    let made = api.post("/v1/tenants", json!({ "name": "bob" })).await;
    assert_eq!((made.status, made.json::<Value>()), (201, json!("bob")));
    let again = api.post("/v1/tenants", json!({ "name": "bob" })).await;
    let detail = again.problem(409, "tenant-exists");
    assert!(detail.contains("`bob`"), "{detail}");
    api.post("/v1/tenants", json!({ "name": "default" }))
        .await
        .problem(409, "tenant-exists");
    for name in ["Bob", "../x", "", "a.b", "xn--a"] {
        api.post("/v1/tenants", json!({ "name": name }))
            .await
            .problem(422, "body-unfit");
    }
    let listed: Value = api.get("/v1/tenants").await.ok();
    assert_eq!(listed, json!(["bob", "default"]));
}

#[tokio::test]
async fn a_repeated_request_makes_no_second_tenant_and_is_no_conflict() {
    let api = Api::start().await;
    let headers = [
        &bearer(&api.admin)[..],
        "content-type: application/json",
        "idempotency-key: k",
    ];
    let send = async || {
        let body = json!({ "name": "bob" }).to_string();
        api.raw("POST /v1/tenants", &headers, body).await
    };
    let first = send().await;
    let again = send().await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(again.headers["idempotency-replayed"], "true");
}

#[tokio::test]
async fn only_an_admin_of_the_platform_makes_tenants() {
    let api = Api::start().await;
    let check = async |scope: Value, allowed: bool| {
        let token = api.token(scope.clone()).await;
        let name = format!("made-by-{}", scope["verb"].as_str().unwrap());
        let body = json!({ "name": name });
        let reply = api.post_as(&token.token, "/v1/tenants", body).await;
        if allowed {
            assert_eq!(reply.status, 201, "{scope}");
        } else {
            reply.problem(403, "scope");
        }
    };
    check(json!({ "verb": "admin" }), true).await;
    check(json!({ "verb": "deploy" }), false).await;
    check(json!({ "tenant": "default", "verb": "admin" }), false).await;
    let app = json!({ "tenant": "default", "app": "shop", "verb": "admin" });
    check(app, false).await;
    let listed: Value = api.get("/v1/tenants").await.ok();
    assert_eq!(listed, json!(["default", "made-by-admin"]));
}

#[tokio::test]
async fn nothing_is_done_for_a_tenant_there_is_not() {
    let api = Api::start().await;
    api.get("/v1/tenants/bob/apps")
        .await
        .problem(404, "tenant-not-found");
    api.post(
        "/v1/tokens",
        json!({ "scope": { "tenant": "bob", "verb": "admin" } }),
    )
    .await
    .problem(404, "tenant-not-found");
    let wasm = Digest::of(b"x");
    let body = json!({ "manifest": { "name": "shop" }, "wasm": wasm });
    api.post("/v1/tenants/bob/apps/shop/versions", body)
        .await
        .problem(404, "tenant-not-found");
}
