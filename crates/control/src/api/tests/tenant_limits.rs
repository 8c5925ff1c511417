//! Limits of a tenant: who may change which to what, what is answered, what nodes are told, and that apps are held to theirs.

use model::api::{TenantLimitsChanged, TenantLimitsSummary};
use model::{OwnLimits, Size};

use super::*;

const LIMITS: &str = "/v1/tenants/default/limits";

impl Api {
    async fn patch(&self, path: &str, body: Value) -> Reply {
        self.patch_as(&self.admin, path, body).await
    }

    async fn patch_as(&self, token: &str, path: &str, body: Value) -> Reply {
        let headers = [&bearer(token)[..], "content-type: application/json"];
        self.raw(&format!("PATCH {path}"), &headers, body.to_string())
            .await
    }

    async fn get_as(&self, token: &str, path: &str) -> Reply {
        self.raw(&format!("GET {path}"), &[&bearer(token)], "")
            .await
    }

    async fn limit(&self, body: Value) -> TenantLimitsChanged {
        self.patch(LIMITS, body).await.ok()
    }

    /// What nodes are told now: the change, and whose limits are what.
    fn limits_told(&self) -> (u64, Vec<(String, OwnLimits)>) {
        let told = self.platform().settings.tenant_limits.borrow();
        let all = told.all.iter().map(|(name, own)| (name.to_string(), *own));
        (told.revision, all.collect())
    }
}

#[tokio::test]
async fn limits_are_shown_changed_one_by_one_and_taken_back() {
    let api = Api::start().await;
    api.tenant("bob").await;
    let shown: Value = api.get(LIMITS).await.ok();
    let platforms = json!({
        "apps": { "value": 100_000, "own": false, "default": 100_000, "ceiling": 100_000, "used": 0 },
        "slots": { "value": 500, "own": false, "default": 500, "ceiling": 1000 },
        "kv_store": { "value": "1GiB", "own": false, "default": "1GiB", "ceiling": "64GiB" },
    });
    assert_eq!(shown, platforms);
    assert_eq!(api.limits_told(), (0, vec![]));

    let changed = api.limit(json!({ "slots": 1000, "apps": 3 })).await;
    assert_eq!((changed.live.nodes, changed.live.of), (0, 0));
    let slots = &changed.limits.slots;
    assert_eq!((slots.value, slots.own, slots.default), (1000, true, 500));
    let changed = api
        .limit(json!({ "kv_store": "0B", "apps": 100_000 }))
        .await;
    let shown: TenantLimitsSummary = api.get(LIMITS).await.ok();
    assert_eq!(changed.limits, shown);
    let mut own = OwnLimits {
        apps: Some(100_000),
        slots: Some(1000),
        kv_store: Some(Size(0)),
    };
    assert_eq!(api.limits_told(), (2, vec![("default".into(), own)]));
    // One that is as the platform's is the tenant's own all the same.
    assert!(shown.apps.own && shown.kv_store.own);

    api.limit(json!({ "slots": null })).await;
    own.slots = None;
    assert_eq!(api.limits_told(), (3, vec![("default".into(), own)]));
    api.limit(json!({})).await;
    assert_eq!(api.limits_told(), (4, vec![("default".into(), own)]));
    api.limit(json!({ "apps": null, "kv_store": null })).await;
    assert_eq!(api.limits_told(), (5, vec![]));
    assert_eq!(api.get(LIMITS).await.ok::<Value>(), platforms);
}

#[tokio::test]
async fn what_is_no_limit_or_beyond_one_is_refused_and_changes_nothing() {
    let api = Api::start_with(tempfile::tempdir().unwrap(), |settings| {
        settings.node_limits.slots = 20;
        settings.node_limits.kv_store = Size::gib(2);
    })
    .await;
    let check = async |body: Value, code: &str, part: &str| {
        let detail = api.patch(LIMITS, body).await.problem(422, code);
        assert!(detail.contains(part), "{detail}");
    };
    let beyond = "limit-out-of-range";
    let all = json!({ "apps": 1, "slots": 21 });
    check(all, beyond, "`slots` is 21; a tenant may be given 20").await;
    check(json!({ "slots": 0 }), beyond, "give it 1 or more").await;
    check(json!({ "apps": 100_001 }), beyond, "the whole platform").await;
    let much = json!({ "kv_store": "65GiB" });
    check(
        much,
        beyond,
        "`kv-store` is 65GiB; a tenant may be given 64GiB",
    )
    .await;
    check(json!({ "apps": -1 }), "body-unfit", "-1").await;
    check(json!({ "apps": "3" }), "body-unfit", "string").await;
    check(json!({ "kv_store": 3 }), "body-unfit", "integer").await;
    check(json!({ "kv_store": "much" }), "body-unfit", "not a size").await;
    check(json!({ "kv-store": "1MiB" }), "body-unfit", "kv-store").await;
    assert_eq!(api.limits_told(), (0, vec![]));
    let shown: TenantLimitsSummary = api.get(LIMITS).await.ok();
    // A tenant has no more slots than there are, and stores as the operator has set them.
    assert_eq!((shown.slots.value, shown.slots.default), (20, 20));
    assert_eq!(shown.kv_store.value, Size::gib(2));

    api.limit(json!({ "slots": 20 })).await;
    let nobody = "/v1/tenants/nobody/limits";
    api.get(nobody).await.problem(404, "tenant-not-found");
    let reply = api.patch(nobody, json!({ "apps": 1 })).await;
    reply.problem(404, "tenant-not-found");
    // Where workers have fewer slots than once, no more than those hold.
    let api = Api::start_with(api.stop().await, |settings| {
        settings.node_limits.slots = 10;
    })
    .await;
    let shown: TenantLimitsSummary = api.get(LIMITS).await.ok();
    assert_eq!((shown.slots.value, shown.slots.own), (10, true));
}

#[tokio::test]
async fn only_an_admin_of_the_platform_changes_limits_and_who_reads_the_tenant_sees_them() {
    let api = Api::start().await;
    api.tenant("bob").await;
    let check = async |scope: Value, may_read: bool, may_change: bool| {
        let token = api.token(scope.clone()).await.token;
        let read = api.get_as(&token, LIMITS).await;
        let changed = api.patch_as(&token, LIMITS, json!({ "apps": 7 })).await;
        for (reply, may) in [(read, may_read), (changed, may_change)] {
            match may {
                true => assert_eq!(reply.status, 200, "{scope}: {reply:?}"),
                false => drop(reply.problem(403, "scope")),
            }
        }
    };
    let of = |tenant: &str, verb: &str| json!({ "tenant": tenant, "verb": verb });
    check(of("default", "read"), true, false).await;
    check(of("default", "admin"), true, false).await;
    check(of("bob", "admin"), false, false).await;
    let of_an_app = json!({ "tenant": "default", "app": "shop", "verb": "admin" });
    check(of_an_app, false, false).await;
    check(json!({ "verb": "read" }), true, false).await;
    check(json!({ "verb": "deploy" }), true, false).await;
    assert_eq!(api.limits_told(), (0, vec![]));
    check(json!({ "verb": "admin" }), true, true).await;
    // Who is let in nowhere learns of no tenant whether it is there.
    let token = api.token(of("bob", "admin")).await.token;
    let nobody = "/v1/tenants/nobody/limits";
    let read = api.get_as(&token, nobody).await;
    read.problem(403, "scope");
    let changed = api.patch_as(&token, nobody, json!({})).await;
    changed.problem(403, "scope");
}

#[tokio::test]
async fn a_tenant_makes_as_many_apps_as_it_may_and_keeps_those_it_has() {
    let api = Api::start().await;
    let make = async |app: &str| {
        api.try_version(app, "ok\none", json!({ "name": app }))
            .await
    };
    let full = async |app: &str, part: &str| {
        let detail = make(app).await.problem(409, "too-many-apps-of-tenant");
        assert!(detail.contains(part), "{detail}");
    };
    api.version("shop", "ok\none").await;
    api.version("blog", "ok\none").await;
    let limited = api.limit(json!({ "apps": 2 })).await;
    assert_eq!(limited.limits.apps.used, Some(2));
    full("third", "the tenant `default` may have 2 apps, and has 2").await;
    api.limit(json!({ "apps": 0 })).await;
    full("third", "may have 0").await;
    // What is there may have further versions, and be deployed.
    assert_eq!(api.version("shop", "ok\ntwo").await, 2);
    api.deploy("shop", 2).await;
    let _: Value = api.delete("/v1/tenants/default/apps/blog").await.ok();
    full("blog", "may have 0 apps, and has 1").await;
    // Others are not held to it.
    api.tenant("bob").await;
    let digest = Digest::of(b"ok\none");
    let line = format!("PUT /v1/tenants/bob/artifacts/{digest}");
    let headers = [&bearer(&api.admin)[..], "content-type: application/wasm"];
    assert_eq!(api.raw(&line, &headers, "ok\none").await.status, 204);
    let body = json!({ "manifest": { "name": "shop" }, "wasm": digest });
    let bobs = api.post("/v1/tenants/bob/apps/shop/versions", body).await;
    assert_eq!(bobs.status, 201, "{bobs:?}");

    api.limit(json!({ "apps": 2 })).await;
    // Of several at once no more come to be than there is room for.
    let (first, second) = tokio::join!(make("one"), make("two"));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    api.limit(json!({ "apps": null })).await;
    api.version("third", "ok\none").await;
}

#[tokio::test]
async fn limits_outlive_a_restart_and_a_backup_and_not_their_tenant() {
    let api = Api::start().await;
    api.limit(json!({ "slots": 7 })).await;
    api.tenant("bob").await;
    let bobs = "/v1/tenants/bob/limits";
    let few = json!({ "apps": 1, "slots": 2, "kv_store": "3KiB" });
    assert_eq!(api.patch(bobs, few).await.status, 200);
    let before = api.limits_told();
    assert_eq!((before.0, before.1.len()), (2, 2));
    let archive = api.raw("POST /v1/backup", &[&bearer(&api.admin)], "").await;
    let api = Api::start_in(api.stop().await).await;
    assert_eq!(api.limits_told(), before);

    let _: Value = api.delete("/v1/tenants/bob").await.ok();
    let left = (3, before.1[1..].to_vec());
    assert_eq!(api.limits_told(), left);
    api.get(bobs).await.problem(404, "tenant-not-found");
    // What is refused changes nothing.
    let again = api.delete("/v1/tenants/bob").await;
    again.problem(404, "tenant-not-found");
    assert_eq!(api.limits_told(), left);
    api.tenant("bob").await;
    let shown: TenantLimitsSummary = api.get(bobs).await.ok();
    assert!(!shown.apps.own && !shown.slots.own && !shown.kv_store.own);
    let api = Api::start_in(api.stop().await).await;
    assert_eq!(api.limits_told(), left);
    api.stop().await;

    let restored = tempfile::tempdir().unwrap();
    crate::restore(&archive.body[..], &restored.path().join("data")).unwrap();
    let api = Api::start_in(restored).await;
    assert_eq!(api.limits_told(), before);
}

#[tokio::test]
async fn a_change_of_limits_is_answered_once_every_node_has_it() {
    let api = Api::start().await;
    // The node of these tests says of limits what it says of generations.
    api.report(0, &[]);
    let setting = api.patch(LIMITS, json!({ "slots": 7 }));
    let reporting = async {
        while api.limits_told().0 < 1 {
            tokio::task::yield_now().await;
        }
        // Refusing a generation keeps no limit away.
        api.report(9, &["a bad root"]);
    };
    let (reply, ()) = tokio::join!(setting, reporting);
    let changed: TenantLimitsChanged = reply.ok();
    assert_eq!((changed.live.nodes, changed.live.of), (1, 1));
    assert!(changed.live.refusals.is_empty());
}
