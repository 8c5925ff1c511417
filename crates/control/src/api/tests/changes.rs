//! A change is made once for each key, however often it is asked for.

use super::*;

#[tokio::test]
async fn a_repeated_request_is_answered_as_the_first_time() {
    let api = Api::start().await;
    let wasm = api.upload("ok\ncode").await;
    let path = "POST /v1/tenants/default/apps/shop/versions";
    let body = json!({ "manifest": { "name": "shop" }, "wasm": wasm }).to_string();
    let send = async |token: &str, key: &str, body: &str| {
        let key = format!("idempotency-key: {key}");
        let headers = [&bearer(token)[..], "content-type: application/json", &key];
        api.raw(path, &headers, body).await
    };
    let first = send(&api.admin, "k1", &body).await;
    let again = send(&api.admin, "k1", &body).await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.body, again.body);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.headers["content-type"], "application/json");

    let other = body.replace("}}", "} }");
    let other = other.replace("\"name\"", " \"name\"");
    send(&api.admin, "k1", &other)
        .await
        .problem(422, "idempotency-conflict");
    let next: Value = send(&api.admin, "k2", &body).await.ok();
    assert_eq!(next["number"], 2);
    let token = api
        .token(json!({ "tenant": "default", "verb": "deploy" }))
        .await;
    let next: Value = send(&token.token, "k1", &body).await.ok();
    assert_eq!(next["number"], 3);

    api.pass(limits::IDEMPOTENCY.default);
    let next: Value = send(&api.admin, "k1", &body).await.ok();
    assert_eq!(next["number"], 4);
}

#[tokio::test]
async fn a_refusal_is_repeated_too_but_the_text_of_a_token_never_is() {
    let api = Api::start().await;
    let admin = bearer(&api.admin);
    let json = "content-type: application/json";
    let line = "POST /v1/tenants/default/apps/shop/deployments";
    let body = r#"{"cause":"deploy","version":1}"#;
    let headers = [&admin[..], json, "idempotency-key: a"];
    api.raw(line, &headers, body)
        .await
        .problem(404, "app-not-found");
    api.version("shop", "ok\ncode").await;
    api.raw(line, &headers, body)
        .await
        .problem(404, "app-not-found");

    let headers = [&admin[..], json, "idempotency-key: b"];
    let body = r#"{"scope":{"verb":"read"}}"#;
    let made: CreatedToken = api.raw("POST /v1/tokens", &headers, body).await.ok();
    let again = api.raw("POST /v1/tokens", &headers, body).await;
    let detail = again.problem(409, "token-shown-before");
    assert!(detail.contains(&made.summary.id), "{detail}");
    let database = std::fs::read(api.platform().records.path()).unwrap();
    let wal = std::fs::read(api.folder.path().join("data/records.db-wal")).unwrap();
    for bytes in [database, wal] {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains(&made.token));
    }
}

#[tokio::test]
async fn a_change_goes_on_without_its_client_and_a_second_try_waits_for_it() {
    use tokio::io::AsyncWriteExt;
    let api = Api::start().await;
    let wasm = api.upload("slow\ncode").await;
    let body = json!({ "manifest": { "name": "shop" }, "wasm": wasm }).to_string();
    let head = format!(
        "POST /v1/tenants/default/apps/shop/versions HTTP/1.1\r\nhost: api\r\n{}\r\nidempotency-key: k\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        bearer(&api.admin),
        body.len()
    );
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    while api.platform().natives.turns.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    drop(stream);
    let headers = [
        &bearer(&api.admin)[..],
        "content-type: application/json",
        "idempotency-key: k",
    ];
    let line = "POST /v1/tenants/default/apps/shop/versions";
    let mut reply = api.raw(line, &headers, body.clone()).await;
    assert_eq!(reply.status, 409, "{reply:?}");
    while reply.status == 409 {
        reply.problem(409, "idempotency-in-progress");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        reply = api.raw(line, &headers, body.clone()).await;
    }
    assert_eq!(reply.ok::<Value>()["number"], 1);
    assert_eq!(reply.headers["idempotency-replayed"], "true");
}
