//! Secrets: who may set which, what is answered, what nodes are told, and that no value is kept or repeated.

use model::api::{SecretChanged, SecretSummary};
use model::{Secrets, TenantName};

use super::*;

const TENANT: &str = "/v1/tenants/default/secrets";
const BYTES: &str = "content-type: application/octet-stream";

impl Api {
    async fn put_secret(&self, path: &str, value: impl Into<Vec<u8>>) -> Reply {
        let headers = [&bearer(&self.admin)[..], BYTES, "idempotency-key: once"];
        self.raw(&format!("PUT {path}"), &headers, value).await
    }

    async fn set_secret(&self, name: &str, value: &str) -> SecretChanged {
        self.put_secret(&format!("{TENANT}/{name}"), value)
            .await
            .ok()
    }

    /// What nodes are told now: each secret's tenant, name and value.
    fn told(&self) -> (u64, Vec<String>) {
        let Secrets { revision, all } = &**self.platform().settings.secrets.borrow();
        let one = |secret: &Arc<model::Secret>| {
            let model::SecretId { tenant, name } = &secret.id;
            format!("{tenant}/{name}={}", secret.text.expose())
        };
        (*revision, all.values().map(one).collect())
    }
}

#[tokio::test]
async fn a_secret_is_set_replaced_listed_and_deleted_and_nodes_are_told() {
    let api = Api::start().await;
    let path = format!("{TENANT}/stripe-key");
    let reply = api.put_secret(&path, "one").await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let set: SecretChanged = reply.json();
    assert_eq!(set.secret.granted, []);
    assert_eq!((set.live.nodes, set.live.of), (0, 0));
    assert_eq!(api.told(), (1, vec!["default/stripe-key=one".into()]));

    api.pass(model::Millis(5));
    let reply = api.put_secret(&path, "two").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let again: SecretChanged = reply.json();
    assert_eq!(again.secret.revision, 2);
    assert_eq!(again.secret.set_ms, set.secret.set_ms + 5);
    let listed: Vec<SecretSummary> = api.get(TENANT).await.ok();
    assert_eq!(listed, std::slice::from_ref(&again.secret));
    api.tenant("bob").await;
    let bobs = "/v1/tenants/bob/secrets/stripe-key";
    assert_eq!(api.put_secret(bobs, "bobs").await.status, 201);
    let both = ["bob/stripe-key=bobs", "default/stripe-key=two"];
    assert_eq!(api.told(), (3, both.map(str::to_owned).to_vec()));

    let gone: SecretChanged = api.delete(&path).await.ok();
    assert_eq!(gone.secret, again.secret);
    assert_eq!(api.told(), (4, vec!["bob/stripe-key=bobs".into()]));
    api.delete(&path).await.problem(404, "secret-not-found");
    let listed: Value = api.get(TENANT).await.ok();
    assert_eq!(listed, json!([]));
    let nobody = "/v1/tenants/nobody/secrets";
    api.get(nobody).await.problem(404, "tenant-not-found");
    let nobodys = api.put_secret(&format!("{nobody}/key"), "x").await;
    nobodys.problem(404, "tenant-not-found");
    for name in ["Key", "a_b", "a.b", "%2e%2e", "-"] {
        let reply = api.put_secret(&format!("{TENANT}/{name}"), "x").await;
        reply.problem(400, "path-malformed");
    }
}

#[tokio::test]
async fn what_is_set_is_there_after_a_restart_and_numbers_go_on() {
    let api = Api::start().await;
    api.set_secret("a", "one").await;
    api.set_secret("b", "two").await;
    let path = format!("{TENANT}/b");
    let _: SecretChanged = api.delete(&path).await.ok();
    let before = api.told();
    assert_eq!(before, (3, vec!["default/a=one".into()]));
    let api = Api::start_in(api.stop().await).await;
    assert_eq!(api.told(), before);
    assert_eq!(api.set_secret("b", "three").await.secret.revision, 4);
}

#[tokio::test]
async fn who_holds_the_records_alone_reads_no_secret_and_finds_none_out() {
    let api = Api::start().await;
    // Short enough to be found by its digest, if there were one of the request.
    let value = "tr0ub4dor";
    api.set_secret("a", value).await;
    let data = api.folder.path().join("data");
    let folder = api.stop().await;
    let records = rusqlite::Connection::open(data.join("records.db")).unwrap();
    let replies: i64 = records
        .query_row("SELECT count(*) FROM replies", [], |row| row.get(0))
        .unwrap();
    assert_eq!(replies, 0);
    drop(records);
    for file in ["records.db", "records.db-wal"] {
        let bytes = std::fs::read(data.join(file)).unwrap_or_default();
        let found = bytes.windows(value.len()).any(|at| at == value.as_bytes());
        assert!(!found, "{file}");
    }

    // A sealed value opens in its own place alone.
    let records = crate::records::Records::open(&data.join("records.db")).unwrap();
    records
        .write(|t| {
            t.execute(
                "INSERT INTO secrets (tenant, name, revision, value, bytes, set_ms, set_by)
                 SELECT tenant, 'b', revision, value, bytes, set_ms, set_by FROM secrets",
                [],
            )?;
            Ok::<_, crate::records::RecordsError>(())
        })
        .await
        .unwrap();
    records.close().await;
    let notices = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = notices.clone();
    let api = Api::start_with(folder, |settings| {
        settings.notice = Arc::new(move |text| told.lock().unwrap().push(text.to_owned()));
    })
    .await;
    assert_eq!(api.told().1, [format!("default/a={value}")]);
    let notices = notices.lock().unwrap().join("\n");
    let part = "the secret `b` of the tenant `default` cannot be opened with `keys/secrets`";
    assert!(notices.contains(part), "{notices}");
    assert!(!notices.contains(value), "{notices}");
}

#[tokio::test]
async fn only_who_may_deploy_in_the_whole_tenant_sets_a_secret_and_only_an_admin_deletes() {
    let api = Api::start().await;
    api.tenant("bob").await;
    api.set_secret("key", "one").await;
    let check = async |scope: Value, allowed: [bool; 3]| {
        let token = bearer(&api.token(scope.clone()).await.token);
        let path = format!("{TENANT}/key");
        let asked = [
            (format!("GET {TENANT}"), ""),
            (format!("PUT {path}"), "two"),
            (format!("DELETE {path}"), ""),
        ];
        for ((line, body), allowed) in asked.into_iter().zip(allowed) {
            let reply = api.raw(&line, &[&token, BYTES], body).await;
            match allowed {
                true => assert!(reply.status < 300, "{scope} {line}: {reply:?}"),
                false => drop(reply.problem(403, "scope")),
            }
        }
    };
    check(json!({ "verb": "read" }), [true, false, false]).await;
    let of = |tenant: &str, verb: &str| json!({ "tenant": tenant, "verb": verb });
    check(of("default", "read"), [true, false, false]).await;
    check(of("default", "deploy"), [true, true, false]).await;
    check(of("bob", "admin"), [false, false, false]).await;
    let of_an_app = json!({ "tenant": "default", "app": "shop", "verb": "admin" });
    check(of_an_app, [false, false, false]).await;
    check(of("default", "admin"), [true, true, true]).await;
}

#[tokio::test]
async fn what_is_no_secret_is_refused_without_a_word_of_it() {
    let api = Api::start().await;
    let path = format!("{TENANT}/key");
    let check = async |value: Vec<u8>, status: u16, code: &str, part: &str| {
        let problem = api.put_secret(&path, value).await.problem(status, code);
        assert!(problem.contains(part), "{}", problem);
        assert!(!problem.contains("hunter"), "{}", problem);
    };
    check(vec![], 422, "secret-unusable", "the value is empty").await;
    check(b"hunter\xff".to_vec(), 422, "secret-unusable", "its byte 6").await;
    let large = "hunter2".repeat(10_000).into_bytes();
    check(large, 413, "secret-too-large", "a secret may have 64KiB").await;
    let larger = vec![b'x'; 2 << 20];
    check(larger, 413, "body-too-large", "1MiB").await;
    let most = "x".repeat(limits::SECRET.default.as_usize());
    api.set_secret("key", &most).await;
    // Any text, whatever its characters.
    api.set_secret("key", "a\0\r\n\u{1b}é").await;
    let headers = [&bearer(&api.admin)[..], "content-type: application/json"];
    let json = api.raw(&format!("PUT {path}"), &headers, "\"x\"").await;
    json.problem(415, "media-type");
}

#[tokio::test]
async fn a_tenant_and_the_platform_have_room_for_so_many() {
    let api = Api::start().await;
    let most = limits::SECRETS_TENANT.default;
    for number in 0..most {
        api.set_secret(&format!("key-{number}"), "x").await;
    }
    let path = format!("{TENANT}/one-more");
    let refused = api.put_secret(&path, "x").await;
    let problem = refused.problem(409, "too-many-secrets");
    assert!(problem.contains("100"), "{}", problem);
    // What is there can be replaced, and other tenants have room of their own.
    api.set_secret("key-7", "y").await;
    api.tenant("bob").await;
    let bobs = api.put_secret("/v1/tenants/bob/secrets/key", "x").await;
    assert_eq!(bobs.status, 201);

    let tenants = limits::SECRETS_TENANTS.default.bytes() / limits::SECRET.default.bytes() / most;
    let large = "x".repeat(limits::SECRET.default.as_usize());
    let platform = api.platform();
    let full = async {
        for number in 0..=tenants {
            let tenant: TenantName = format!("t{number}").parse().unwrap();
            crate::tenants::create(platform, tenant.clone())
                .await
                .unwrap();
            for number in 0..most {
                let id = model::SecretId {
                    tenant: tenant.clone(),
                    name: format!("key-{number}").parse().unwrap(),
                };
                let text = model::SecretText::new(large.as_bytes().to_vec().into()).unwrap();
                if let Err(error) = crate::secrets::set(platform, id, text, String::new()).await {
                    return error;
                }
            }
        }
        panic!("there is always room");
    };
    let text = full.await.to_string();
    assert!(text.contains("64MiB"), "{text}");
    let refused = api.put_secret("/v1/tenants/bob/secrets/more", large).await;
    refused.problem(507, "secrets-full");
}

#[tokio::test]
async fn a_change_is_answered_once_every_node_has_it_and_says_who_is_granted_it() {
    let api = Api::start().await;
    let manifest = json!({ "name": "shop", "grant": { "secrets": ["key", "other"] } });
    let made = api.try_version("shop", "ok\ncode", manifest).await;
    let made: Value = made.ok();
    let body = json!({ "version": made["number"], "cause": "deploy", "wait": "0ms" });
    let deployed: Deployed = api.try_deploy("shop", body).await.ok();
    let missing: Vec<_> = deployed
        .secrets_missing
        .iter()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(missing, ["key", "other"]);

    // The node of these tests says of secrets what it says of generations.
    api.report(0, &[]);
    let path = format!("{TENANT}/key");
    let setting = api.put_secret(&path, "one");
    let reporting = async {
        while api.told().0 < 1 {
            tokio::task::yield_now().await;
        }
        // Refusing a generation keeps no secret away.
        api.report(9, &["a bad root"]);
    };
    let (reply, ()) = tokio::join!(setting, reporting);
    let set: SecretChanged = reply.ok();
    assert_eq!((set.live.nodes, set.live.of), (1, 1));
    assert!(set.live.refusals.is_empty());
    let granted: Vec<_> = set.secret.granted.iter().map(|app| app.as_str()).collect();
    assert_eq!(granted, ["shop"]);
    let now: Deployed = api
        .get("/v1/tenants/default/apps/shop/deployment")
        .await
        .ok();
    let missing: Vec<_> = now
        .secrets_missing
        .iter()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(missing, ["other"]);
}

#[tokio::test]
async fn a_deleted_tenants_secrets_go_with_it_and_the_next_of_its_name_has_none() {
    let api = Api::start().await;
    api.set_secret("kept", "one").await;
    api.tenant("bob").await;
    let bobs = "/v1/tenants/bob/secrets";
    let reply = api.put_secret(&format!("{bobs}/key"), "bobs").await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let left = vec!["default/kept=one".to_owned()];
    let _: Value = api.delete("/v1/tenants/bob").await.ok();
    assert_eq!(api.told(), (3, left.clone()));
    // What is refused changes nothing.
    let again = api.delete("/v1/tenants/bob").await;
    again.problem(404, "tenant-not-found");
    assert_eq!(api.told(), (3, left.clone()));
    api.tenant("bob").await;
    let listed: Value = api.get(bobs).await.ok();
    assert_eq!(listed, json!([]));
    let reply = api.put_secret(&format!("{bobs}/key"), "another").await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let api = Api::start_in(api.stop().await).await;
    let both = ["bob/key=another", "default/kept=one"];
    assert_eq!(api.told(), (4, both.map(str::to_owned).to_vec()));
}
