//! `openapi.json` and the API say the same.

use std::collections::{BTreeMap, BTreeSet};

use model::api;
use model::pipe::Inspection;

use super::*;

fn description() -> Value {
    serde_json::from_str(super::super::platform::OPENAPI).unwrap()
}

#[tokio::test]
async fn every_operation_is_described_and_every_description_is_served() {
    let api = Api::start().await;
    let served: BTreeSet<_> = operations(api.platform())
        .into_iter()
        .map(|(method, path, _)| format!("{method} {}", full_path(path)))
        .collect();
    let mut described = BTreeSet::new();
    for (path, methods) in description()["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            described.insert(format!("{method} {path}"));
            let open = operation.get("security") == Some(&json!([]));
            let path = path.replace("{number}", "1").replace(['{', '}'], "");
            let line = format!("{} {path}", method.to_uppercase());
            let reply = api.raw(&line, &[], "").await;
            assert_eq!(reply.status != 401, open, "{line}: {}", reply.status);
        }
    }
    assert_eq!(described, served);
    let reply = api.raw("GET /v1/openapi.json", &[], "").await;
    assert_eq!(reply.ok::<Value>(), description());
}

/// The fields of every body, with every field set.
fn bodies() -> BTreeMap<&'static str, Value> {
    let version = json!({
        "number": 1,
        "manifest": { "name": "a", "component": "a.wasm", "build": "make", "route": [{ "host": "a.b", "path": "/x" }],
                      "grant": { "env": { "a": "b" }, "config": { "a": "b" }, "kv": ["a"], "secrets": ["b"] },
                      "limits": { "cpu": "1ms", "wall": "1s", "memory": "1MiB" },
                      "reply": { "compress": ["br", "zstd", "gzip"] },
                      "reuse": { "requests": 1, "concurrent": 1, "idle": "1s" } },
        "wasm": Digest::of(b"a"), "wasm_bytes": 1, "kind": "http-component",
        "imports": [{ "standing": "free", "name": "a" }], "created_ms": 1, "created_by": "a",
    });
    let deployment = json!({ "revision": 1, "version": 1, "cause": "deploy", "generation": 1, "at_ms": 1, "by": "a" });
    let live = json!({ "nodes": 1, "of": 1, "elapsed_ms": 1, "refusals": ["a"] });
    let scope = json!({ "tenant": "a", "app": "a", "verb": "read" });
    let token = json!({ "id": "a", "label": "a", "scope": scope, "created_ms": 1, "expires_ms": 1, "last_used_ms": 1 });
    let node = json!({ "name": "a", "generation": 1, "secrets": 1, "limits": 1, "workers": 1, "worker_restarts": 1, "listen": "a" });
    let count = json!({ "value": 1, "own": true, "default": 1, "ceiling": 1, "used": 1 });
    let size =
        json!({ "value": "1B", "own": true, "default": "1B", "ceiling": "1B", "used": "1B" });
    let limits = json!({ "apps": count, "slots": count, "kv_store": size });
    let usage = json!({ "cpu_us": 1, "wall_us": 1, "instantiate_us": 1, "memory_bytes": 1, "bytes_in": 1, "bytes_out": 1 });
    let done = json!({ "method": "GET", "host": "a", "path": "/", "status": 1, "outcome": "ok", "usage": usage, "cold": true, "client": "a" });
    let record = json!({ "time_ms": 1, "tenant": "a", "app": "a", "version": 1, "digest": Digest::of(b"a"),
                         "request": "a", "trace": "4bf92f3577b34da6a3ce929d0e0e4736", "stream": "stdout", "text": "a", "done": done });
    BTreeMap::from([
        (
            "Problem",
            same::<api::Problem>(
                json!({ "type": "a", "code": "a", "title": "a", "status": 1, "detail": "a" }),
            ),
        ),
        ("NewTenant", same::<api::NewTenant>(json!({ "name": "a" }))),
        (
            "NewTenantLimits",
            same::<api::NewTenantLimits>(json!({ "apps": 1, "slots": null, "kv_store": "1B" })),
        ),
        ("CountLimit", same::<api::LimitSummary<u64>>(count)),
        ("SizeLimit", same::<api::LimitSummary<model::Size>>(size)),
        (
            "TenantLimitsSummary",
            same::<api::TenantLimitsSummary>(limits.clone()),
        ),
        (
            "TenantLimitsChanged",
            same::<api::TenantLimitsChanged>(json!({ "limits": limits, "live": live })),
        ),
        ("Missing", same::<api::Missing>(json!({ "digests": [] }))),
        (
            "RouteClaim",
            same::<model::RouteClaim>(version["manifest"]["route"][0].clone()),
        ),
        (
            "Grants",
            same::<model::Grants>(version["manifest"]["grant"].clone()),
        ),
        (
            "AppLimits",
            same::<AppLimits>(version["manifest"]["limits"].clone()),
        ),
        (
            "Reuse",
            same::<model::Reuse>(version["manifest"]["reuse"].clone()),
        ),
        (
            "Replies",
            same::<model::Replies>(version["manifest"]["reply"].clone()),
        ),
        (
            "Manifest",
            same::<model::Manifest>(version["manifest"].clone()),
        ),
        (
            "NewVersion",
            same::<api::NewVersion>(
                json!({ "manifest": version["manifest"], "wasm": version["wasm"], "strict": true }),
            ),
        ),
        (
            "Import",
            same::<model::Import>(version["imports"][0].clone()),
        ),
        ("Version", same::<model::Version>(version.clone())),
        (
            "NewDeployment",
            same::<api::NewDeployment>(
                json!({ "version": 1, "cause": "deploy", "expect": 1, "wait": "1s" }),
            ),
        ),
        ("Deployment", same::<model::Deployment>(deployment.clone())),
        ("Live", same::<api::Live>(live.clone())),
        (
            "Deployed",
            same::<api::Deployed>(
                json!({ "deployment": deployment, "live": live, "urls": ["a"], "secrets_missing": ["a"] }),
            ),
        ),
        (
            "AppSummary",
            same::<api::AppSummary>(
                json!({ "tenant": "a", "app": "a", "urls": ["a"], "version": 1, "revision": 1, "deployed_ms": 1, "latest": 1 }),
            ),
        ),
        (
            "KvStoreSummary",
            same::<api::KvStoreSummary>(json!({ "store": "a", "keys": 1, "bytes": 1 })),
        ),
        (
            "KvItem",
            same::<api::KvItem>(json!({ "key": "a", "bytes": 1, "revision": 1, "expires_ms": 1 })),
        ),
        (
            "KeyPage",
            same::<model::KeyPage>(json!({ "keys": ["a"], "more": true })),
        ),
        ("Scope", same::<api::Scope>(scope.clone())),
        (
            "NewToken",
            same::<api::NewToken>(json!({ "label": "a", "scope": scope, "expires_in": "1s" })),
        ),
        ("TokenSummary", same::<api::TokenSummary>(token.clone())),
        (
            "CreatedToken",
            same::<CreatedToken>(json!({ "token": "a", "summary": token })),
        ),
        (
            "NewCertificate",
            same::<api::NewCertificate>(json!({ "chain": "a", "key": "a" })),
        ),
        (
            "CertificateSummary",
            same::<api::CertificateSummary>(
                json!({ "name": "a", "hosts": ["*.a"], "shown_for": ["a.b"], "not_before_ms": 1, "not_after_ms": 1,
                        "fingerprint": Digest::of(b"a"), "created_ms": 1 }),
            ),
        ),
        (
            "SecretSummary",
            same::<api::SecretSummary>(
                json!({ "name": "a", "revision": 1, "set_ms": 1, "granted": ["a"] }),
            ),
        ),
        (
            "SecretChanged",
            same::<api::SecretChanged>(json!({
                "secret": { "name": "a", "revision": 1, "set_ms": 1, "granted": ["a"] },
                "live": live,
            })),
        ),
        ("NodeStatus", same::<NodeStatus>(node.clone())),
        (
            "Status",
            same::<api::Status>(
                json!({ "version": "1", "generation": 1, "domain": "a.b", "apps": 1, "nodes": [node] }),
            ),
        ),
        (
            "AppUsage",
            same::<api::AppUsage>(serde_json::to_value(used("a", "a")).unwrap()),
        ),
        (
            "PlatformUsage",
            same::<api::PlatformUsage>(
                json!({ "at_ms": 1, "latency_bounds_us": [1], "apps": [used("a", "a")] }),
            ),
        ),
        ("Usage", same::<model::Usage>(done["usage"].clone())),
        ("RequestRecord", same::<model::RequestRecord>(done)),
        ("LogRecord", same::<model::LogRecord>(record)),
    ])
}

/// `sample`, if a `T` reads it and writes all of it and nothing else.
fn same<T: serde::Serialize + DeserializeOwned>(sample: Value) -> Value {
    let read: T =
        serde_json::from_value(sample.clone()).unwrap_or_else(|e| panic!("{e}: {sample}"));
    assert_eq!(serde_json::to_value(&read).unwrap(), sample);
    sample
}

#[test]
fn every_field_is_described() {
    let description = description();
    let schemas = description["components"]["schemas"].as_object().unwrap();
    let bodies = bodies();
    for (name, body) in &bodies {
        let keys = |value: &Value| -> BTreeSet<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(keys(&schemas[*name]["properties"]), keys(body), "{name}");
    }
    for (name, schema) in schemas {
        let described = schema.get("properties").is_some();
        assert_eq!(described, bodies.contains_key(&name[..]), "{name}");
    }
}

#[test]
fn every_closed_word_is_described() {
    let description = description();
    let words = |pointer: &str| description.pointer(pointer).unwrap().clone();
    let all = |words: &[&str], read: &dyn Fn(Value) -> bool| {
        assert!(words.iter().all(|word| read(json!(word))));
        json!(words)
    };
    let at = "/components/schemas";
    assert_eq!(
        words(&format!("{at}/Version/properties/kind/enum")),
        all(
            &[
                "http-component",
                "http-service",
                "command-module",
                "command-component",
            ],
            &|word| {
                let inspection =
                    json!({ "kind": word, "componentized": false, "imports": [], "exports": [] });
                serde_json::from_value::<Inspection>(inspection).is_ok()
            }
        )
    );
    assert_eq!(
        words(&format!("{at}/Scope/properties/verb/enum")),
        all(&["read", "deploy", "admin"], &|word| {
            serde_json::from_value::<api::Verb>(word).is_ok()
        })
    );
    let codings = model::Coding::ALL.map(model::Coding::as_str);
    assert_eq!(
        words(&format!("{at}/Replies/properties/compress/items/enum")),
        all(&codings, &|word| serde_json::from_value::<model::Coding>(
            word
        )
        .is_ok())
    );
    assert_eq!(
        words(&format!("{at}/Cause/enum")),
        all(&["deploy", "rollback"], &|word| serde_json::from_value::<
            model::DeploymentCause,
        >(word)
        .is_ok())
    );
}

/// Every code that a refusal may have stands in the guide, which says what to do.
#[test]
fn every_code_of_a_problem_is_explained() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = std::fs::read_to_string(root.join("../../docs/guide/errors.md")).unwrap();
    let mut found = 0;
    for file in std::fs::read_dir(root.join("src/api")).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        for (at, comma) in source.match_indices(", \"") {
            let status = source.as_bytes()[..at].last_chunk::<3>();
            let is_status = status.is_some_and(|status| status.iter().all(u8::is_ascii_digit));
            let rest = &source[at + comma.len()..];
            let code = rest.split('"').next().unwrap_or_default();
            if is_status {
                found += 1;
                assert!(guide.contains(&format!("`{code}`")), "{code} of {path:?}");
            }
        }
    }
    assert!(found > 50, "{found}");
}
