//! Tokens: who is let in, to what, for how long; and that a wrong one is told what is wrong.

use serde_json::{Value, json};
use tests::{Api, Platform, guest};

fn with(platform: &Platform, token: &str) -> Api {
    platform.api.with_token(token)
}

fn create(platform: &Platform, scope: Value) -> (String, String) {
    let answer = platform.api.ask(
        "POST",
        "tokens",
        Some(json!({ "label": "test", "scope": scope })),
    );
    assert!(answer.reply.status() < 300, "{}", answer.reply.text());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (
        text(&answer.json["token"]),
        text(&answer.json["summary"]["id"]),
    )
}

#[test]
fn the_admins_token_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let platform = Platform::start();
    let mode = std::fs::metadata(platform.data().join("admin.token"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn without_a_token_nothing_is_told() {
    let platform = Platform::start();
    for path in ["status", "tokens", "tenants/default/apps", "/metrics"] {
        let answer = with(&platform, "").get(path).is(401);
        assert!(
            answer.json["detail"]
                .as_str()
                .unwrap()
                .contains("Authorization"),
            "{path}: {}",
            answer.json
        );
        assert!(answer.reply.header("www-authenticate").is_some(), "{path}");
    }
}

#[test]
fn a_wrong_token_is_told_what_is_wrong() {
    let platform = Platform::start();
    let check = |token: &str, part: &str| {
        let answer = with(&platform, token).get("status").is(401);
        assert_eq!(
            answer.reply.header("content-type"),
            Some("application/problem+json")
        );
        assert!(
            answer.json["detail"].as_str().unwrap().contains(part),
            "{}",
            answer.json
        );
        assert!(
            !answer.reply.text().contains(token),
            "the token is repeated"
        );
    };
    check("nonsense", "form or checksum");
    let mut changed = platform.api.token.clone();
    let last = changed.pop().unwrap();
    changed.push(if last == 'A' { 'B' } else { 'A' });
    check(&changed, "form or checksum");
    let (token, id) = create(&platform, json!({ "verb": "read" }));
    with(&platform, &token).get("status").is(200);
    platform.api.ask("DELETE", &format!("tokens/{id}"), None);
    check(&token, "revoked");
}

#[test]
fn an_expired_token_is_refused() {
    let platform = Platform::start();
    let body = json!({ "scope": { "verb": "read" }, "expires_in": "300ms" });
    let answer = platform.api.ask("POST", "tokens", Some(body));
    let token = answer.json["token"].as_str().unwrap().to_owned();
    tests::eventually("the token expires", || {
        let answer = with(&platform, &token).get("status");
        (answer.reply.status() == 401 && answer.reply.text().contains("expired")).then_some(())
    });
}

#[test]
fn a_token_reaches_no_further_than_its_scope() {
    let platform = Platform::start();
    platform.deploy("mine", &guest("hello"));
    platform.deploy("other", &guest("hello"));
    let (reader, _) = create(&platform, json!({ "tenant": "default", "verb": "read" }));
    let (deployer, _) = create(
        &platform,
        json!({ "tenant": "default", "app": "mine", "verb": "deploy" }),
    );
    let check = |token: &str, method: &str, path: &str, allowed: bool| {
        let body = (method == "POST").then(|| json!({ "version": 1, "cause": "deploy" }));
        let answer = with(&platform, token).ask(method, path, body);
        let status = answer.reply.status();
        assert_eq!(
            status < 300,
            allowed,
            "{method} {path}: {status} {}",
            answer.reply.text()
        );
        assert!(
            allowed || matches!(status, 403 | 404),
            "{method} {path}: {status}"
        );
    };
    check(&reader, "GET", "tenants/default/apps/mine/versions", true);
    check(
        &reader,
        "POST",
        "tenants/default/apps/mine/deployments",
        false,
    );
    check(&reader, "DELETE", "tenants/default/apps/mine", false);
    check(
        &deployer,
        "POST",
        "tenants/default/apps/mine/deployments",
        true,
    );
    check(
        &deployer,
        "POST",
        "tenants/default/apps/other/deployments",
        false,
    );
    check(
        &deployer,
        "GET",
        "tenants/default/apps/other/versions",
        false,
    );
    check(&deployer, "DELETE", "tenants/default/apps/mine", false);
    let beyond = json!({ "scope": { "verb": "admin" } });
    let answer = with(&platform, &deployer).ask("POST", "tokens", Some(beyond));
    assert_eq!(answer.reply.status(), 403, "{}", answer.reply.text());
}

#[test]
fn guessing_is_slowed() {
    let platform = Platform::start();
    let refused = (0..40).map(|_| with(&platform, "midge_wrong").get("status").reply);
    let slowed = refused
        .into_iter()
        .find(|reply| reply.status() == 429)
        .expect("40 wrong tokens in a row");
    assert!(slowed.header("retry-after").is_some());
    platform.api.get("status").is(200);
}

#[test]
fn no_token_is_ever_logged() {
    let platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let (token, _) = create(&platform, json!({ "verb": "admin" }));
    with(&platform, &token).get("status").is(200);
    with(&platform, "")
        .get(&format!("status?token={token}"))
        .refuses(400, "token-in-query", "revoke");
    assert!(!platform.said().contains(&token) && !platform.said().contains(&platform.api.token));
}
