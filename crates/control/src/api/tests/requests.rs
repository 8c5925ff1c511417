//! Requests that are not as they should be, each with its answer.

use super::*;

const APP: &str = "/v1/tenants/default/apps/shop";

#[tokio::test]
async fn what_is_not_json_as_expected_is_refused_in_words() {
    let api = Api::start().await;
    let path = format!("POST {APP}/deployments");
    let check = async |body: &[u8], status: u16, code: &str| {
        let headers = [&bearer(&api.admin)[..], "content-type: application/json"];
        let reply = api.raw(&path, &headers, body).await;
        reply.problem(status, code)
    };
    let deep = [&b"["[..]; 100].concat();
    check(b"", 400, "json-malformed").await;
    check(b"{", 400, "json-malformed").await;
    check(b"\xef\xbb\xbf{}", 400, "json-malformed").await;
    check(br#"{"cause":"deploy"} x"#, 400, "json-malformed").await;
    check(br#"{"cause":"\ud800"}"#, 400, "json-malformed").await;
    check(
        br#"{"cause":"deploy","version":NaN}"#,
        400,
        "json-malformed",
    )
    .await;
    check(&deep, 400, "json-too-deep").await;
    check(b"[]", 422, "body-unfit").await;
    check(
        br#"{"cause":"deploy","version":1e999}"#,
        400,
        "json-malformed",
    )
    .await;
    check(br#"{"cause":"deploy","version":0}"#, 422, "body-unfit").await;
    check(br#"{"cause":"deploy","version":-1}"#, 422, "body-unfit").await;
    check(
        br#"{"cause":"deploy","version":9007199254740993}"#,
        422,
        "body-unfit",
    )
    .await;
    check(br#"{"cause":"deploy","cause":"deploy"}"#, 422, "body-unfit").await;
    let detail = check(br#"{"cause":"deploy","surprise":1}"#, 422, "body-unfit").await;
    assert!(detail.contains("surprise"), "{detail}");
}

#[tokio::test]
async fn addresses_methods_and_kinds_that_do_not_fit_are_refused() {
    let api = Api::start().await;
    let admin = bearer(&api.admin);
    let check = async |line: &str, headers: &[&str], status: u16, code: &str| {
        let mut all = vec![&admin[..]];
        all.extend(headers);
        let reply = api.raw(line, &all, "{}").await;
        reply.problem(status, code);
        reply
    };
    check("GET /nowhere", &[], 404, "not-found").await;
    check("GET /v1/tenants/default/nothing", &[], 404, "not-found").await;
    let reply = check("PATCH /v1/status", &[], 405, "method-not-allowed").await;
    assert!(reply.headers["allow"].to_str().unwrap().contains("GET"));
    for bad in [
        "..%2fx",
        "Shop",
        "a_b",
        "%00",
        "%e2%80%ae",
        "xn--a",
        "%F0%9F%98%80",
    ] {
        let line = format!("GET /v1/tenants/default/apps/{bad}");
        check(&line, &[], 400, "path-malformed").await;
    }
    let line = "GET /v1/tenants/default/apps/%ff";
    check(line, &[], 400, "path-malformed").await;
    check(&format!("GET {APP}/versions/0"), &[], 400, "path-malformed").await;
    check(&format!("GET {APP}"), &[], 404, "app-not-found").await;
    check("GET /v1/tenants/nobody/apps", &[], 404, "tenant-not-found").await;
    let post = &format!("POST {APP}/deployments");
    check(post, &[], 415, "media-type").await;
    check(post, &["content-type: text/plain"], 415, "media-type").await;
    let zipped = ["content-type: application/json", "content-encoding: gzip"];
    check(post, &zipped, 415, "media-type").await;
    let twice = ["idempotency-key: a", "idempotency-key: b"];
    check(post, &twice, 400, "idempotency-malformed").await;
    check(
        post,
        &["idempotency-key: a b"],
        400,
        "idempotency-malformed",
    )
    .await;
    let long = format!("idempotency-key: {}", "k".repeat(256));
    check(post, &[&long], 400, "idempotency-malformed").await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_and_after_it_is_known_by_whom() {
    let api = Api::start().await;
    let large = vec![b' '; limits::API_BODY.default.as_usize() + 1];
    let line = &format!("POST {APP}/deployments");
    let reply = api.raw(line, &[], large.clone()).await;
    reply.problem(413, "body-too-large");

    // Without a length, only reading shows it; nobody unknown is read.
    let stream = TcpStream::connect(api.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let piece = || Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b' '; 64 << 10]));
    let body =
        axum::body::Body::from_stream(futures_util::stream::iter((0..40).map(move |_| piece())));
    let request = http::Request::post(format!("{APP}/deployments"))
        .header("host", "api")
        .header("authorization", format!("Bearer {}", api.admin))
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let reply = sender.send_request(request).await.unwrap();
    assert_eq!(reply.status(), 413);
}

#[tokio::test]
async fn a_slow_or_idle_client_does_not_hold_up_the_end() {
    use tokio::io::AsyncWriteExt;
    let api = Api::start().await;
    let mut half = TcpStream::connect(api.address).await.unwrap();
    half.write_all(b"GET /v1/status HTTP/1.1\r\nhost: a")
        .await
        .unwrap();
    api.stop().await;
}
