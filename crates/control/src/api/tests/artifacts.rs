//! Uploads: asked for, taken, refused, and never left half done.

use model::ArtifactKey;

use super::*;

const ARTIFACTS: &str = "/v1/tenants/default/artifacts";

#[tokio::test]
async fn an_upload_is_asked_for_until_it_is_there() {
    let api = Api::start().await;
    let (one, two) = (Digest::of(b"ok\none"), Digest::of(b"ok\ntwo"));
    let missing = async || -> Value {
        let body = json!({ "digests": [one, two] });
        api.post(&format!("{ARTIFACTS}/missing"), body).await.ok()
    };
    assert_eq!(missing().await["digests"], json!([one, two]));
    api.upload("ok\none").await;
    assert_eq!(missing().await["digests"], json!([two]));
    api.upload("ok\none").await;

    let many: Vec<_> = (0..1001)
        .map(|i: i32| Digest::of(&i.to_be_bytes()))
        .collect();
    let reply = api
        .post(&format!("{ARTIFACTS}/missing"), json!({ "digests": many }))
        .await;
    reply.problem(422, "too-many-digests");
}

#[tokio::test]
async fn knowing_a_digest_is_not_having_the_bytes() {
    let api = Api::start().await;
    api.tenant("bob").await;
    let wasm = api.upload("ok\nsecret").await;
    let bob = api
        .token(json!({ "tenant": "bob", "verb": "deploy" }))
        .await;
    let body = json!({ "digests": [wasm] });
    let missing = api
        .post_as(&bob.token, "/v1/tenants/bob/artifacts/missing", body)
        .await;
    assert_eq!(missing.ok::<Value>()["digests"], json!([wasm]));
    let body = json!({ "manifest": { "name": "copy" }, "wasm": wasm });
    let reply = api
        .post_as(&bob.token, "/v1/tenants/bob/apps/copy/versions", body)
        .await;
    reply.problem(422, "artifact-missing");
}

#[tokio::test]
async fn an_upload_that_is_not_what_it_says_leaves_nothing() {
    let api = Api::start().await;
    let admin = bearer(&api.admin);
    let digest = Digest::of(b"right");
    let line = format!("PUT {ARTIFACTS}/{digest}");
    let put = async |kind: &str, body: Vec<u8>| api.raw(&line, &[&admin, kind], body).await;
    let wasm = "content-type: application/wasm";
    put(wasm, b"wrong".to_vec())
        .await
        .problem(422, "digest-mismatch");
    put("content-type: text/html", b"right".to_vec())
        .await
        .problem(415, "media-type");
    put(wasm, vec![0; (1 << 20) + 1])
        .await
        .problem(413, "body-too-large");
    let reply = api
        .raw(&format!("PUT {ARTIFACTS}/abc"), &[&admin, wasm], "x")
        .await;
    reply.problem(400, "path-malformed");
    assert!(names(&api.platform().temporary).is_empty());
    assert!(api.distribution.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_client_that_dies_in_the_middle_leaves_nothing() {
    use tokio::io::AsyncWriteExt;
    let api = Api::start().await;
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let head = format!(
        "PUT {ARTIFACTS}/{} HTTP/1.1\r\nhost: api\r\n{}\r\ncontent-type: application/wasm\r\ncontent-length: 1000\r\n\r\nbegin",
        Digest::of(b"x"),
        bearer(&api.admin)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let temporary = &api.platform().temporary;
    while names(temporary).is_empty() {
        tokio::task::yield_now().await;
    }
    drop(stream);
    while !names(temporary).is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_token_that_ends_during_an_upload_ends_the_upload() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let api = Api::start().await;
    let token = api
        .token(json!({ "tenant": "default", "verb": "deploy" }))
        .await;
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let head = format!(
        "PUT {ARTIFACTS}/{} HTTP/1.1\r\nhost: api\r\n{}\r\ncontent-type: application/wasm\r\ncontent-length: 5\r\n\r\nrig",
        Digest::of(b"right"),
        bearer(&token.token)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    while names(&api.platform().temporary).is_empty() {
        tokio::task::yield_now().await;
    }
    api.delete(&format!("/v1/tokens/{}", token.summary.id))
        .await;
    stream.write_all(b"ht").await.unwrap();
    let mut reply = vec![0; 4096];
    let count = stream.read(&mut reply).await.unwrap();
    let reply = String::from_utf8_lossy(&reply[..count]).into_owned();
    assert!(reply.starts_with("HTTP/1.1 401"), "{reply}");
    assert!(reply.contains("token-revoked"), "{reply}");
    let key = ArtifactKey::Wasm(Digest::of(b"right"));
    assert!(api.distribution.fetch(&key).await.is_err());
}

#[tokio::test]
async fn what_no_version_names_is_collected_after_its_grace() {
    let api = Api::start().await;
    api.version("shop", "ok\nkept").await;
    api.upload("ok\nforgotten").await;
    let count = async || api.distribution.list().await.unwrap().len();
    assert_eq!(count().await, 4);
    crate::collect::collect(api.platform()).await.unwrap();
    assert_eq!(count().await, 4);

    // Both clocks count: the artifacts' ages are the file system's, the uploads' the platform's.
    let ahead = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64;
    let now = api.platform().now();
    api.pass(model::Millis(
        ahead.saturating_sub(now) + 2 * limits::ARTIFACT_GRACE.default.0,
    ));
    let _pin = api.platform().pins.pin(Digest::of(b"ok\nforgotten")).await;
    crate::collect::collect(api.platform()).await.unwrap();
    assert_eq!(count().await, 4);
    drop(_pin);
    crate::collect::collect(api.platform()).await.unwrap();
    assert_eq!(count().await, 3);

    let reply = api
        .post(
            &format!("{ARTIFACTS}/missing"),
            json!({ "digests": [Digest::of(b"ok\nforgotten")] }),
        )
        .await;
    assert_eq!(reply.ok::<Value>()["digests"].as_array().unwrap().len(), 1);
    api.delete("/v1/tenants/default/apps/shop")
        .await
        .ok::<Value>();
    crate::collect::collect(api.platform()).await.unwrap();
    assert_eq!(count().await, 0);
}
