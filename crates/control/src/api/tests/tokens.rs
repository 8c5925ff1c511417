//! Who may do what.

use super::*;

#[tokio::test]
async fn only_a_token_that_holds_opens_the_api() {
    let api = Api::start().await;
    let check = async |headers: &[&str], status: u16, code: &str| {
        let reply = api.raw("GET /v1/status", headers, "").await;
        if status == 200 {
            assert_eq!(reply.status, 200, "{headers:?}");
        } else {
            reply.problem(status, code);
        }
    };
    let good = bearer(&api.admin);
    let other = crate::auth::TokenText::make().unwrap();
    let other = bearer(other.reveal());
    let mut wrong_secret = api.admin.clone();
    wrong_secret.replace_range(20..60, &other[40..80]);

    check(&[&good], 200, "").await;
    check(&[&good.replace("Bearer", "bearer")], 200, "").await;
    check(&[], 401, "token-missing").await;
    check(&["authorization: Basic YTpi"], 401, "token-missing").await;
    check(&["authorization: Bearer nonsense"], 401, "token-malformed").await;
    check(&[&bearer(&wrong_secret)], 401, "token-malformed").await;
    check(&[&other], 401, "token-unknown").await;
    check(&[&good, &good], 400, "token-twice").await;

    for query in [&format!("?token={}", api.admin), "?access_token=x"] {
        let reply = api.raw(&format!("GET /v1/status{query}"), &[], "").await;
        let detail = reply.problem(400, "token-in-query");
        assert!(!detail.contains(&api.admin));
    }
    // Among other things too; what merely begins as one is none.
    let query = format!("?tail=1&since=x{}x", api.admin);
    let reply = api
        .raw(&format!("GET /v1/status{query}"), &[&good], "")
        .await;
    reply.problem(400, "token-in-query");
    for query in ["?x=midge_a", &format!("?x={}", &api.admin[..66])] {
        let reply = api
            .raw(&format!("GET /v1/status{query}"), &[&good], "")
            .await;
        assert_eq!(reply.status, 200, "{query}");
    }
    let reply = api.raw("GET /v1/status", &[], "").await;
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn a_wrong_secret_and_an_unknown_id_are_answered_alike() {
    let api = Api::start().await;
    let created = api.token(json!({ "verb": "read" })).await;
    // The right id with another secret and a right checksum cannot be made up; a changed hash is the same case.
    let id = created.summary.id.clone();
    let changed: Result<(), crate::records::RecordsError> = api
        .platform()
        .records
        .write(move |t| {
            let hash = Digest::of(b"another").to_string();
            t.execute("UPDATE tokens SET hash = ?1 WHERE id = ?2", [hash, id])?;
            Ok(())
        })
        .await;
    changed.unwrap();
    let wrong = api
        .raw("GET /v1/status", &[&bearer(&created.token)], "")
        .await;
    let unknown = crate::auth::TokenText::make().unwrap();
    let unknown = api
        .raw("GET /v1/status", &[&bearer(unknown.reveal())], "")
        .await;
    assert_eq!(wrong.body, unknown.body);
    assert_eq!(wrong.status, 401);
}

#[tokio::test]
async fn a_token_ends_when_it_expires_and_when_it_is_revoked() {
    let api = Api::start().await;
    let body = json!({ "scope": { "verb": "read" }, "expires_in": "1h" });
    let expiring: CreatedToken = api.post("/v1/tokens", body).await.ok();
    let revoked = api.token(json!({ "verb": "read" })).await;
    let status = async |token: &CreatedToken| {
        let header = bearer(&token.token);
        api.raw("GET /v1/status", &[&header], "").await
    };
    assert_eq!(status(&expiring).await.status, 200);
    assert_eq!(status(&revoked).await.status, 200);

    let path = format!("/v1/tokens/{}", revoked.summary.id);
    assert_eq!(api.delete(&path).await.status, 204);
    assert_eq!(api.delete(&path).await.status, 204);
    status(&revoked).await.problem(401, "token-revoked");
    api.pass(model::Millis::secs(3599));
    assert_eq!(status(&expiring).await.status, 200);
    api.pass(model::Millis::secs(1));
    status(&expiring).await.problem(401, "token-expired");
    let listed: Value = api.get("/v1/tokens").await.ok();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert!(!listed.to_string().contains(&revoked.token));
    api.delete("/v1/tokens/nobody")
        .await
        .problem(404, "token-not-found");
}

#[tokio::test]
async fn guessing_is_slowed_by_address() {
    let api = Api::start().await;
    for _ in 0..limits::TOKEN_FAILURES.default {
        let wrong = ["authorization: Bearer midge_wrong"];
        api.raw("GET /v1/status", &wrong, "")
            .await
            .problem(401, "token-malformed");
    }
    let wrong = ["authorization: Bearer midge_wrong"];
    let reply = api.raw("GET /v1/status", &wrong, "").await;
    reply.problem(429, "token-failures");
    assert_eq!(reply.headers["retry-after"], "60");
    // Who knows a token is not kept out by a neighbour who does not.
    assert_eq!(api.get("/v1/status").await.status, 200);
    api.pass(model::Millis::secs(60));
    api.raw("GET /v1/status", &wrong, "")
        .await
        .problem(401, "token-malformed");
}

#[tokio::test]
async fn a_token_reaches_its_scope_and_makes_tokens_within_it() {
    let api = Api::start().await;
    api.tenant("bob").await;
    let alice = api
        .token(json!({ "tenant": "default", "verb": "admin" }))
        .await;
    let shop = json!({ "tenant": "default", "app": "shop", "verb": "deploy" });
    let shop = api.token(shop).await;
    let check = async |token: &CreatedToken, line: &str, status: u16| {
        let reply = api.raw(line, &[&bearer(&token.token)], "").await;
        assert_eq!(reply.status, status, "{line}: {reply:?}");
    };
    check(&alice, "GET /v1/status", 403).await;
    check(&alice, "GET /v1/tenants/default/apps", 200).await;
    check(&alice, "GET /v1/tenants/bob/apps", 403).await;
    check(&alice, "GET /v1/tenants/nobody/apps", 403).await;
    check(&alice, "POST /v1/backup", 403).await;
    check(&shop, "GET /v1/tenants/default/apps", 200).await;
    check(&shop, "GET /v1/tenants/default/apps/shop", 404).await;
    check(&shop, "GET /v1/tenants/default/apps/cart", 403).await;
    check(&shop, "DELETE /v1/tenants/default/apps/shop", 403).await;
    check(&shop, "GET /v1/tokens", 403).await;

    let tenants = api
        .raw("GET /v1/tenants", &[&bearer(&alice.token)], "")
        .await;
    assert_eq!(tenants.ok::<Value>(), json!(["default"]));

    let make = async |scope: Value| {
        let body = json!({ "scope": scope });
        api.post_as(&alice.token, "/v1/tokens", body).await
    };
    let ok = make(json!({ "tenant": "default", "verb": "admin" })).await;
    assert_eq!(ok.status, 201);
    make(json!({ "verb": "read" })).await.problem(403, "scope");
    make(json!({ "tenant": "bob", "verb": "read" }))
        .await
        .problem(403, "scope");
    let admin = json!({ "scope": { "app": "shop", "verb": "read" } });
    api.post("/v1/tokens", admin)
        .await
        .problem(422, "scope-malformed");

    let first: Value = api.get("/v1/tokens").await.ok();
    let platforms = first.as_array().unwrap().len();
    let seen = api
        .raw("GET /v1/tokens", &[&bearer(&alice.token)], "")
        .await;
    assert_eq!(seen.ok::<Value>().as_array().unwrap().len(), platforms - 1);
    let own: Vec<_> = first.as_array().unwrap().iter().collect();
    let platform_token = own
        .iter()
        .find(|t| t["scope"].get("tenant").is_none())
        .unwrap();
    let path = format!(
        "DELETE /v1/tokens/{}",
        platform_token["id"].as_str().unwrap()
    );
    check(&alice, &path, 404).await;
}

#[tokio::test]
async fn the_admin_token_stays_while_its_file_holds_and_is_made_anew_when_it_does_not() {
    use std::os::unix::fs::PermissionsExt;
    let api = Api::start().await;
    let file = api.folder.path().join("admin.token");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    api.control.admin_token(&file).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), api.admin);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    std::fs::remove_file(&file).unwrap();
    api.control.admin_token(&file).await.unwrap();
    let next = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert_ne!(next, api.admin);
    let reply = api.raw("GET /v1/status", &[&bearer(&next)], "").await;
    assert_eq!(reply.status, 200);
    api.get("/v1/status").await.problem(401, "token-revoked");
}

/// Whoever has sent all of a request but its last byte, and then loses its token, changes nothing with it.
#[tokio::test]
async fn a_token_that_ends_while_a_body_comes_changes_nothing() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let api = Api::start().await;
    api.tenant("bob").await;
    let version = api.version("shop", "ok\none").await;
    let wasm = api.upload("ok\ntwo").await;
    let new_version = json!({ "manifest": { "name": "shop" }, "wasm": wasm });
    let json = "application/json";
    let bytes = "application/octet-stream";
    let requests = [
        (
            "POST",
            "tokens",
            json,
            json!({ "scope": { "verb": "admin" } }).to_string(),
            false,
        ),
        (
            "POST",
            "tokens",
            json,
            json!({ "scope": { "verb": "admin" } }).to_string(),
            true,
        ),
        (
            "POST",
            "tenants",
            json,
            json!({ "name": "carol" }).to_string(),
            false,
        ),
        (
            "PATCH",
            "tenants/bob/limits",
            json,
            json!({ "apps": 1 }).to_string(),
            false,
        ),
        ("DELETE", "tenants/bob", json, "x".to_owned(), true),
        (
            "PUT",
            "tenants/bob/secrets/key",
            bytes,
            "value".to_owned(),
            false,
        ),
        (
            "PUT",
            "tenants/bob/certificates/c",
            json,
            json!({ "chain": "", "key": "" }).to_string(),
            false,
        ),
        (
            "POST",
            "tenants/default/apps/shop/versions",
            json,
            new_version.to_string(),
            false,
        ),
        (
            "POST",
            "tenants/default/apps/shop/deployments",
            json,
            json!({ "version": version, "cause": "deploy" }).to_string(),
            false,
        ),
        (
            "PUT",
            "tenants/default/apps/shop/kv/default/k",
            bytes,
            "value".to_owned(),
            false,
        ),
    ];
    for (method, path, kind, body, once) in requests {
        let token = api.token(json!({ "verb": "admin" })).await;
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let key = if once { "idempotency-key: k\r\n" } else { "" };
        let head = format!(
            "{method} /v1/{path} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n{}\r\ncontent-type: {kind}\r\n{key}content-length: {}\r\n\r\n",
            bearer(&token.token),
            body.len(),
        );
        let (most, last) = body.split_at(body.len() - 1);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(most.as_bytes()).await.unwrap();
        // It was looked at once it is known when it was used.
        let used = async || {
            let all: Vec<Value> = api.get("/v1/tokens").await.ok();
            let own = all.iter().find(|known| known["id"] == *token.summary.id);
            own.unwrap()["last_used_ms"].is_u64()
        };
        while !used().await {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let ended = api
            .delete(&format!("/v1/tokens/{}", token.summary.id))
            .await;
        assert_eq!(ended.status, 204, "{ended:?}");
        stream.write_all(last.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(
            reply.starts_with("HTTP/1.1 401"),
            "{method} {path}: {reply}"
        );
        assert!(reply.contains("token-revoked"), "{method} {path}: {reply}");
    }
    let tenants: Value = api.get("/v1/tenants").await.ok();
    assert_eq!(tenants, json!(["bob", "default"]));
    let versions: Vec<Value> = api.get("/v1/tenants/default/apps/shop/versions").await.ok();
    assert_eq!(versions.len(), 1);
}
