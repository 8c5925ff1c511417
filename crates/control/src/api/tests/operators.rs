//! What an operator sees and does: health, metrics, logs, restarts, backups.

use std::io::Read as _;

use distribution::Changed;
use model::{BackupManifest, LogRecord, LogStream, Owner};

use super::*;
use crate::control::OpenError;

#[tokio::test]
async fn health_readiness_status_and_metrics_say_how_it_is() {
    let api = Api::start().await;
    let open = async |path: &str| api.raw(&format!("GET {path}"), &[], "").await;
    assert_eq!(open("/healthz").await.status, 200);
    open("/readyz").await.problem(503, "not-ready");
    api.report(1, &[]);
    assert_eq!(open("/readyz").await.status, 200);
    open("/metrics").await.problem(401, "token-missing");

    api.version("shop", "ok\none").await;
    let text = String::from_utf8(api.get("/metrics").await.body).unwrap();
    assert!(text.contains("\nmidge_control_apps 1\n"), "{text}");
    assert!(text.ends_with("node_metric 1\n"), "{text}");
    let status: model::api::Status = api.get("/v1/status").await.ok();
    assert_eq!(
        (status.apps, status.generation, status.nodes.len()),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn whoever_asks_sees_what_apps_used_within_their_scope() {
    let api = Api::start().await;
    let check = async |scope: Value, expected: &[&str]| {
        let token = api.token(scope.clone()).await.token;
        let asked = api.raw("GET /v1/usage", &[&bearer(&token)], "").await;
        let usage: model::api::PlatformUsage = asked.ok();
        let apps = usage.apps.iter();
        let seen: Vec<_> = apps
            .map(|app| format!("{}/{}", app.tenant, app.app))
            .collect();
        assert_eq!(seen, expected, "{scope}");
        assert_eq!(usage.latency_bounds_us.len(), 18);
        assert_eq!(
            usage.apps[0],
            used(usage.apps[0].tenant.as_str(), usage.apps[0].app.as_str())
        );
    };
    api.post("/v1/tenants", json!({ "name": "bob" })).await;
    check(
        json!({ "verb": "read" }),
        &["bob/shop", "default/blog", "default/shop"],
    )
    .await;
    let tenant = json!({ "tenant": "default", "verb": "read" });
    check(tenant, &["default/blog", "default/shop"]).await;
    check(json!({ "tenant": "bob", "verb": "admin" }), &["bob/shop"]).await;
    let app = json!({ "tenant": "default", "app": "shop", "verb": "deploy" });
    check(app, &["default/shop"]).await;
    api.raw("GET /v1/usage", &[], "")
        .await
        .problem(401, "token-missing");
}

#[tokio::test]
async fn a_restart_publishes_what_was_deployed_under_the_same_generation() {
    let api = Api::start().await;
    api.version("shop", "ok\none").await;
    let made = api.deploy("shop", 1).await;
    let keys = api.control.keys();
    std::fs::write(api.platform().temporary.join("debris"), "x").unwrap();
    let admin = api.admin.clone();
    let api = Api::start_in(api.stop().await).await;
    assert_eq!(api.admin, admin);
    assert_eq!(api.control.keys(), keys);
    assert!(names(&api.platform().temporary).is_empty());
    let Changed::Whole { head, entries } = api.distribution.changed(0).await.unwrap() else {
        panic!("a node that has nothing is told the whole");
    };
    let head = head.verify(&keys.catalog).unwrap();
    assert_eq!(head.generation, made.deployment.generation);
    assert_eq!(entries.len(), 1);
    let next = api.deploy("shop", 1).await;
    assert_eq!(next.deployment.generation, head.generation + 1);

    // What changes the catalog without a deployment makes a generation of its own.
    let api = Api::start_with(api.stop().await, |settings| {
        settings.domain = "midge.example".parse().unwrap();
        settings.ceiling.cpu = model::Millis(10);
    })
    .await;
    let Changed::Whole { head, entries } = api.distribution.changed(0).await.unwrap() else {
        panic!("a node that has nothing is told the whole");
    };
    let head = head.verify(&keys.catalog).unwrap();
    assert_eq!(head.generation, next.deployment.generation + 1);
    assert_eq!(entries[0].routes[0].host.as_str(), "shop.midge.example");
    assert_eq!(entries[0].limits.cpu.0, 10);
}

#[tokio::test]
async fn a_changed_domain_that_gives_two_apps_one_host_is_refused() {
    let api = Api::start().await;
    api.tenant("bob").await;
    api.version("shop", "ok\none").await;
    api.deploy("shop", 1).await;
    let claimed: Result<(), crate::records::RecordsError> = api
        .platform()
        .records
        .write(|t| {
            t.execute_batch(
                "INSERT INTO apps (tenant, name, latest, revision) VALUES ('bob', 'x', 1, 0);
                 INSERT INTO routes VALUES ('shop.midge.example', '/', 'bob', 'x', 0);",
            )?;
            Ok(())
        })
        .await;
    claimed.unwrap();
    let folder = api.stop().await;
    let mut settings = settings(&folder.path().join("data"));
    settings.domain = "midge.example".parse().unwrap();
    let distribution = Arc::new(Embedded::new(folder.path().join("other")).unwrap());
    let error = Control::open(settings, distribution).await.err().unwrap();
    assert!(matches!(error, OpenError::Catalog(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("`localhost`") && text.contains("`default/shop`"),
        "{text}"
    );
}

#[tokio::test]
async fn native_code_that_is_missing_is_made_at_the_start() {
    let api = Api::start().await;
    api.version("shop", "ok\none").await;
    let folder = api.stop().await;
    let engine = "x86-64-v2.native";
    let artifacts = folder.path().join("artifacts");
    for name in names(&artifacts)
        .iter()
        .filter(|name| name.ends_with(engine))
    {
        std::fs::remove_file(artifacts.join(name)).unwrap();
    }
    let api = Api::start_in(folder).await;
    let wasm = Digest::of(b"ok\none");
    while !api.platform().natives.is_kept(wasm).await.unwrap() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

fn record(owner: &Owner, stream: LogStream, text: &str) -> bytes::Bytes {
    let record = LogRecord {
        time_ms: 1,
        tenant: owner.app.tenant.clone(),
        app: owner.app.app.clone(),
        version: model::VersionNumber::new(1).unwrap(),
        digest: Digest::of(b"x"),
        request: "r".into(),
        trace: None,
        stream,
        text: text.into(),
        done: None,
    };
    serde_json::to_vec(&record).unwrap().into()
}

#[tokio::test]
async fn logs_are_tailed_filtered_and_followed_until_the_token_ends() {
    let api = Api::start().await;
    let logs = "/v1/tenants/default/apps/shop/logs";
    api.get(logs).await.problem(404, "app-not-found");
    api.version("shop", "ok\none").await;
    let id: Owner = "default/shop".parse().unwrap();
    for i in 0..3 {
        api.distribution
            .log(&id, record(&id, LogStream::Stdout, &format!("out {i}")));
        api.distribution
            .log(&id, record(&id, LogStream::Stderr, &format!("err {i}")));
    }
    let texts = |reply: &Reply| -> Vec<String> {
        assert_eq!(reply.status, 200, "{reply:?}");
        let lines = reply
            .body
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice::<LogRecord>(line).unwrap().text)
            .collect()
    };
    assert_eq!(texts(&api.get(logs).await).len(), 6);
    let tail = api.get(&format!("{logs}?tail=2&stream=stdout")).await;
    assert_eq!(texts(&tail), ["out 1", "out 2"]);
    for bad in [
        "?tail=-1",
        "?stream=all",
        "?since=soon",
        "?status=6xx",
        "?status=200&stream=stdout",
        "?until=1",
        "?follow=maybe",
    ] {
        api.get(&format!("{logs}{bad}"))
            .await
            .problem(400, "query-malformed");
    }

    let token = api
        .token(json!({ "tenant": "default", "app": "shop", "verb": "read" }))
        .await;
    let header = bearer(&token.token);
    let line = format!("GET {logs}?follow=true&tail=1&stream=stdout");
    let headers = [&header[..]];
    let (followed, ()) = tokio::join!(api.raw(&line, &headers, ""), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        api.distribution
            .log(&id, record(&id, LogStream::Stderr, "not this"));
        api.distribution
            .log(&id, record(&id, LogStream::Stdout, "new"));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        api.delete(&format!("/v1/tokens/{}", token.summary.id))
            .await;
    });
    assert_eq!(texts(&followed), ["out 2", "new"]);

    // It ends with the app, whose name another may have at once.
    let line = format!("GET {logs}?follow=true&tail=1&stream=stdout");
    let admin = bearer(&api.admin);
    let headers = [&admin[..]];
    let (followed, ()) = tokio::join!(api.raw(&line, &headers, ""), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        api.delete("/v1/tenants/default/apps/shop").await;
        api.version("shop", "ok\none").await;
    });
    assert_eq!(texts(&followed), ["new"]);
    let next = api.get(&format!("{logs}?tail=9")).await;
    assert_eq!(next.body, b"");
}

#[tokio::test]
async fn logs_are_chosen_by_status_and_time_before_the_newest_are_counted() {
    let api = Api::start().await;
    api.version("shop", "ok\none").await;
    let id: Owner = "default/shop".parse().unwrap();
    let line = |time_ms: u64, status: Option<u16>| {
        let stream = status.map_or(LogStream::Stdout, |_| LogStream::Request);
        let mut line: Value = serde_json::from_slice(&record(&id, stream, "")).unwrap();
        line["time_ms"] = time_ms.into();
        line["request"] = format!("{time_ms} {status:?}").into();
        if let Some(status) = status {
            line["done"] = json!({ "method": "GET", "host": "a", "path": "/", "status": status, "outcome": "ok",
                                   "usage": model::Usage::default(), "cold": false, "client": "a" });
        }
        bytes::Bytes::from(line.to_string())
    };
    let hour_ago = api.platform().now() - 3_600_000;
    for (time_ms, status) in [
        (1, Some(503)),
        (2, Some(404)),
        (3, None),
        (4, Some(500)),
        (5, Some(0)),
        (hour_ago, Some(502)),
        (hour_ago, Some(200)),
    ] {
        api.distribution.log(&id, line(time_ms, status));
    }
    let check = async |query: &str, expected: &[&str]| {
        let reply = api
            .get(&format!("/v1/tenants/default/apps/shop/logs?{query}"))
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let found: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<LogRecord>(line).unwrap().request)
            .map(|request| request.replace(&hour_ago.to_string(), "hour"))
            .collect();
        assert_eq!(found, expected, "{query}");
    };
    let (last, fine) = ("hour Some(502)", "hour Some(200)");
    check("status=5xx", &["1 Some(503)", "4 Some(500)", last]).await;
    check("status=404,503", &["1 Some(503)", "2 Some(404)"]).await;
    check("status=0", &["5 Some(0)"]).await;
    check("status=5xx&tail=2", &["4 Some(500)", last]).await;
    check("status=5xx&stream=request&since=4", &["4 Some(500)", last]).await;
    check("since=3&tail=4", &["4 Some(500)", "5 Some(0)", last, fine]).await;
    check("since=2h", &[last, fine]).await;
    check("since=30m", &[]).await;
}

#[tokio::test]
async fn a_backup_restores_everything_into_an_empty_folder() {
    let api = Api::start().await;
    api.version("shop", "ok\none").await;
    api.version("shop", "ok\ntwo").await;
    api.deploy("shop", 2).await;
    let archive = api.raw("POST /v1/backup", &[&bearer(&api.admin)], "").await;
    assert_eq!(archive.headers["content-type"], "application/x-tar");
    let before: Value = api
        .get("/v1/tenants/default/apps/shop/deployments")
        .await
        .ok();
    let keys = api.control.keys();
    let folder = api.stop().await;

    let refused = crate::restore(&archive.body[..], &folder.path().join("data"));
    assert!(refused.unwrap_err().to_string().contains("not empty"));
    let next = tempfile::tempdir().unwrap();
    let data = next.path().join("data");
    let manifest = crate::restore(&archive.body[..], &data).unwrap();
    assert_eq!(manifest.files.len(), 7);
    std::fs::copy(
        folder.path().join("admin.token"),
        next.path().join("admin.token"),
    )
    .unwrap();
    let api = Api::start_in(next).await;
    assert_eq!(api.control.keys(), keys);
    let after: Value = api
        .get("/v1/tenants/default/apps/shop/deployments")
        .await
        .ok();
    assert_eq!(after, before);
    assert!(!data.join("restored").exists());
    api.deploy("shop", 1).await;
}

/// What `archive` holds, as the midge before the first secret would have written it.
fn of_format_1(archive: &[u8]) -> Vec<u8> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if path == BackupManifest::FILE {
            let mut manifest: BackupManifest = serde_json::from_slice(&content).unwrap();
            manifest.format = 1;
            manifest.files.retain(|file| file.path != "keys/secrets");
            content = serde_json::to_vec(&manifest).unwrap();
        }
        if path != "keys/secrets" {
            files.push((path, content));
        }
    }
    let mut older = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        older.append_data(&mut header, path, &content[..]).unwrap();
    }
    older.into_inner().unwrap()
}

#[tokio::test]
async fn a_backup_from_before_there_were_secrets_is_restored_and_given_a_key_for_them() {
    let api = Api::start().await;
    api.version("shop", "ok\none").await;
    let archive = api.raw("POST /v1/backup", &[&bearer(&api.admin)], "").await;
    let keys = api.control.keys();
    api.stop().await;
    let older = of_format_1(&archive.body);
    let next = tempfile::tempdir().unwrap();
    let data = next.path().join("data");
    let manifest = crate::restore(&older[..], &data).unwrap();
    assert_eq!(manifest.format, 1);
    assert_eq!(names(&data.join("keys")), ["catalog.key", "compile.key"]);
    let api = Api::start_in(next).await;
    assert_eq!(api.control.keys(), keys);
    let made = ["catalog.key", "compile.key", "secrets"];
    assert_eq!(names(&data.join("keys")), made);
    api.stop().await;

    // Of today's format it must have one: without it nothing that was sealed could be opened.
    let mut without = of_format_1(&archive.body);
    let place = without.windows(11).position(|w| w == b"\"format\":1,");
    without[place.unwrap() + 9] = b'2';
    let other = tempfile::tempdir().unwrap();
    let refused = crate::restore(&without[..], &other.path().join("data"));
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("it has no `keys/secrets`"), "{text}");
}

#[tokio::test]
async fn a_damaged_backup_restores_nothing() {
    let api = Api::start().await;
    api.version("shop", "ok\none").await;
    let backup = api.control.backup().await.unwrap();
    let mut archive = Vec::new();
    backup.write_to(&mut archive).unwrap();
    let check = |archive: &[u8], part: &str| {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let error = crate::restore(archive, &data).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(
            names(folder.path()).is_empty(),
            "{:?}",
            names(folder.path())
        );
    };
    check(b"", "not a backup");
    check(b"not a tar at all", "not a backup");
    let upload = archive.windows(6).position(|w| w == b"ok\none").unwrap();
    let mut changed = archive.clone();
    changed[upload] ^= 1;
    check(&changed, "digest");
    check(&archive[..upload - 600], "damaged");
    let newer = String::from_utf8_lossy(&archive[..600]).contains("{\"format\":3,");
    assert!(newer);
    let place = archive
        .windows(11)
        .position(|w| w == b"\"format\":3,")
        .unwrap();
    let mut newer = archive.clone();
    newer[place + 9] = b'9';
    check(&newer, "format 9; this midge knows format 3");

    let mut extra = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    extra
        .append_data(&mut header, "../evil", &b"{}"[..])
        .unwrap_err();
    header.set_cksum();
    extra.append_data(&mut header, "evil", &b"{}"[..]).unwrap();
    check(&extra.into_inner().unwrap(), "does not begin with");
}

#[tokio::test]
async fn ten_thousand_apps_open_and_take_a_deployment() {
    let api = Api::start().await;
    api.version("seed", "ok\none").await;
    api.deploy("seed", 1).await;
    let made: Result<(), crate::records::RecordsError> = api
        .platform()
        .records
        .write(|t| {
            t.execute_batch(
                "CREATE TEMP TABLE n AS WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 10000)
                     SELECT 'app-' || i AS name FROM c;
                 INSERT INTO apps (tenant, name, latest, revision, version) SELECT 'default', name, 1, 1, 1 FROM n;
                 INSERT INTO versions SELECT tenant, n.name, number, manifest, wasm, wasm_bytes, kind, imports, created_ms, created_by
                     FROM versions, n WHERE app = 'seed';
                 INSERT INTO deployments SELECT tenant, n.name, revision, version, cause, generation, at_ms, made_by
                     FROM deployments, n WHERE app = 'seed';
                 INSERT INTO routes SELECT n.name || '.localhost', '/', 'default', n.name, 1 FROM n;
                 DROP TABLE n;",
            )?;
            Ok(())
        })
        .await;
    made.unwrap();
    let folder = api.stop().await;
    let api = Api::start_in(folder).await;
    assert_eq!(api.platform().deployer.generation(), 3);
    api.deploy("app-77", 1).await;
}
