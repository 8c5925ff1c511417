//! Certificates: who may set which, what is answered, and what of them is told.

use std::sync::Mutex;

use model::api::CertificateSummary;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;
use crate::certificates::tell_ended_since;

const TENANT: &str = "/v1/tenants/default/certificates";

/// A certificate that signs itself, and its key, good for these years.
fn made(hosts: &[&str], years: [i32; 2]) -> [String; 2] {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.not_before = date_time_ymd(years[0], 1, 1);
    params.not_after = date_time_ymd(years[1], 1, 1);
    let key = KeyPair::generate().unwrap();
    [params.self_signed(&key).unwrap().pem(), key.serialize_pem()]
}

fn body([chain, key]: &[String; 2]) -> Value {
    json!({ "chain": chain, "key": key })
}

impl Api {
    async fn put_as(&self, token: &str, path: &str, body: Value) -> Reply {
        let headers = [&bearer(token)[..], "content-type: application/json"];
        self.raw(&format!("PUT {path}"), &headers, body.to_string())
            .await
    }

    async fn set(&self, name: &str, made: &[String; 2]) -> Reply {
        let path = format!("{TENANT}/{name}");
        self.put_as(&self.admin, &path, body(made)).await
    }
}

#[tokio::test]
async fn a_certificate_is_set_replaced_listed_and_deleted() {
    let api = Api::start().await;
    let first = made(&["shop.com", "*.shop.com"], [1990, 2100]);
    let reply = api.set("shop", &first).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let set: CertificateSummary = reply.json();
    assert_eq!(set.hosts, ["shop.com", "*.shop.com"]);
    assert_eq!(set.shown_for, []);
    assert_eq!(set.not_after_ms, 4_102_444_800_000);
    let listed: Vec<CertificateSummary> = api.get(TENANT).await.ok();
    assert_eq!(listed, std::slice::from_ref(&set));

    let second = made(&["shop.com"], [1990, 2101]);
    let reply = api.set("shop", &second).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let set_again: CertificateSummary = reply.json();
    assert_ne!(set_again.fingerprint, set.fingerprint);
    let listed: Vec<CertificateSummary> = api.get(TENANT).await.ok();
    assert_eq!(listed, std::slice::from_ref(&set_again));

    let path = format!("{TENANT}/shop");
    assert_eq!(api.delete(&path).await.status, 204);
    let gone = api.delete(&path).await;
    gone.problem(404, "certificate-not-found");
    let listed: Value = api.get(TENANT).await.ok();
    assert_eq!(listed, json!([]));
    let nobody = "/v1/tenants/nobody/certificates";
    api.get(nobody).await.problem(404, "tenant-not-found");
    api.put_as(&api.admin, &format!("{nobody}/shop"), body(&first))
        .await
        .problem(404, "tenant-not-found");
    for name in ["Shop", "a.b", "%2e%2e", "-"] {
        api.set(name, &first).await.problem(400, "path-malformed");
    }
}

#[tokio::test]
async fn only_who_may_deploy_in_the_whole_tenant_sets_a_certificate_and_only_an_admin_deletes() {
    let api = Api::start().await;
    api.tenant("bob").await;
    let made = made(&["shop.com"], [1990, 2100]);
    assert_eq!(api.set("shop", &made).await.status, 201);
    let check = async |scope: Value, allowed: [bool; 3]| {
        let token = bearer(&api.token(scope.clone()).await.token);
        let json = "content-type: application/json";
        let path = format!("{TENANT}/shop");
        let asked = [
            (format!("GET {TENANT}"), String::new()),
            (format!("PUT {path}"), body(&made).to_string()),
            (format!("DELETE {path}"), String::new()),
        ];
        for ((line, body), allowed) in asked.into_iter().zip(allowed) {
            let reply = api.raw(&line, &[&token, json], body).await;
            match allowed {
                true => assert!(reply.status < 300, "{scope} {line}: {reply:?}"),
                false => drop(reply.problem(403, "scope")),
            }
        }
    };
    check(
        json!({ "tenant": "default", "verb": "read" }),
        [true, false, false],
    )
    .await;
    check(
        json!({ "tenant": "default", "verb": "deploy" }),
        [true, true, false],
    )
    .await;
    check(
        json!({ "tenant": "default", "app": "shop", "verb": "admin" }),
        [false; 3],
    )
    .await;
    check(json!({ "tenant": "bob", "verb": "admin" }), [false; 3]).await;
    check(json!({ "tenant": "default", "verb": "admin" }), [true; 3]).await;
}

#[tokio::test]
async fn no_answer_repeats_a_key_whatever_was_sent() {
    let api = Api::start().await;
    let made = made(&["shop.com"], [1990, 2100]);
    let key = &made[1];
    let secret: String = key.lines().nth(1).unwrap()[..24].to_owned();
    let path = format!("{TENANT}/shop");
    let bodies = [
        json!({ "chain": made[0], "key": key }),
        json!({ "chain": key, "key": made[0] }),
        json!({ "chain": made[0], "key": key, "more": 1 }),
        json!({ "chain": made[0], key: 1 }),
        json!({ "chain": made[0], "key": [key] }),
        json!({ "chain": [key], "key": "" }),
        json!({ "chain": "", "key": key }),
        json!(key),
        json!([key]),
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let headers = [
            &bearer(&api.admin)[..],
            "content-type: application/json",
            &format!("idempotency-key: k-{number}")[..],
        ];
        for _ in 0..2 {
            let line = format!("PUT {path}");
            let reply = api.raw(&line, &headers, body.to_string()).await;
            assert_eq!(reply.status < 300, number == 0, "{reply:?}");
            let text = String::from_utf8_lossy(&reply.body);
            assert!(!text.contains(&secret), "{text}");
        }
    }
    // Nor do the records, in which answers are remembered.
    let folder = api.stop().await;
    let mut files = vec![folder.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            let inside = std::fs::read_dir(path).unwrap();
            files.extend(inside.map(|file| file.unwrap().path()));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "{}", path.display());
    }
}

#[tokio::test]
async fn a_tenant_has_no_more_certificates_than_it_may() {
    let api = Api::start().await;
    let made = made(&["shop.com"], [1990, 2100]);
    let most = limits::CERTIFICATES_TENANT.default;
    for number in 0..most {
        assert_eq!(api.set(&format!("c-{number}"), &made).await.status, 201);
    }
    let detail = api
        .set("more", &made)
        .await
        .problem(409, "too-many-certificates");
    assert!(detail.contains("100"), "{detail}");
    // One in the place of another is no more.
    assert_eq!(api.set("c-0", &made).await.status, 200);
    api.tenant("bob").await;
    let path = "/v1/tenants/bob/certificates/more";
    let reply = api.put_as(&api.admin, path, body(&made)).await;
    assert_eq!(reply.status, 201, "{reply:?}");
}

#[tokio::test]
async fn the_operator_is_told_once_of_each_certificate_that_has_ended() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let said = told.clone();
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start_with(folder, move |settings| {
        settings.notice = Arc::new(move |text| said.lock().unwrap().push(text.to_owned()));
    })
    .await;
    // It is 2027 by this platform's clock.
    let soon = made(&["soon.com", "*.soon.com"], [1990, 2028]);
    assert_eq!(api.set("soon", &soon).await.status, 201);
    assert_eq!(
        api.set("late", &made(&["late.com"], [1990, 2100]))
            .await
            .status,
        201
    );
    api.set("past", &made(&["past.com"], [1990, 2020]))
        .await
        .problem(422, "certificate-out-of-time");
    api.set("future", &made(&["future.com"], [2050, 2100]))
        .await
        .problem(422, "certificate-out-of-time");
    let count = || {
        let told = told.lock().unwrap();
        let ended = told.iter().filter(|text| text.contains("has ended"));
        ended.cloned().collect::<Vec<_>>()
    };
    let mut told_ms = 0;
    told_ms = tell_ended_since(api.platform(), told_ms).await;
    assert_eq!(count(), Vec::<String>::new());
    api.pass(model::Millis::secs(366 * 86_400));
    for _ in 0..3 {
        told_ms = tell_ended_since(api.platform(), told_ms).await;
    }
    let ended = count();
    assert_eq!(ended.len(), 1, "{ended:?}");
    for part in ["`soon`", "`default`", "soon.com, *.soon.com"] {
        assert!(ended[0].contains(part), "{}", ended[0]);
    }
    assert_eq!(
        api.set("soon", &made(&["soon.com"], [1990, 2100]))
            .await
            .status,
        200
    );
}
