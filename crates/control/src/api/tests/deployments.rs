//! Versions and deployments: numbers, pointers, routes and what follows from them.

use model::api::{AppSummary, Live};

use super::*;

const APPS: &str = "/v1/tenants/default/apps";

#[tokio::test]
async fn a_version_is_numbered_deployed_and_rolled_back() {
    let api = Api::start().await;
    assert_eq!(api.version("shop", "ok\none").await, 1);
    assert_eq!(api.version("shop", "ok\ntwo").await, 2);
    assert_eq!(api.version("shop", "ok\ntwo").await, 3);
    api.get(&format!("{APPS}/shop/deployment"))
        .await
        .problem(404, "not-deployed");
    let rollback = json!({ "cause": "rollback", "wait": "0ms" });
    let reply = api.try_deploy("shop", rollback.clone()).await;
    reply.problem(409, "no-earlier-version");

    let first = api.deploy("shop", 1).await;
    assert_eq!(first.urls, ["http://shop.localhost:8080/"]);
    assert_eq!(first.deployment.revision, 1);
    let second = api.deploy("shop", 2).await;
    assert_eq!(
        second.deployment.generation,
        first.deployment.generation + 1
    );
    api.deploy("shop", 2).await;
    let back: Deployed = api.try_deploy("shop", rollback.clone()).await.ok();
    assert_eq!(back.deployment.version.as_u32(), 1);
    let again: Deployed = api.try_deploy("shop", rollback).await.ok();
    assert_eq!(again.deployment.version.as_u32(), 2);

    let history: Value = api.get(&format!("{APPS}/shop/deployments")).await.ok();
    let versions: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|d| &d["version"])
        .collect();
    assert_eq!(versions, [2, 1, 2, 2, 1]);
    let app: AppSummary = api.get(&format!("{APPS}/shop")).await.ok();
    assert_eq!((app.revision, app.latest.as_u32()), (5, 3));
    let listed: Vec<AppSummary> = api.get(APPS).await.ok();
    assert_eq!(listed, [app]);
    let now: Deployed = api.get(&format!("{APPS}/shop/deployment")).await.ok();
    assert_eq!(now.deployment, again.deployment);
    api.get(&format!("{APPS}/shop/versions/9"))
        .await
        .problem(404, "version-not-found");
    let unknown = json!({ "version": 9, "cause": "deploy" });
    api.try_deploy("shop", unknown)
        .await
        .problem(404, "version-not-found");
}

#[tokio::test]
async fn of_two_deploys_that_race_one_wins() {
    let api = Api::start().await;
    api.version("shop", "ok\none").await;
    api.version("shop", "ok\ntwo").await;
    let at = |version: u64, expect: u64| json!({ "version": version, "cause": "deploy", "expect": expect, "wait": "0ms" });
    for expect in 0..10 {
        let (one, two) = tokio::join!(
            api.try_deploy("shop", at(1, expect)),
            api.try_deploy("shop", at(2, expect))
        );
        let mut statuses = [one.status, two.status];
        statuses.sort();
        assert_eq!(statuses, [201, 409], "{one:?} {two:?}");
        let lost = if one.status == 409 { one } else { two };
        let detail = lost.problem(409, "deployment-conflict");
        assert!(
            detail.contains(&format!("revision {}", expect + 1)),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn a_deployment_waits_for_the_nodes_and_counts_honestly() {
    let api = Api::start().await;
    api.version("shop", "ok\none").await;
    let unheard = api.deploy("shop", 1).await;
    assert_eq!((unheard.live.nodes, unheard.live.of), (0, 0));
    api.report(unheard.deployment.generation, &[]);
    let body = json!({ "version": 1, "cause": "deploy", "wait": "50ms" });
    let late: Deployed = api.try_deploy("shop", body).await.ok();
    assert_eq!((late.live.nodes, late.live.of), (0, 1));
    let body = json!({ "version": 1, "cause": "deploy" });
    let (made, ()) = tokio::join!(api.try_deploy("shop", body), async {
        while api.platform().deployer.generation() == late.deployment.generation {
            tokio::task::yield_now().await;
        }
        api.report(
            late.deployment.generation + 1,
            &["`default/shop`: too old", "`bob/x`: bad"],
        );
    });
    let live = made.ok::<Deployed>().live;
    assert_eq!((live.nodes, live.of, live.refusals.len()), (1, 1, 2));

    let token = api
        .token(json!({ "tenant": "default", "verb": "read" }))
        .await;
    let reply = api
        .raw(
            &format!("GET {APPS}/shop/deployment"),
            &[&bearer(&token.token)],
            "",
        )
        .await;
    assert_eq!(
        reply.ok::<Deployed>().live.refusals,
        ["`default/shop`: too old"]
    );
}

#[tokio::test]
async fn a_version_is_refused_for_what_it_asks_or_is() {
    let api = Api::start().await;
    let check = async |content: &str, manifest: Value, code: &str| {
        let reply = api.try_version("shop", content, manifest).await;
        reply.problem(422, code);
    };
    let bare = json!({ "name": "shop" });
    check("refuse\n", bare.clone(), "not-wasm").await;
    check("spin\n", bare.clone(), "compile-cpu-limit").await;
    check("", bare.clone(), "compile-failed").await;
    check("ok\nx", json!({ "name": "cart" }), "name-mismatch").await;
    let greedy = json!({ "name": "shop", "limits": { "memory": "1GiB" } });
    check("ok\nx", greedy, "manifest-refused").await;
    let route = json!({ "name": "shop", "route": [{ "host": "cart.localhost" }] });
    check("ok\nx", route, "route-reserved").await;
    let wasm = Digest::of(b"never");
    let body = json!({ "manifest": bare, "wasm": wasm });
    let reply = api.post(&format!("{APPS}/shop/versions"), body).await;
    reply.problem(422, "artifact-missing");
    api.get(&format!("{APPS}/shop"))
        .await
        .problem(404, "app-not-found");

    let wasm = api.upload("denied\nx").await;
    let mut body = json!({ "manifest": bare, "wasm": wasm, "strict": true });
    let reply = api
        .post(&format!("{APPS}/shop/versions"), body.clone())
        .await;
    let detail = reply.problem(422, "import-not-granted");
    assert!(detail.contains("wasi:sockets/tcp@0.2.0"), "{detail}");
    body["strict"] = json!(false);
    let made: Value = api.post(&format!("{APPS}/shop/versions"), body).await.ok();
    assert_eq!(made["imports"][0]["standing"], "denied");
    assert!(names(&api.platform().temporary).is_empty());
}

#[tokio::test]
async fn a_route_belongs_to_one_app_and_a_host_to_one_tenant() {
    let api = Api::start().await;
    api.tenant("bob").await;
    let claim = |name: &str, path: &str| json!({ "name": name, "route": [{ "host": "shop.com", "path": path }] });
    let deploy = async |app: &str, manifest: Value| {
        let made: Value = api.try_version(app, "ok\nx", manifest).await.ok();
        let body = json!({ "version": made["number"], "cause": "deploy", "wait": "0ms" });
        api.try_deploy(app, body).await
    };
    deploy("shop", claim("shop", "/")).await.ok::<Deployed>();
    deploy("cart", claim("cart", "/cart"))
        .await
        .ok::<Deployed>();
    let detail = deploy("till", claim("till", "/cart"))
        .await
        .problem(409, "route-taken");
    assert!(detail.contains("`cart`"), "{detail}");

    let path = "/v1/tenants/bob/apps/spy";
    let wasm = Digest::of(b"ok\nx");
    let line = format!("PUT /v1/tenants/bob/artifacts/{wasm}");
    let headers = [&bearer(&api.admin)[..], "content-type: application/wasm"];
    assert_eq!(api.raw(&line, &headers, "ok\nx").await.status, 204);
    let body = json!({ "manifest": claim("spy", "/spy"), "wasm": wasm });
    api.post(&format!("{path}/versions"), body)
        .await
        .ok::<Value>();
    let body = json!({ "version": 1, "cause": "deploy" });
    let reply = api.post(&format!("{path}/deployments"), body).await;
    let detail = reply.problem(409, "route-taken");
    assert!(
        !detail.contains("default") && !detail.contains("`shop`"),
        "{detail}"
    );

    // A deleted app frees its routes; another version of one does, too.
    deploy("cart", json!({ "name": "cart" }))
        .await
        .ok::<Deployed>();
    deploy("till", claim("till", "/cart"))
        .await
        .ok::<Deployed>();
    api.delete(&format!("{APPS}/till")).await.ok::<Live>();
    deploy("cart", claim("cart", "/cart"))
        .await
        .ok::<Deployed>();
}

#[tokio::test]
async fn a_deleted_app_is_gone_and_its_numbers_stay_used() {
    let api = Api::start().await;
    api.version("shop", "ok\none").await;
    let made = api.deploy("shop", 1).await;
    let live: Live = api.delete(&format!("{APPS}/shop")).await.ok();
    assert_eq!(live.of, 0);
    assert_eq!(
        api.platform().deployer.generation(),
        made.deployment.generation + 1
    );
    api.delete(&format!("{APPS}/shop"))
        .await
        .problem(404, "app-not-found");
    api.get(&format!("{APPS}/shop/versions"))
        .await
        .problem(404, "app-not-found");
    assert_eq!(api.get(APPS).await.ok::<Value>(), json!([]));

    assert_eq!(api.version("shop", "ok\none").await, 2);
    let body = json!({ "version": 2, "cause": "deploy", "expect": 0, "wait": "0ms" });
    let again: Deployed = api.try_deploy("shop", body).await.ok();
    assert_eq!(again.deployment.revision, 2);
}

#[tokio::test]
async fn old_versions_go_but_what_is_served_and_what_was_before_it_stay() {
    let api = Api::start().await;
    for i in 1..=3 {
        api.version("shop", &format!("ok\n{i}")).await;
    }
    api.deploy("shop", 2).await;
    api.deploy("shop", 1).await;
    for i in 4..=7 {
        api.version("shop", &format!("ok\n{i}")).await;
    }
    let listed: Value = api.get(&format!("{APPS}/shop/versions")).await.ok();
    let numbers: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["number"])
        .collect();
    assert_eq!(numbers, [7, 6, 5, 2, 1]);
    let back: Deployed = api
        .try_deploy("shop", json!({ "cause": "rollback", "wait": "0ms" }))
        .await
        .ok();
    assert_eq!(back.deployment.version.as_u32(), 2);
}

#[tokio::test]
async fn a_version_never_changes() {
    let api = Api::start().await;
    api.version("shop", "ok\none").await;
    let changed: Result<(), crate::records::RecordsError> = api
        .platform()
        .records
        .write(|t| {
            t.execute("UPDATE versions SET wasm_bytes = 0", [])?;
            Ok(())
        })
        .await;
    let text = changed.unwrap_err().to_string();
    assert!(text.contains("a version never changes"), "{text}");
}
