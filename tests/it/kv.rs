//! Key-value stores: through every interface, the API and the command line; bounded, walled off, and there after a crash.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tests::trials::{self, STORE_CRASHES};
use tests::{Guest, Platform, Reply, bare, eventually, guest, manifest_of};

/// The interfaces of WASI 0.2, by their guests.
const GUESTS: [&str; 3] = ["kv_spin", "kv_draft", "kv_draft2"];
const GRANT: &str = "grant = { kv = ['default', 'carts'] }";

/// As a guest of the stores decodes it.
fn encoded(key: &str) -> String {
    key.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// One operation of a guest's.
fn ask(platform: &Platform, app: &str, operation: &str, key: &str, value: &[u8]) -> Reply {
    let path = format!("/{operation}?{}", encoded(key));
    platform.post(app, &path, value)
}

#[test]
fn what_one_interface_writes_every_other_reads() {
    let platform = Platform::start();
    for (i, writer) in GUESTS.iter().enumerate() {
        let key = format!("{writer}/é \0 ..");
        platform.deploy_with("shop", &guest(writer), GRANT);
        let ask = |operation: &str, value: &[u8]| ask(&platform, "shop", operation, &key, value);
        ask("get/default", b"").is(200).says("none");
        ask("exists/default", b"").is(200).says("false");
        ask("set/default", b"first").is(200).says("set");
        ask("set/default", b"second").is(200);
        ask("exists/default", b"").is(200).says("true");
        // Another store of the same app holds nothing of it.
        ask("get/carts", b"").is(200).says("none");
        for reader in GUESTS {
            platform.deploy_with("shop", &guest(reader), GRANT);
            ask("get/default", b"").is(200).says("value second");
            // An empty name is that of the default store.
            ask("get/", b"").is(200).says("value second");
            let keys = ask("list/default", b"").is(200).text();
            assert_eq!(keys.lines().count(), i + 1, "{keys}");
            assert!(keys.contains(&key));
        }
    }
    platform.deploy_with("shop", &guest("kv_spin"), GRANT);
    let key = "kv_spin/é \0 ..";
    ask(&platform, "shop", "delete/default", key, b"").is(200);
    ask(&platform, "shop", "delete/default", key, b"").is(200);
    ask(&platform, "shop", "get/default", key, b"")
        .is(200)
        .says("none");
}

#[test]
fn asynchronous_calls_reach_the_same_stores() {
    let platform = Platform::start();
    let ask =
        |operation: &str, value: &[u8]| platform.post("shop", &format!("/{operation}?k"), value);
    platform.deploy_with("shop", &guest("kv_draft"), GRANT);
    ask("set/carts", b"1").is(200);
    let service = Guest::Service("kv").bytes();
    for reuse in ["", "\n[reuse]"] {
        platform.deploy_with("shop", &service, &format!("{GRANT}{reuse}"));
        ask("get/carts", b"").is(200).says("value 1");
        ask("get/default", b"").is(200).says("none");
        ask("set/default", b"2").is(200);
        ask("exists/default", b"").is(200).says("true");
        ask("list/default", b"").is(200).says("k");
        ask("delete/default", b"").is(200);
        ask("list/default", b"").is(200).says("");
        ask("get/other", b"").is(500).says("access-denied");
    }
    platform.deploy("shop", &service);
    ask("get/carts", b"").is(500).says("access-denied");
}

#[test]
fn several_keys_are_read_and_changed_at_once_and_numbers_counted() {
    let platform = Platform::start();
    for name in ["kv_draft", "kv_draft2"] {
        platform.deploy_with(&name.replace('_', "-"), &guest(name), GRANT);
        let app = name.replace('_', "-");
        let ask = |operation: &str, key: &str, value: &[u8]| {
            ask(&platform, &app, operation, key, value).is(200).text()
        };
        ask("set-many/default", "", b"a=1\nb=2\nc=3");
        assert_eq!(ask("get-many/default", "", b"c\nx\na"), "3\nnone\n1");
        ask("delete-many/default", "", b"a\nx");
        assert_eq!(ask("list/default", "", b""), "b\nc");
        assert_eq!(ask("increment/default/5", "b", b""), "7");
        assert_eq!(ask("get/default", "b", b""), "value 7");
        ask("set/default", "b", b"seven");
        let refused = self::ask(&platform, &app, "increment/default/1", "b", b"").is(500);
        assert!(
            refused.text().contains("decimal digits"),
            "{}",
            refused.text()
        );
    }
    let ask = |operation: &str, value: &[u8]| {
        ask(&platform, "kv-draft2", operation, "k", value)
            .is(200)
            .text()
    };
    assert_eq!(ask("swap/default", b"one"), "saw none, swapped");
    assert_eq!(ask("swap/default", b"two"), "saw one, swapped");
    assert_eq!(
        ask("swap-late/default", b"three"),
        "saw two, then theirs, swapped"
    );
    assert_eq!(ask("get/default", b""), "value three");
}

#[test]
fn a_store_that_is_not_granted_is_denied_and_the_line_that_grants_it_is_told() {
    let platform = Platform::start();
    let folder = platform.folder().join("project");
    std::fs::create_dir_all(&folder).unwrap();
    for name in GUESTS {
        let file = folder.join("shop.wasm");
        std::fs::write(&file, guest(name)).unwrap();
        let file = file.to_str().unwrap();
        let line = r#"add `kv = ["default"]` below `[grant]`"#;
        platform.run_alone(&["inspect", file]).exits(0).says(line);
        platform
            .run(&["deploy", file, "--name", "shop"])
            .exits(0)
            .says(line);
        ask(&platform, "shop", "open/default", "", b"")
            .is(500)
            .says("access-denied");
        platform
            .run(&["deploy", file, "--name", "shop", "--strict"])
            .exits(3)
            .says("which nothing grants");
        let manifest = folder.join("midge.toml");
        std::fs::write(
            &manifest,
            format!("name = 'shop'\ncomponent = 'shop.wasm'\n{GRANT}\n"),
        )
        .unwrap();
        let granted = platform.run_in(&folder, &["deploy", "--strict"]).exits(0);
        assert!(!granted.err.contains("grant"), "{}", granted.err);
        ask(&platform, "shop", "open/carts", "", b"").is(200);
        for other in ["other", "Default", "..%2fdefault", "default%00", "DEFAULT"] {
            let path = format!("/open/{other}");
            platform
                .post("shop", &path, b"")
                .is(500)
                .says("access-denied");
        }
        std::fs::remove_file(manifest).unwrap();
    }
    // What the version says of its imports is what its manifest made of them.
    let version = platform
        .api
        .get("tenants/default/apps/shop/versions/1")
        .is(200);
    assert!(version.json["imports"].to_string().contains("denied"));
}

#[test]
fn keys_values_stores_calls_and_listings_have_bounds() {
    let platform = Platform::configured("[node]\nkv-store = '30MiB'");
    platform.deploy_with(
        "shop",
        &guest("kv_spin"),
        &format!("{GRANT}\nlimits.cpu = '10s'"),
    );
    let ask =
        |operation: &str, key: &str, value: &[u8]| ask(&platform, "shop", operation, key, value);
    ask("set/default", &"k".repeat(1024), b"").is(200);
    ask("set/default", &"k".repeat(1025), b"")
        .is(500)
        .mentions("1KiB");
    ask("get/default", &"k".repeat(1025), b"")
        .is(500)
        .mentions("1KiB");
    ask("set/default", "", b"x").is(500).mentions("empty");
    let most = 25 << 20;
    ask(&format!("fill/default/{most}"), "large", b"").is(200);
    ask("length/default", "large", b"")
        .is(200)
        .says(&format!("Some({most})"));
    ask(&format!("fill/default/{}", most + 1), "large", b"")
        .is(500)
        .mentions("25MiB");
    // What is there stays when there is no room for more, and what makes it smaller is taken.
    ask(&format!("fill/default/{most}"), "more", b"")
        .is(500)
        .mentions("30MiB");
    ask("length/default", "large", b"")
        .is(200)
        .says(&format!("Some({most})"));
    ask("set/default", "large", b"small").is(200);
    ask(&format!("fill/default/{most}"), "more", b"").is(200);
    // A store that is full is no other's.
    ask("set/carts", "k", b"x").is(200);
    ask("hot/default/9000", "large", b"").is(200).says("9000");
    let refused = ask("hot/default/20000", "large", b"").is(500).text();
    assert!(
        refused.contains("after 10000: an invocation may make 10000 calls"),
        "{refused}"
    );

    // What is listed whole is bounded; pages are not.
    platform.deploy_with("shop", &guest("kv_draft2"), GRANT);
    for hundred in 0..101 {
        let keys: Vec<String> = (0..100).map(|i| format!("{hundred:03}/{i:02}=")).collect();
        ask("set-many/carts", "", keys.join("\n").as_bytes()).is(200);
    }
    let listed = ask("list/carts", "", b"").is(200).text();
    assert_eq!(listed.lines().count(), 10_101);
    platform.deploy_with("shop", &guest("kv_spin"), GRANT);
    ask("list/carts", "", b"").is(500).mentions("10000");
}

/// Whoever may name what is another's, by whatever name: each class of names, against each pair of owners.
#[test]
fn nobody_reaches_what_is_anothers_by_any_name() {
    let platform = Platform::start();
    let owners = ["shop", "shop-2", "shop.alice", "shop.bob", "shop.s"];
    let tenants = ["alice", "bob", "s"].map(|name| platform.api.new_tenant(name));
    let grant = "grant = { kv = ['default', 'a', 'shop'] }";
    for (i, owner) in owners.iter().enumerate() {
        let (app, tenant) = owner.split_once('.').unwrap_or((owner, "default"));
        let manifest = manifest_of(app, grant);
        match tenant {
            "alice" => tenants[0].deploy(&manifest, &guest("kv_draft2")),
            "bob" => tenants[1].deploy(&manifest, &guest("kv_draft2")),
            "s" => tenants[2].deploy(&manifest, &guest("kv_draft2")),
            _ => platform.api.deploy(&manifest, &guest("kv_draft2")),
        };
        for store in ["default", "a", "shop"] {
            let secret = format!("{i} {store}");
            ask(
                &platform,
                owner,
                &format!("set/{store}"),
                "secret",
                secret.as_bytes(),
            )
            .is(200);
        }
    }
    let mut cases = 0;
    for (i, thief) in owners.iter().enumerate() {
        for (j, victim) in owners.iter().enumerate().filter(|(j, _)| *j != i) {
            let (app, tenant) = victim.split_once('.').unwrap_or((victim, "default"));
            let framed = format!("\u{7}{tenant}\u{4}{app}\u{7}defaultsecret");
            let names = [
                "secret".to_owned(),
                format!("{tenant}/{app}/default/secret"),
                format!("../{app}/default/secret"),
                format!("../../{tenant}/{app}/default/secret"),
                format!("{app}\0secret"),
                format!("\u{1}{framed}"),
                framed,
                "SECRET".to_owned(),
                "secret\0".to_owned(),
                "s\u{200b}ecret".to_owned(),
                "\u{2e}\u{2e}/secret".to_owned(),
                "%73ecret".to_owned(),
            ];
            for store in ["default", "a", "shop"] {
                for name in &names {
                    for operation in ["get", "exists", "get-many"] {
                        let text = match operation {
                            "get-many" => ask(
                                &platform,
                                thief,
                                &format!("get-many/{store}"),
                                "",
                                name.as_bytes(),
                            ),
                            _ => ask(&platform, thief, &format!("{operation}/{store}"), name, b""),
                        }
                        .text();
                        cases += 1;
                        let stolen = format!("{j} {store}");
                        assert!(
                            !text.contains(&stolen),
                            "{thief} {operation} {store} {name:?}: {text}"
                        );
                    }
                    // And nothing of a thief's changes what the victim has.
                    if name != "secret" {
                        ask(&platform, thief, &format!("set/{store}"), name, b"forged").is(200);
                        ask(&platform, thief, &format!("delete/{store}"), name, b"").is(200);
                        cases += 2;
                    }
                }
            }
        }
    }
    for (i, owner) in owners.iter().enumerate() {
        for store in ["default", "a", "shop"] {
            let kept = format!("value {i} {store}");
            ask(&platform, owner, &format!("get/{store}"), "secret", b"")
                .is(200)
                .says(&kept);
            ask(&platform, owner, &format!("list/{store}"), "", b"")
                .is(200)
                .says("secret");
        }
    }
    assert!(cases >= 1_000, "{cases}");

    // The API's walls are the tokens'.
    let [alice, bob, _] = &tenants;
    let path = "tenants/alice/apps/shop/kv";
    alice.get(path).is(200);
    for rest in ["", "/default", "/default/secret"] {
        bob.get(&format!("{path}{rest}"))
            .refuses(403, "scope", "yours does not");
    }
    bob.send(
        "PUT",
        &format!("{path}/default/secret"),
        "content-type: application/octet-stream\r\n",
        b"x",
    )
    .refuses(403, "scope", "yours does not");
    bob.ask("DELETE", &format!("{path}/default/secret"), None)
        .refuses(403, "scope", "yours does not");
    ask(&platform, "shop.alice", "get/default", "secret", b"")
        .is(200)
        .says("value 2 default");
}

#[test]
fn the_command_line_reads_and_writes_what_the_app_does() {
    let platform = Platform::start();
    platform.deploy_with("shop", &guest("kv_draft2"), GRANT);
    let run = |arguments: &[&str]| platform.run(arguments);
    run(&["kv", "set", "shop", "greeting", "Hello"])
        .exits(0)
        .says("set greeting (5 B)");
    ask(&platform, "shop", "get/default", "greeting", b"")
        .is(200)
        .says("value Hello");
    ask(&platform, "shop", "set/carts", "a/b c?", b"\xff\0").is(200);
    assert_eq!(
        run(&["kv", "get", "shop", "greeting"]).exits(0).out,
        "Hello"
    );
    run(&["kv", "get", "shop", "nothing"])
        .exits(3)
        .says("holds nothing under `nothing`");
    run(&["kv", "get", "nobody", "greeting"])
        .exits(3)
        .says("no app");
    run(&["kv", "list", "shop", "--store", "carts"])
        .exits(0)
        .says("a/b c?");
    let stores = run(&["kv", "stores", "shop", "--json"]).exits(0).json();
    let expected = json!([
        { "store": "carts", "keys": 1, "bytes": 8 },
        { "store": "default", "keys": 1, "bytes": 13 }
    ]);
    assert_eq!(stores, expected);

    let file = platform.folder().join("carts.jsonl");
    let exported = run(&["kv", "export", "shop", "--store", "carts"])
        .exits(0)
        .out;
    assert_eq!(exported, "{\"key\":\"a/b c?\",\"value\":\"/wA=\"}\n");
    std::fs::write(&file, &exported).unwrap();
    let file = file.to_str().unwrap();
    run(&["kv", "import", "shop", file])
        .exits(0)
        .says("set 1 keys");
    ask(&platform, "shop", "length/default", "a/b c?", b"")
        .is(200)
        .says("Some(2)");
    for (content, part) in [
        ("{\"key\":\"a\",\"value\":\"?\"}\n", "line 1"),
        ("{\"key\":\"a\",\"value\":\"\"}\nnonsense\n", "line 2"),
        ("{\"key\":\"a\"}\n", "value"),
    ] {
        std::fs::write(file, content).unwrap();
        run(&["kv", "import", "shop", file]).exits(2).says(part);
    }
    run(&["kv", "import", "shop", "/nowhere"])
        .exits(1)
        .says("/nowhere");
    run(&["kv", "set", "shop", "k", "--file", "/nowhere"])
        .exits(1)
        .says("/nowhere");

    run(&["kv", "delete", "shop", "greeting"])
        .exits(0)
        .says("deleted greeting");
    run(&["kv", "delete", "shop", "greeting"])
        .exits(3)
        .says("holds nothing");
    run(&["kv", "set", "shop", "brief", "x", "--ttl", "1s"]).exits(0);
    eventually("what was set for a second is gone", || {
        let text = ask(&platform, "shop", "get/default", "brief", b"")
            .is(200)
            .text();
        (text == "none").then_some(())
    });
}

#[test]
fn the_api_sets_only_what_is_as_was_expected() {
    let platform = Platform::start();
    platform.api.deploy(&bare("shop"), &guest("hello"));
    let path = "tenants/default/apps/shop/kv/default/k%2F%00";
    let set = |query: &str, value: &[u8]| {
        let kind = "content-type: application/octet-stream\r\n";
        platform
            .api
            .send("PUT", &format!("{path}{query}"), kind, value)
    };
    let first = set("?revision=0", b"1").is(200).json;
    assert_eq!(
        (first["key"].as_str(), first["bytes"].as_u64()),
        (Some("k/\0"), Some(1))
    );
    set("?revision=0", b"2").refuses(409, "key-changed", "something else");
    let revision = first["revision"].as_u64().unwrap();
    set(&format!("?revision={revision}"), b"2").is(200);
    set(&format!("?revision={revision}"), b"3").refuses(409, "key-changed", "something else");
    set("?ttl=soon", b"").refuses(400, "query-malformed", "");
    set("?color=blue", b"").refuses(400, "query-malformed", "color");
    platform
        .api
        .send("PUT", path, "content-type: text/plain\r\n", b"")
        .refuses(415, "media-type", "octet-stream");
    let page = platform
        .api
        .get("tenants/default/apps/shop/kv/default?limit=1")
        .is(200);
    assert_eq!(page.json, json!({ "keys": ["k/\0"], "more": false }));
    platform
        .api
        .get("tenants/default/apps/shop/kv/No")
        .refuses(400, "path-malformed", "a-z");
    platform
        .api
        .get("tenants/default/apps/nobody/kv")
        .refuses(404, "app-not-found", "nobody");
    platform.api.ask("DELETE", path, None).is(204);
    platform
        .api
        .ask("DELETE", path, None)
        .refuses(404, "key-not-found", "holds nothing");
}

#[test]
fn an_app_that_is_deleted_leaves_nothing_to_the_next_of_its_name() {
    let platform = Platform::start();
    let wasm = guest("kv_spin");
    platform.deploy_with("shop", &wasm, GRANT);
    platform.deploy_with("shop-2", &wasm, GRANT);
    for app in ["shop", "shop-2"] {
        ask(&platform, app, "set/default", "k", b"v").is(200);
    }
    platform.run(&["delete", "shop", "--yes"]).exits(0);
    platform.deploy_with("shop", &wasm, GRANT);
    ask(&platform, "shop", "get/default", "k", b"")
        .is(200)
        .says("none");
    ask(&platform, "shop-2", "get/default", "k", b"")
        .is(200)
        .says("value v");
}

#[test]
fn stores_stay_through_restarts_crashes_and_upgrades() {
    let mut platform = Platform::configured("workers = 2");
    platform.deploy_with("shop", &guest("kv_draft2"), GRANT);
    ask(&platform, "shop", "set/default", "k", b"1").is(200);
    platform.restart();
    ask(&platform, "shop", "increment/default/1", "k", b"")
        .is(200)
        .says("2");
    platform.crash();
    ask(&platform, "shop", "increment/default/1", "k", b"")
        .is(200)
        .says("3");
    let (_, leaving) = platform.upgrade();
    ask(&platform, "shop", "increment/default/1", "k", b"")
        .is(200)
        .says("4");
    leaving.ended();
    ask(&platform, "shop", "increment/default/1", "k", b"")
        .is(200)
        .says("5");
    for worker in platform.workers() {
        platform.signal(worker, 9);
    }
    eventually("the stores are read and written by new workers", || {
        let text = ask(&platform, "shop", "get/default", "k", b"");
        (text.status() == 200).then(|| text.says("value 5"))
    });
    ask(&platform, "shop", "increment/default/1", "k", b"")
        .is(200)
        .says("6");
}

#[test]
fn a_backup_holds_what_stores_held() {
    let platform = Platform::start();
    platform.deploy_with("shop", &guest("kv_draft2"), GRANT);
    ask(&platform, "shop", "fill/carts/100000", "large", b"").is(200);
    let backup = platform.folder().join("backup.tar");
    let backup = backup.to_str().unwrap().to_owned();
    ask(&platform, "shop", "increment/default/7", "k", b"").is(200);
    platform.run(&["backup", &backup]).exits(0);
    ask(&platform, "shop", "increment/default/1", "k", b"").is(200);
    let mut platform = platform;
    platform.stop();
    let data = platform.data();
    std::fs::rename(&data, platform.folder().join("before")).unwrap();
    platform
        .run_alone(&["restore", &backup, "--data", data.to_str().unwrap()])
        .exits(0);
    platform.start_again();
    ask(&platform, "shop", "get/default", "k", b"")
        .is(200)
        .says("value 7");
    ask(&platform, "shop", "length/carts", "large", b"")
        .is(200)
        .says("Some(100000)");
    ask(&platform, "shop", "increment/default/1", "k", b"")
        .is(200)
        .says("8");
}

#[test]
fn what_was_acknowledged_outlives_any_crash_in_small() {
    println!("{}", trials::stores(STORE_CRASHES / 20, 11));
}

/// Counters that many clients add to, while workers are killed, are as high as was acknowledged at the least.
#[test]
fn what_was_acknowledged_outlives_the_worker_that_asked_for_it() {
    let platform = Platform::configured("workers = 2");
    platform.deploy_with("shop", &guest("kv_draft2"), GRANT);
    let (acknowledged, asked) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let added =
                        platform
                            .connect("shop")
                            .request("POST", "/increment/default/1?n", "", b"");
                    if added.is_ok_and(|reply| reply.status() == 200) {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(100));
            if let Some(worker) = platform.workers().first() {
                platform.signal(*worker, 9);
            }
        }
    });
    let text = ask(&platform, "shop", "get/default", "n", b"")
        .is(200)
        .text();
    let count: u64 = text.trim_start_matches("value ").parse().unwrap();
    let acknowledged = acknowledged.into_inner();
    assert!(acknowledged > 100, "{acknowledged}");
    assert!(
        (acknowledged..=asked.into_inner()).contains(&count),
        "{count} of {acknowledged}"
    );
}
