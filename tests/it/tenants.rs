//! Tenants: each has apps, tokens, hosts and limits of its own, and sees and changes nothing of another's.

use std::time::Duration;

use serde_json::json;
use tests::{Api, Connection, Guest, Platform, Ran, bare, eventually, guest, manifest_of};

use crate::secrets::{Twice, put};

#[test]
fn two_tenants_know_nothing_of_each_other() {
    let platform = Platform::start();
    let (alice, bob) = (
        platform.api.new_tenant("alice"),
        platform.api.new_tenant("bob"),
    );
    alice.deploy(&bare("shop"), &guest("hello"));
    bob.deploy(&bare("shop"), &guest("headers"));
    platform
        .get("shop.alice", "/")
        .is(200)
        .says("Hello, Midge!\n");
    platform.get("shop.bob", "/").is(200).mentions("method GET");

    // Whatever bob's token asks of alice, it is refused, and for all it says she may not be there.
    for (method, path, body) in [
        ("GET", "apps", None),
        ("GET", "apps/shop", None),
        ("GET", "apps/shop/versions", None),
        ("GET", "apps/shop/deployments", None),
        ("GET", "apps/shop/deployment", None),
        ("GET", "apps/shop/logs", None),
        ("DELETE", "apps/shop", None),
        (
            "POST",
            "apps/shop/deployments",
            Some(json!({ "version": 1, "cause": "deploy" })),
        ),
        ("POST", "artifacts/missing", Some(json!({ "digests": [] }))),
    ] {
        for tenant in ["alice", "nobody"] {
            let path = format!("tenants/{tenant}/{path}");
            bob.ask(method, &path, body.clone())
                .refuses(403, "scope", "yours does not");
        }
    }
    bob.of("alice")
        .publish_or_refuse(&bare("shop"), &guest("headers"))
        .refuses(403, "scope", "yours does not");
    assert_eq!(bob.get("tenants").is(200).json, json!(["bob"]));
    let another = json!({ "name": "carol" });
    bob.ask("POST", "tenants", Some(another))
        .refuses(403, "scope", "the platform");
    let for_alice = json!({ "scope": { "tenant": "alice", "verb": "read" } });
    bob.ask("POST", "tokens", Some(for_alice))
        .refuses(403, "scope", "within its own scope");

    // Alice's upload is hers: who only knows its digest has not got it.
    let digest = model::Digest::of(&guest("hello"));
    bob.new_version(&bare("thief"), digest).refuses(
        422,
        "artifact-missing",
        "not uploaded by this tenant",
    );
    platform
        .get("shop.alice", "/")
        .is(200)
        .says("Hello, Midge!\n");
}

#[test]
fn a_host_belongs_to_the_tenant_that_claimed_it() {
    let platform = Platform::start();
    let (alice, bob) = (
        platform.api.new_tenant("alice"),
        platform.api.new_tenant("bob"),
    );
    let claim = |host: &str| manifest_of("shop", &format!("[[route]]\nhost = '{host}'\n"));
    alice.deploy(&claim("shop.example"), &guest("hello"));
    let version = bob.publish(&claim("other.example"), &guest("headers"));
    bob.serve("shop", version.number, model::DeploymentCause::Deploy);
    let taken = bob.publish(&claim("shop.example"), &guest("headers"));
    let deploy = model::DeploymentCause::Deploy;
    bob.move_to("shop", Some(taken.number), deploy, None)
        .refuses(409, "route-taken", "another tenant");
    bob.publish_or_refuse(&claim("shop.alice.localhost"), &guest("headers"))
        .refuses(422, "route-reserved", "shop.bob.localhost");
    let ask = |host: &str| {
        let mut connection = tests::Connection::open(platform.listen, host).unwrap();
        connection.get("/").unwrap()
    };
    ask("shop.example").is(200).says("Hello, Midge!\n");
    ask("other.example").is(200).mentions("method GET");
}

#[test]
fn the_command_line_makes_tenants_and_deploys_for_them() {
    let platform = Platform::start();
    let file = platform.folder().join("shop.wasm");
    std::fs::write(&file, guest("hello")).unwrap();
    let file = file.to_str().unwrap();
    platform
        .run(&["deploy", file, "--tenant", "alice"])
        .exits(3)
        .says("there is no tenant `alice`")
        .says("midge tenant list");
    platform
        .run(&["tenant", "create", "alice"])
        .exits(0)
        .says("made the tenant alice");
    platform
        .run(&["tenant", "create", "alice"])
        .exits(3)
        .says("there is a tenant `alice` already");
    platform.run(&["deploy", file]).exits(0);
    platform
        .run(&["deploy", file, "--tenant", "alice"])
        .exits(0)
        .says("shop.alice.localhost");
    platform.get("shop.alice", "/").is(200);
    platform
        .run(&["delete", "shop", "--yes", "--tenant", "alice"])
        .exits(0);
    platform.get("shop.alice", "/").is(404);
    platform.get("shop", "/").is(200);
    platform.run(&["tenant", "list"]).exits(0).says("alice");
    let listed = platform.run(&["tenant", "list", "--json"]).exits(0).json();
    assert_eq!(listed, json!(["alice", "default"]));
}

const GRANT: &str = "grant = { kv = ['default'] }";

#[test]
fn a_tenant_that_is_deleted_takes_everything_of_its_own_along() {
    let platform = Platform::start();
    let alice = platform.api.new_tenant("alice");
    platform.api.new_tenant("bob");
    alice.deploy(&manifest_of("shop", GRANT), &guest("kv_spin"));
    alice.deploy(&bare("hello"), &guest("hello"));
    platform.deploy("hello", &guest("hello"));
    platform.post("shop.alice", "/set/default?k", b"v").is(200);
    platform
        .run(&["tenant", "delete", "alice"])
        .exits(2)
        .says("--yes");
    platform
        .run(&["tenant", "delete", "alice", "--yes"])
        .exits(3)
        .says("has 2 apps");
    platform.get("hello.alice", "/").is(200);
    alice.get("tenants/alice/apps").is(200);
    platform
        .run(&["tenant", "delete", "default", "--with-apps", "--yes"])
        .exits(3)
        .says("began with");
    alice
        .ask("DELETE", "/v1/tenants/alice?with-apps=true", None)
        .refuses(403, "scope", "the platform");

    platform
        .run(&["tenant", "delete", "alice", "--with-apps", "--yes"])
        .exits(0)
        .says("deleted the tenant alice");
    for app in ["shop.alice", "hello.alice"] {
        platform.get(app, "/").is(404);
    }
    alice
        .get("tenants/alice/apps")
        .refuses(401, "token-revoked", "");
    let listed = platform.run(&["tenant", "list", "--json"]).exits(0).json();
    assert_eq!(listed, json!(["bob", "default"]));
    platform
        .run(&["tenant", "delete", "alice", "--with-apps", "--yes"])
        .exits(3)
        .says("there is no tenant `alice`");
    platform.get("hello", "/").is(200);
    // One that has no apps goes by itself.
    platform.run(&["tenant", "delete", "bob", "--yes"]).exits(0);

    // Who comes after it begins with nothing of it, and old tokens stay ended.
    let again = platform.api.new_tenant("alice");
    assert_eq!(again.get("tenants/alice/apps").is(200).json, json!([]));
    alice
        .get("tenants/alice/apps")
        .refuses(401, "token-revoked", "");
    let unknown = model::Digest::of(&guest("hello"));
    again.new_version(&bare("hello"), unknown).refuses(
        422,
        "artifact-missing",
        "not uploaded by this tenant",
    );
    again.deploy(&manifest_of("shop", GRANT), &guest("kv_spin"));
    platform
        .post("shop.alice", "/get/default?k", b"")
        .is(200)
        .says("none");
}

/// Requests of three apps of one tenant, each amid what it does with what it was granted.
struct InFlight {
    held: Connection,
    reads: Twice,
    late: Connection,
}

impl InFlight {
    fn begin(platform: &Platform, alice: &Api) -> Self {
        let grants = [
            ("shop", "kv_spin", GRANT),
            ("reads", "config", "grant = { secrets = ['stripe-key'] }"),
            (
                "asks",
                "fetch",
                "grant = { http = ['http://*.app.internal'] }",
            ),
        ];
        for (app, wasm, grant) in grants {
            alice.deploy(&manifest_of(app, grant), &guest(wasm));
        }
        put(alice, "stripe-key", "old");
        platform
            .post("shop.alice", "/set/default?k", b"old")
            .is(200);
        let waits = |app: &str, path: &str| {
            let mut connection = platform.connect(app);
            let length = "content-length: 5\r\n";
            connection.send_head("POST", path, length).unwrap();
            connection
        };
        let begun = Self {
            held: waits("shop.alice", "/held/default?late"),
            reads: Twice::begin(platform, "reads.alice", "Ok(Some(\"old\"))"),
            late: waits("asks.alice", "/late/shop/end"),
        };
        let held = alice.path("apps/shop/kv/default/held");
        eventually("all of them run", || {
            let opened = alice.get(&held).reply.status() == 200;
            (opened && platform.metric("midge_live_instances") == 3.0).then_some(())
        });
        begun
    }

    /// Each goes on with what it had, and finds nothing of who has its names now.
    fn go_on(mut self) {
        self.held.send(b"value").unwrap();
        self.held.reply("POST").unwrap().is(200).says("set");
        self.reads.reads_again("Ok(None)");
        self.late.send(b"value").unwrap();
        let asked = self.late.reply("POST").unwrap().is(200).text();
        assert!(asked.contains("DestinationNotFound"), "{asked}");
    }
}

/// Whoever runs on after its tenant was deleted meets nothing of the next one of its name, nor that one anything of it.
#[test]
fn who_outlives_its_tenant_meets_nothing_of_the_next_one_of_its_name() {
    let platform = Platform::start();
    let delete = ["tenant", "delete", "alice", "--with-apps", "--yes"];
    let alice = platform.api.new_tenant("alice");
    let older = InFlight::begin(&platform, &alice);
    platform.run(&delete).exits(0);
    let alice = platform.api.new_tenant("alice");
    platform.api.of("alice").get("tenants/alice/apps").is(200);
    alice.deploy(&manifest_of("shop", GRANT), &guest("kv_spin"));
    let stores = |alice: &Api| alice.get(&alice.path("apps/shop/kv")).is(200).json;
    assert_eq!(stores(&alice), json!([]));
    assert_eq!(alice.get("usage").is(200).json["apps"], json!([]));
    put(&alice, "stripe-key", "new");
    platform
        .post("shop.alice", "/set/default?k", b"new")
        .is(200);
    older.go_on();
    // Nor does its owner read what the older one was asked for.
    platform
        .post("shop.alice", "/get/default?k", b"")
        .is(200)
        .says("value new");
    let logs = eventually("its own are there", || {
        let logs = platform
            .run(&["logs", "shop", "--tenant", "alice"])
            .exits(0);
        logs.out.contains("/get/default").then_some(logs.out)
    });
    assert!(!logs.contains("/held/default"), "{logs}");
    let keys = alice.path("apps/shop/kv/default");
    let listed = alice.get(&keys).is(200).json;
    assert_eq!(listed["keys"], json!(["k"]));
}

#[test]
fn a_tenant_whose_deletion_is_cut_off_is_there_whole_or_not_at_all() {
    const APPS: [&str; 3] = ["one", "two", "three"];
    let mut platform = Platform::start();
    let (mut there, mut gone) = (0, 0);
    for round in 0..12_u64 {
        let name = format!("tenant-{round}");
        let tenant = platform.api.new_tenant(&name);
        for app in APPS {
            tenant.deploy(&manifest_of(app, GRANT), &guest("kv_spin"));
            let app = format!("{app}.{name}");
            platform.post(&app, "/set/default?k", b"v").is(200);
        }
        std::thread::scope(|scope| {
            let (api, name) = (platform.api.clone(), name.clone());
            // The kill finds the request under way, or one that is still to come.
            let (request, kill) = match round % 2 {
                0 => (0, round * 2),
                _ => (round * 8, 0),
            };
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(request));
                let path = format!("/v1/tenants/{name}?with-apps=true");
                // Cut off, or not.
                let _ = api.try_send("DELETE", &path, "", b"");
            });
            std::thread::sleep(Duration::from_millis(kill));
            platform.kill_tree();
        });
        platform.start_again();
        let listed = platform.api.get("tenants").is(200).json;
        let is_there = listed.as_array().unwrap().contains(&json!(name));
        // Its token, as the platform that was started again answers it.
        let tenant = platform.api.with_token(&tenant.token);
        for app in APPS {
            let app = format!("{app}.{name}");
            let reply = platform.post(&app, "/get/default?k", b"");
            match is_there {
                true => drop(reply.is(200).says("value v")),
                false => drop(reply.is(404)),
            }
        }
        let apps = tenant.get(&format!("tenants/{name}/apps"));
        match is_there {
            true => assert_eq!(apps.is(200).json.as_array().unwrap().len(), APPS.len()),
            false => drop(apps.refuses(401, "token-revoked", "")),
        }
        there += u32::from(is_there);
        gone += u32::from(!is_there);
    }
    println!("{there} stayed whole, {gone} were gone");
    assert!(there > 0 && gone > 0, "{there} {gone}");
}

/// Shows or changes alice's limits, as the operator does.
fn limits(platform: &Platform, options: &[&str]) -> Ran {
    platform.run(&[&["tenant", "limits", "alice"], options].concat())
}

/// Changes them, and asserts that every node held to them when that was answered.
#[track_caller]
fn limit(platform: &Platform, options: &[&str]) {
    limits(platform, options)
        .exits(0)
        .says("changed the limits of alice: live on 1 of 1 nodes");
}

#[test]
fn a_tenant_makes_as_many_apps_as_it_was_given() {
    let platform = Platform::start();
    let alice = platform.api.new_tenant("alice");
    let file = platform.folder().join("blog.wasm");
    std::fs::write(&file, guest("hello")).unwrap();
    let deploy = |tenant: &str| {
        let file = file.to_str().unwrap();
        platform.run(&["deploy", file, "--tenant", tenant])
    };
    alice.deploy(&bare("shop"), &guest("hello"));
    limit(&platform, &["--apps", "1"]);
    deploy("alice")
        .exits(3)
        .says("the tenant `alice` may have 1 app, and has 1")
        .says("midge delete APP")
        .says("midge tenant limits TENANT --apps N");
    // Who has it may have another version of it, and others have as many as before.
    alice.deploy(&bare("shop"), &guest("headers"));
    deploy("default").exits(0);
    limit(&platform, &["--apps", "0"]);
    deploy("alice").exits(3).says("may have 0");
    platform.get("shop.alice", "/").is(200).mentions("method");
    limit(&platform, &["--apps", "default"]);
    deploy("alice").exits(0);
    platform.get("blog.alice", "/").is(200);

    limits(&platform, &[]).exits(0).says("the platform's");
    limit(&platform, &["--apps", "2", "--kv-store", "1MiB"]);
    limits(&platform, &[])
        .exits(0)
        .says("apps      2      the tenant's own  2       100000");
    let shown = limits(&platform, &["--json"]).exits(0).json();
    let apps =
        json!({ "value": 2, "own": true, "default": 100_000, "ceiling": 100_000, "used": 2 });
    assert_eq!(shown["apps"], apps);
    assert_eq!(shown["slots"]["own"], json!(false));
    assert_eq!(shown["kv_store"]["value"], json!("1MiB"));
    let changed = limits(&platform, &["--kv-store", "default", "--json"]).exits(0);
    let changed = changed.json();
    assert_eq!(changed["limits"]["kv_store"]["own"], json!(false));
    assert_eq!(changed["limits"]["apps"], apps);
    assert_eq!(changed["live"]["of"], json!(1));
}

#[test]
fn what_is_no_limit_is_refused_in_words() {
    let platform = Platform::start();
    let alice = platform.api.new_tenant("alice");
    let bob = platform.api.new_tenant("bob");
    let check = |options: &[&str], exit: i32, part: &str| {
        limits(&platform, options).exits(exit).says(part);
    };
    check(&["--apps", "ten"], 2, "`default`");
    check(&["--slots=-1"], 2, "`default`");
    check(&["--kv-store", "much"], 2, "128MiB");
    check(&["--slots", "0"], 3, "give it 1 or more");
    check(&["--slots", "1001"], 3, "may be given 1000");
    check(&["--apps", "100001"], 3, "may be given 100000");
    check(&["--apps", "1", "--kv-store", "65GiB"], 3, "64GiB");
    platform
        .run(&["tenant", "limits", "nobody", "--apps", "1"])
        .exits(3)
        .says("there is no tenant `nobody`")
        .says("midge tenant list");

    // A tenant sees its own limits, and changes not even those.
    let path = "tenants/alice/limits";
    let before = alice.get(path).is(200).json;
    assert_eq!(before["apps"]["own"], json!(false));
    let more = || Some(json!({ "slots": 1000 }));
    alice
        .ask("PATCH", path, more())
        .refuses(403, "scope", "the platform");
    bob.get(path).refuses(403, "scope", "yours does not");
    bob.ask("PATCH", path, more())
        .refuses(403, "scope", "yours does not");
    assert_eq!(alice.get(path).is(200).json, before);
}

/// A reply of a tenant's app that takes as long as it may; none if it is refused.
fn park(platform: &Platform, tenant: &str) -> Option<Connection> {
    let mut connection = platform.connect(&format!("slow.{tenant}"));
    connection.send_head("GET", "/1000/100", "").unwrap();
    match connection.head().unwrap().status {
        200 => Some(connection),
        other => {
            assert_eq!(other, 503);
            None
        }
    }
}

/// As many of them as the tenant gets.
fn flood(platform: &Platform, tenant: &str) -> Vec<Connection> {
    std::iter::from_fn(|| park(platform, tenant)).collect()
}

#[test]
fn a_tenant_has_the_slots_that_it_was_given() {
    let mut platform = Platform::configured("workers = 1\n[node]\nslots = 20\ntenant-slots = 4");
    for tenant in ["alice", "bob"] {
        let api = platform.api.new_tenant(tenant);
        api.deploy(&bare("slow"), &guest("slow"));
    }
    limit(&platform, &["--slots", "1"]);
    let mut parked = flood(&platform, "alice");
    assert_eq!(parked.len(), 1);
    let refused = platform.get("slow.alice", "/1/1");
    let refused = refused.is(503).fails("overloaded");
    assert!(refused.header("retry-after").is_some());
    platform.get("slow.bob", "/1/1").is(200);

    // More than others have, from the moment that it is answered.
    limit(&platform, &["--slots", "6"]);
    parked.extend(flood(&platform, "alice"));
    assert_eq!(parked.len(), 6);
    // What it holds beyond a limit that was lowered it keeps.
    limit(&platform, &["--slots", "default"]);
    assert_eq!(flood(&platform, "alice").len(), 0);
    assert_eq!(flood(&platform, "bob").len(), 4);
    for connection in &mut parked {
        let mut piece = Vec::new();
        assert!(connection.chunk(&mut piece).unwrap() > 0);
    }
    drop(parked);
    eventually("alice has as many as others", || {
        (flood(&platform, "alice").len() == 4).then_some(())
    });

    // Whatever takes the worker's place has it before it serves.
    limit(&platform, &["--slots", "2"]);
    let worker = platform.workers()[0];
    platform.signal(worker, libc::SIGKILL);
    eventually("another worker takes its place", || {
        let workers = platform.workers();
        (!workers.is_empty() && !workers.contains(&worker)).then_some(())
    });
    assert_eq!(flood(&platform, "alice").len(), 2);
    platform.crash();
    assert_eq!(flood(&platform, "alice").len(), 2);
    let (_, leaving) = platform.upgrade();
    assert_eq!(flood(&platform, "alice").len(), 2);
    leaving.ended();

    // Nothing of it is left to who has the name after it.
    platform
        .run(&["tenant", "delete", "alice", "--with-apps", "--yes"])
        .exits(0);
    let alice = platform.api.new_tenant("alice");
    alice.deploy(&bare("slow"), &guest("slow"));
    limits(&platform, &["--json"])
        .exits(0)
        .says("\"slots\":{\"value\":4,\"own\":false");
    // What was in flight may take a moment to end.
    eventually("alice has as many as others", || {
        (flood(&platform, "alice").len() == 4).then_some(())
    });
}

/// Who has no slot left takes none from others: not even where an instance only waits for its next request.
#[test]
fn a_tenant_at_its_limit_ends_no_instance_of_others() {
    let platform = Platform::configured("workers = 1");
    for tenant in ["alice", "bob"] {
        platform.api.new_tenant(tenant);
    }
    let alice = platform.api.of("alice");
    alice.deploy(&bare("slow"), &guest("slow"));
    let reused = manifest_of("count", "[reuse]\nidle = '10s'");
    let count = Guest::Service("count").bytes();
    platform.api.of("bob").deploy(&reused, &count);
    limit(&platform, &["--slots", "1"]);
    let parked = flood(&platform, "alice");
    assert_eq!(parked.len(), 1);
    for number in 1..=3 {
        let refused = platform.get("slow.alice", "/1/1");
        refused.is(503).fails("overloaded");
        let counted = platform.get("count.bob", "/").is(200);
        counted.says(&number.to_string());
    }
}

#[test]
fn a_tenants_stores_hold_what_it_was_given() {
    let mut platform = Platform::configured("[node]\nkv-store = '1MiB'");
    for tenant in ["alice", "bob"] {
        let api = platform.api.new_tenant(tenant);
        api.deploy(&manifest_of("shop", GRANT), &guest("kv_spin"));
    }
    // Sets a key to so many bytes; the key itself is one more.
    let fill = |platform: &Platform, tenant: &str, bytes: u64| {
        let path = format!("/fill/default/{bytes}?k");
        platform.post(&format!("shop.{tenant}"), &path, b"")
    };
    limit(&platform, &["--kv-store", "4KiB"]);
    fill(&platform, "alice", 4095).is(200);
    fill(&platform, "alice", 4096).is(500).mentions("4KiB");
    fill(&platform, "bob", 4096).is(200);
    platform
        .run(&["kv", "set", "shop", "more", "x", "--tenant", "alice"])
        .exits(1)
        .says("it may have 4KiB");
    platform
        .run(&["kv", "set", "shop", "more", "x", "--tenant", "bob"])
        .exits(0);

    // More than others have.
    limit(&platform, &["--kv-store", "2MiB"]);
    fill(&platform, "alice", 1 << 20).is(200);
    fill(&platform, "bob", 1 << 20).is(500).mentions("1MiB");
    // What is there beyond a limit that was lowered stays, and may become less alone.
    limit(&platform, &["--kv-store", "0B"]);
    fill(&platform, "alice", (1 << 20) + 1)
        .is(500)
        .mentions("0B");
    platform
        .post("shop.alice", "/length/default?k", b"")
        .is(200)
        .says("Some(1048576)");
    fill(&platform, "alice", 5).is(200);
    platform.crash();
    fill(&platform, "alice", 6).is(500).mentions("0B");
    fill(&platform, "bob", 6).is(200);
    limit(&platform, &["--kv-store", "default"]);
    fill(&platform, "alice", 6).is(200);
}
