//! Key-value stores: through every interface, the API and the command line; bounded, walled off, and there after a crash.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::load::Always;
use tests::trials::{self, STORE_CRASHES};
use tests::{Connection, Guest, Load, Platform, Reply, bare, eventually, guest, manifest_of};

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

/// An app whose stores others try to reach, as tests name apps.
#[derive(Clone, Copy)]
struct Owner {
    name: &'static str,
    tenant: &'static str,
    app: &'static str,
}

impl Owner {
    fn secret(self) -> String {
        format!("secret of {}", self.name)
    }

    /// What its store's key would be called by who knows how stores lie, or only guesses; each by its class.
    fn keys(self, store: &str) -> [(&'static str, String); 14] {
        let secret = self.secret();
        let framed = |name: &str| format!("{}{name}", char::from(name.len() as u8));
        let framed = [self.tenant, self.app, store].map(framed).concat();
        let (tenant, app) = (self.tenant, self.app);
        [
            ("bare", secret.clone()),
            ("path", format!("{tenant}/{app}/{store}/{secret}")),
            ("absolute path", format!("/{tenant}/{app}/{store}/{secret}")),
            ("one up", format!("../{store}/{secret}")),
            (
                "all up",
                format!("../../../{tenant}/{app}/{store}/{secret}"),
            ),
            ("joined", format!("{tenant}{app}{store}{secret}")),
            ("after a zero", format!("{app}\0{store}\0{secret}")),
            ("before a zero", format!("{secret}\0")),
            ("framed", format!("{framed}{secret}")),
            ("framed as it lies", format!("\u{1}{framed}{secret}")),
            ("upper case", secret.to_uppercase()),
            ("look-alike", secret.replace('e', "\u{435}")),
            ("invisible", secret.replace('e', "e\u{200b}")),
            (
                "escaped",
                format!("%{:02x}{}", secret.as_bytes()[0], &secret[1..]),
            ),
        ]
    }

    /// What its store would be called by others; none of them is granted one of that name.
    fn labels(self, store: &str) -> [(&'static str, String); 8] {
        let (tenant, app) = (self.tenant, self.app);
        [
            ("path", format!("{tenant}/{app}/{store}")),
            ("one up", format!("../{app}/{store}")),
            ("all up", format!("../../{tenant}/{app}/{store}")),
            ("after a zero", format!("{app}\0{store}")),
            ("before a zero", format!("{store}\0")),
            ("upper case", store.to_uppercase()),
            (
                "look-alike",
                store
                    .replace('a', "\u{430}")
                    .replace('o', "\u{43e}")
                    .replace('e', "\u{435}"),
            ),
            ("spaced", format!(" {store}")),
        ]
    }
}

/// What one request of a thief's does with a key, and what it must hear: that there is nothing, or that it is all its own.
const THEFTS: [(&str, &str); 11] = [
    ("get", "none"),
    ("exists", "false"),
    ("get-many", "none"),
    ("increment", "1"),
    ("delete", "deleted"),
    ("swap", "saw none, swapped"),
    ("delete", "deleted"),
    ("set-many", "set"),
    ("delete-many", "deleted"),
    ("set", "set"),
    ("delete", "deleted"),
];

/// Each operation, with each class of names, by each app against each store of every other: at least a hundred cases of
/// each operation with each class of names.
#[test]
fn nobody_reaches_what_is_anothers_by_any_name() {
    const STORES: [&str; 4] = ["default", "a", "shop", "secret"];
    let platform = Platform::start();
    let owner = |name: &'static str| {
        let (app, tenant) = name.split_once('.').unwrap_or((name, "default"));
        Owner { name, tenant, app }
    };
    let owners = [
        "shop",
        "shop-2",
        "alice",
        "shop.alice",
        "shop.bob",
        "shop.s",
    ]
    .map(owner);
    let tenants = ["alice", "bob", "s"].map(|name| platform.api.new_tenant(name));
    let grant = format!("grant = {{ kv = {STORES:?} }}");
    for owner in owners {
        let manifest = manifest_of(owner.app, &grant);
        let api = match owner.tenant {
            "alice" => &tenants[0],
            "bob" => &tenants[1],
            "s" => &tenants[2],
            _ => &platform.api,
        };
        api.deploy(&manifest, &guest("kv_draft2"));
        for store in STORES {
            let value = format!("of {} in {store}", owner.name);
            let set = format!("set/{store}");
            ask(
                &platform,
                owner.name,
                &set,
                &owner.secret(),
                value.as_bytes(),
            )
            .is(200);
        }
    }
    let counted = Mutex::new(BTreeMap::<_, u32>::new());
    let count = |operation: &'static str, class: &'static str| {
        *counted
            .lock()
            .unwrap()
            .entry((operation, class))
            .or_default() += 1;
    };
    let steals = |thief: Owner, victim: Owner, store: &str| {
        for (class, key) in victim.keys(store) {
            for (operation, expected) in THEFTS {
                let (asked, body) = match operation {
                    "get-many" | "delete-many" => ("", key.clone()),
                    "set-many" => ("", format!("{key}=forged")),
                    _ => (key.as_str(), "forged".to_owned()),
                };
                let path = format!("{operation}/{store}/1");
                let heard = ask(&platform, thief.name, &path, asked, body.as_bytes());
                assert_eq!(
                    heard.text(),
                    expected,
                    "{} {operation} {key:?} in {store}, {class}",
                    thief.name
                );
                count(operation, class);
            }
        }
        for (class, label) in victim.labels(store) {
            let path = format!("open/{}", encoded(&label));
            let heard = ask(&platform, thief.name, &path, "", b"").is(500).text();
            assert_eq!(
                heard, "access-denied",
                "{} opens {label:?}, {class}",
                thief.name
            );
            count("open", class);
        }
    };
    std::thread::scope(|scope| {
        for thief in owners {
            scope.spawn(move || {
                for victim in owners.into_iter().filter(|other| other.name != thief.name) {
                    for store in STORES {
                        steals(thief, victim, store);
                    }
                }
            });
        }
    });
    for owner in owners {
        for store in STORES {
            let kept = format!("value of {} in {store}", owner.name);
            ask(
                &platform,
                owner.name,
                &format!("get/{store}"),
                &owner.secret(),
                b"",
            )
            .is(200)
            .says(&kept);
            ask(&platform, owner.name, &format!("list/{store}"), "", b"")
                .is(200)
                .says(&owner.secret());
        }
    }
    for (class, cases) in counted.into_inner().unwrap() {
        assert!(cases >= 100, "{class:?}: {cases} cases");
    }

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
    let alices = "secret of shop.alice";
    ask(&platform, "shop.alice", "get/default", alices, b"")
        .is(200)
        .says("value of shop.alice in default");
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

#[test]
fn a_grant_that_is_taken_back_holds_for_new_requests_and_not_for_those_in_flight() {
    let platform = Platform::start();
    for name in GUESTS {
        let app = name.replace('_', "-");
        platform.deploy_with(&app, &guest(name), GRANT);
        let mut in_flight = platform.connect(&app);
        in_flight
            .send_head("POST", "/held/default?late", "content-length: 5\r\n")
            .unwrap();
        let key = |key: &str| {
            let path = format!("tenants/default/apps/{app}/kv/default/{key}");
            platform.api.ask("GET", &path, None)
        };
        eventually("the guest has opened its store", || {
            (key("held").reply.status() == 200).then_some(())
        });
        platform.deploy(&app, &guest(name));
        ask(&platform, &app, "open/default", "", b"")
            .is(500)
            .says("access-denied");
        in_flight.send(b"value").unwrap();
        in_flight.reply("POST").unwrap().is(200).says("set");
        key("late").is(200).reply.says("value");
        ask(&platform, &app, "get/default", "late", b"")
            .is(500)
            .says("access-denied");
    }
}

/// G41: a gibibyte as a value, a mebibyte as a key.
#[test]
fn what_no_store_takes_leaves_nothing_behind() {
    let platform = Platform::start();
    for name in GUESTS {
        let app = name.replace('_', "-");
        let manifest = format!("{GRANT}\nlimits.cpu = '10s'");
        platform.deploy_with(&app, &guest(name), &manifest);
        let ask = |operation: &str| ask(&platform, &app, operation, "large", b"");
        // More than its memory holds, and more than a call may hand over.
        ask("fill/default/1073741824").is(503).fails("memory-limit");
        ask("fill/default/100000000").is(500).fails("trap");
        ask("long-key/default/1048576").is(500).mentions("1KiB");
        ask("list/default").is(200).says("");
        let stores = platform.run(&["kv", "stores", &app, "--json"]).exits(0);
        assert_eq!(stores.json(), json!([]));
    }
    nothing_is_live(&platform);
}

/// No instance is live, of whatever app.
fn nothing_is_live(platform: &Platform) {
    eventually("every instance has ended", || {
        (platform.metric("midge_live_instances") == 0.0).then_some(())
    });
}

/// Bytes of the stores' file.
fn stores_bytes(platform: &Platform) -> u64 {
    let file = std::fs::metadata(platform.data().join("stores/data.mdb"));
    file.expect("the stores have a file").len()
}

/// Sets a key of the app `shop` to this many bytes, past every worker.
fn set_past_workers(platform: &Platform, key: &str, bytes: usize) {
    let path = format!("tenants/default/apps/shop/kv/default/{key}");
    let kind = "content-type: application/octet-stream\r\n";
    platform
        .api
        .send("PUT", &path, kind, &vec![b'x'; bytes])
        .is(200);
}

/// Stops a worker, unless it reads nothing from the stores just then.
fn stop_amid_a_read(platform: &Platform, worker: u32) -> bool {
    platform.signal(worker, libc::SIGSTOP);
    let stat = format!("/proc/{worker}/stat");
    eventually("it stands still", || {
        let stat = std::fs::read_to_string(&stat).expect("its parent has not reaped it");
        let (_, state) = stat.rsplit_once(") ")?;
        state.starts_with('T').then_some(())
    });
    let reads = is_reading(platform, worker);
    if !reads {
        platform.signal(worker, libc::SIGCONT);
    }
    reads
}

/// Whether a process has a read of the stores under way, by the engine's table of readers: 64 bytes each, which begin with
/// the number of what is read (all ones for nothing) and the process.
fn is_reading(platform: &Platform, process: u32) -> bool {
    let table = std::fs::read(platform.data().join("stores/lock.mdb"));
    let (slots, _) = table
        .as_ref()
        .expect("the stores have a lock file")
        .as_chunks::<64>();
    slots.iter().any(|slot| {
        let reads = slot[..8] != [0xff; 8];
        reads && slot[8..12] == process.to_le_bytes()
    })
}

/// Pages of what was overwritten are used again, which they are not for as long as anybody reads what was there before.
fn pages_are_used_again(platform: &Platform) {
    const BYTES: usize = 1_000_000;
    let overwrite = || (0..40).for_each(|_| set_past_workers(platform, "again", BYTES));
    overwrite();
    let before = stores_bytes(platform);
    overwrite();
    let grown = stores_bytes(platform) - before;
    assert!(
        grown < 4 * BYTES as u64,
        "{grown} bytes for {} that were overwritten",
        40 * BYTES
    );
}

#[test]
fn clients_that_leave_amid_calls_leave_nothing_behind() {
    const TIMES: u64 = 100;
    let platform = Platform::configured("workers = 2\n[node]\nslots = 32");
    let manifest = format!("{GRANT}\nlimits.cpu = '10s'");
    platform.deploy_with("shop", &guest("kv_draft2"), &manifest);
    ask(&platform, "shop", "fill/carts/5000000", "large", b"").is(200);
    let keys: Vec<String> = (0..500).map(|i| format!("{i:03}=v")).collect();
    ask(
        &platform,
        "shop",
        "set-many/carts",
        "",
        keys.join("\n").as_bytes(),
    )
    .is(200);
    let many: Vec<String> = (0..500).map(|i| format!("{i:03}")).collect();
    let many = many.join("\n");
    let calls: [(&str, &str); 9] = [
        ("/get/carts?large", ""),
        ("/exists/carts?large", ""),
        ("/fill/default/5000000?large", ""),
        ("/list/carts", ""),
        ("/increment/default/1?n", ""),
        ("/swap/default?s", "x"),
        ("/get-many/carts", &many),
        ("/set-many/default", "a=1\nb=2"),
        ("/delete-many/default", "a\nb"),
    ];
    std::thread::scope(|scope| {
        for (path, body) in calls {
            let platform = &platform;
            scope.spawn(move || {
                for time in 0..TIMES {
                    let mut connection = platform.connect("shop");
                    let length = format!("content-length: {}\r\n", body.len());
                    connection.send_head("POST", path, &length).unwrap();
                    connection.send(body.as_bytes()).unwrap();
                    std::thread::sleep(Duration::from_micros(time * 100));
                }
            });
        }
    });
    nothing_is_live(&platform);
    pages_are_used_again(&platform);
    // More at once than there were slots, had those who left kept theirs.
    for _ in 0..64 {
        ask(&platform, "shop", "list/carts", "", b"").is(200);
    }
    let count = ask(&platform, "shop", "increment/default/0", "n", b"").is(200);
    let count: u64 = count.text().parse().unwrap();
    assert!((1..=TIMES).contains(&count), "{count}");
    assert!(!platform.said().contains("panicked"), "{}", platform.said());
    assert_eq!(platform.metric("midge_worker_restarts_total"), 0.0);
}

#[test]
fn a_worker_that_stops_amid_a_read_is_replaced_and_the_stores_stay_small() {
    const ROUNDS: usize = 6;
    const BYTES: usize = 250_000;
    let platform = Platform::configured("workers = 2");
    let manifest = format!("{GRANT}\nlimits.cpu = '10s'");
    platform.deploy_with("shop", &guest("kv_spin"), &manifest);
    ask(&platform, "shop", "fill/carts/25000000", "large", b"").is(200);
    let (done, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let grown_by = |wait: &dyn Fn()| {
        let before = (stores_bytes(&platform), written.load(Ordering::Relaxed));
        wait();
        let written = written.load(Ordering::Relaxed) - before.1;
        (stores_bytes(&platform) - before.0, written)
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // Cut off with the worker that it meets.
                    let mut connection = platform.connect("shop");
                    let _ = connection.request("POST", "/hot/carts/50?large", "", b"");
                }
            });
        }
        scope.spawn(|| {
            for number in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                set_past_workers(&platform, &format!("key-{}", number % 8), BYTES);
                written.fetch_add(BYTES as u64, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        std::thread::sleep(Duration::from_secs(2));
        let stops: Vec<_> = (0..ROUNDS)
            .map(|round| {
                let stopped = eventually("a worker is stopped amid a read", || {
                    let worker = *platform.workers().get(round % 2)?;
                    stop_amid_a_read(&platform, worker).then_some(worker)
                });
                grown_by(&|| {
                    eventually("another is in its place", || {
                        let workers = platform.workers();
                        (workers.len() == 2 && !workers.contains(&stopped)).then_some(())
                    });
                })
            })
            .collect();
        // From then on, whoever stopped holds nothing: what is overwritten takes no new room.
        let (grown, written) = grown_by(&|| {
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(8) {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        done.store(true, Ordering::Relaxed);
        let most: u64 = stops.iter().map(|(_, written)| written).sum();
        println!(
            "while workers stood still, grown and written: {stops:?}; afterwards {grown}, {written}"
        );
        assert!(
            stops.iter().any(|(grown, written)| *grown > written / 2),
            "no worker was stopped amid a read: {stops:?}"
        );
        let all: u64 = stops.iter().map(|(grown, _)| grown).sum();
        assert!(all <= most, "{all} bytes for {most} that were overwritten");
        assert!(
            grown < written / 4,
            "{grown} bytes for {written} that were overwritten"
        );
    });
    ask(&platform, "shop", "length/carts", "large", b"")
        .is(200)
        .says("Some(25000000)");
    assert!(platform.metric("midge_worker_restarts_total") >= ROUNDS as f64);
}

/// G42: a million calls in one request.
#[test]
fn who_calls_without_end_is_refused_and_others_are_answered_meanwhile() {
    let platform = Platform::configured("workers = 1");
    let alice = platform.api.new_tenant("alice");
    let manifest = manifest_of("shop", &format!("{GRANT}\nlimits.cpu = '10s'"));
    alice.deploy(&manifest, &guest("kv_spin"));
    platform.deploy("hello", &guest("hello"));
    let others = Load::start(
        platform.listen,
        &platform.host("hello"),
        "/",
        2,
        Duration::from_millis(10),
        Arc::new(Always("Hello, Midge!\n")),
    );
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    ask(&platform, "shop.alice", "hot/default/1000000", "k", b"")
                        .is(500)
                        .mentions("after 10000: an invocation may make 10000 calls");
                }
            });
        }
    });
    let report = others.stop();
    println!(
        "{} requests of another tenant beside them, the slowest in {:?}",
        report.requests, report.slowest
    );
    assert!(report.slowest < Duration::from_secs(1), "{report:?}");
    report.is_clean();
}

#[test]
fn values_that_come_over_the_api_are_bounded_for_each_tenant() {
    let platform = Platform::start();
    platform.deploy_with("shop", &guest("kv_spin"), GRANT);
    let path = platform.api.path("apps/shop/kv/default/key");
    let begin = || {
        let api = &platform.api;
        let mut connection = Connection::open(api.address, "api").unwrap();
        let head = format!(
            "authorization: Bearer {}\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\n",
            api.token,
            25 << 20
        );
        connection
            .send_head("PUT", &format!("/v1/{path}"), &head)
            .unwrap();
        connection.send(b"x").unwrap();
        connection
    };
    let begun = begin();
    // One more is refused, once that is known of.
    eventually("the second finds no room", || {
        let mut more = begin();
        more.stream()
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        match more.reply("PUT") {
            Ok(reply) => Some(reply.is(503).mentions("stores-busy")),
            // It is the first itself, until that has arrived.
            Err(_) => None,
        }
    });
    let kind = "content-type: application/octet-stream\r\n";
    let bob = platform.api.new_tenant("bob");
    bob.deploy(&manifest_of("shop", GRANT), &guest("kv_spin"));
    let theirs = bob.path("apps/shop/kv/default/key");
    bob.send("PUT", &theirs, kind, &[0; 25 << 20]).is(200);
    drop(begun);
    eventually("there is room again", || {
        let answer = platform.api.send("PUT", &path, kind, &[0; 1 << 20]);
        (answer.reply.status() == 200).then_some(())
    });
}
