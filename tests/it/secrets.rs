//! Secrets: through every interface, the API and the command line; rotated, walled off, sealed, and there after a crash.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::collector::Collector;
use tests::load::{Check, Load};
use tests::{
    Answer, Api, Connection, Dev, Guest, Platform, Pty, Ran, Reply, bare, descendants, eventually,
    guest, manifest_of, skip,
};

use crate::certificates::files;

const GRANT: &str = "grant = { config = { currency = 'EUR' }, secrets = ['stripe-key'] }";
/// The versions of `wasi:config/store`, as the guest `config` calls them.
const VERSIONS: [&str; 3] = ["draft", "dated", "candidate"];

/// Sets a secret of the tenant that `api` is for.
fn set(api: &Api, name: &str, value: impl AsRef<[u8]>) -> Answer {
    let kind = "content-type: application/octet-stream\r\n";
    let path = api.path(&format!("secrets/{name}"));
    api.send("PUT", &path, kind, value.as_ref())
}

/// Sets one, and asserts that every node had it when that was answered.
#[track_caller]
pub fn put(api: &Api, name: &str, value: &str) -> Value {
    let answer = set(api, name, value);
    assert!(answer.reply.status() < 300, "{}", answer.reply.text());
    let live = &answer.json["live"];
    assert_eq!(live["nodes"], live["of"], "{live}");
    assert_ne!(live["of"], 0, "{live}");
    answer.json
}

#[track_caller]
fn delete(api: &Api, name: &str) -> Value {
    let path = api.path(&format!("secrets/{name}"));
    api.ask("DELETE", &path, None).is(200).json
}

/// What a guest finds by a name: `operation` is one of the guests' of configuration.
fn ask(platform: &Platform, app: &str, operation: &str, name: &str) -> Reply {
    let name: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
    platform.get(app, &format!("/{operation}?{name}"))
}

fn text(file: impl AsRef<std::path::Path>) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}

#[test]
fn every_interface_reads_a_secret_that_was_granted() {
    let platform = Platform::start();
    let api = &platform.api;
    let deploy = |app: &str, wasm: &[u8], more: &str| {
        let manifest = format!("{GRANT}\n{more}");
        api.deploy(&manifest_of(app, &manifest), wasm)
    };
    let missing = |deployed: model::api::Deployed| -> Vec<String> {
        let missing = deployed.secrets_missing.iter();
        missing.map(ToString::to_string).collect()
    };
    assert_eq!(
        missing(deploy("config", &guest("config"), "")),
        ["stripe-key"]
    );
    deploy("variables", &guest("variables"), "");
    let service = Guest::Service("variables").bytes();
    deploy("service", &service, "");
    deploy("reused", &service, "[reuse]");
    let of_spin = ["variables", "service", "reused"];

    // What is granted and not set is undefined, in the words of each.
    for version in VERSIONS {
        let operation = format!("get/{version}");
        ask(&platform, "config", &operation, "stripe-key")
            .is(404)
            .says("none");
        ask(&platform, "config", &operation, "currency")
            .is(200)
            .says("EUR");
    }
    for app in of_spin {
        let get = |name: &str| platform.get(app, &format!("/get?{name}"));
        get("stripe_key").is(500).says("undefined stripe_key");
        get("currency").is(200).says("EUR");
    }

    let answer = put(api, "stripe-key", "sk\0_live\n1");
    let granted = json!(["config", "reused", "service", "variables"]);
    assert_eq!(answer["secret"]["granted"], granted);
    for version in VERSIONS {
        let operation = format!("get/{version}");
        for name in ["stripe-key", "stripe_key"] {
            ask(&platform, "config", &operation, name)
                .is(200)
                .says("sk\0_live\n1");
        }
        // Whoever shows all of its configuration shows no secret.
        let all = ask(&platform, "config", &format!("all/{version}"), "");
        all.is(200).says("currency=EUR");
    }
    for app in of_spin {
        let get = |name: &str| platform.get(app, &format!("/get?{name}"));
        get("stripe_key").is(200).says("sk\0_live\n1");
        get("stripe-key").is(500).says("invalid-name stripe-key");
        get("currency").is(200).says("EUR");
        get("other").is(500).says("undefined other");
    }
    // A secret of the tenant's that no grant of the app names is like one that nobody has, and one is granted by name.
    put(api, "other", "more");
    ask(&platform, "config", "get/draft", "other")
        .is(404)
        .says("none");
    platform
        .get("variables", "/get?other")
        .is(500)
        .says("undefined other");
    api.deploy(
        &manifest_of("config", "grant = { secrets = ['other'] }"),
        &guest("config"),
    );
    ask(&platform, "config", "get/draft", "other")
        .is(200)
        .says("more");
    ask(&platform, "config", "get/draft", "stripe-key").is(404);
    // Without a grant there is nothing, and no environment variable ever.
    platform.deploy("environment", &guest("environment"));
    let shown = platform.get("environment", "/").is(200).text();
    assert!(!shown.contains("sk"), "{shown}");
}

/// Each reply must hold a value that was the newest one at some time of its request.
struct Newest {
    /// The number of the newest value whose setting was answered, and of the newest that was sent.
    answered: AtomicU64,
    sent: AtomicU64,
}

impl Check for Newest {
    type Sent = u64;

    fn before(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    fn after(&self, oldest: u64, reply: &Reply) -> Result<(), String> {
        let newest = self.sent.load(Ordering::SeqCst);
        let said = reply.text();
        let number = said
            .strip_prefix("value ")
            .and_then(|text| text.parse().ok());
        match number {
            Some(number) if reply.status() == 200 && (oldest..=newest).contains(&number) => Ok(()),
            _ => Err(format!(
                "{} {said:?} of {oldest} to {newest}",
                reply.status()
            )),
        }
    }
}

#[test]
fn a_secret_is_rotated_without_a_new_version_and_no_request_notices() {
    let platform = Platform::configured("workers = 2");
    let service = Guest::Service("variables").bytes();
    let before = [
        platform.deploy_with("config", &guest("config"), GRANT),
        platform.deploy_with("service", &service, &format!("{GRANT}\n[reuse]")),
    ];
    put(&platform.api, "stripe-key", "value 0");
    let newest = Arc::new(Newest {
        answered: AtomicU64::new(0),
        sent: AtomicU64::new(0),
    });
    let start = |app: &str, path: &str| {
        let pause = Duration::from_millis(1);
        Load::start(
            platform.listen,
            &platform.host(app),
            path,
            4,
            pause,
            newest.clone(),
        )
    };
    let loads = [
        start("config", "/get/candidate?stripe-key"),
        start("service", "/get?stripe_key"),
    ];
    for number in 1..=100 {
        newest.sent.store(number, Ordering::SeqCst);
        put(&platform.api, "stripe-key", &format!("value {number}"));
        newest.answered.store(number, Ordering::SeqCst);
    }
    for load in loads {
        eventually("there was some load", || {
            (load.requests() > 100).then_some(())
        });
        load.stop().is_clean();
    }
    for deployed in before {
        let listed = platform.api.get(&platform.api.path("apps")).is(200).json;
        let serves = |app: &Value| app["version"] == json!(deployed.deployment.version);
        assert!(listed.as_array().unwrap().iter().all(serves), "{listed}");
    }
    assert_eq!(platform.metric("midge_worker_restarts_total"), 0.0);
}

/// A request that has read once, and reads again when it is told to.
pub struct Twice(Connection, Vec<u8>);

impl Twice {
    pub fn begin(platform: &Platform, app: &str, first: &str) -> Self {
        let mut connection = platform.connect(app);
        let chunked = "transfer-encoding: chunked\r\n";
        connection
            .send_head("POST", "/twice/draft?stripe-key", chunked)
            .unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        let mut body = Vec::new();
        connection.chunk(&mut body).unwrap();
        assert_eq!(String::from_utf8_lossy(&body), format!("{first}\n"));
        Self(connection, Vec::new())
    }

    #[track_caller]
    pub fn reads_again(mut self, second: &str) {
        self.0.send_chunk(b"").unwrap();
        while self.0.chunk(&mut self.1).unwrap() > 0 {}
        assert_eq!(String::from_utf8_lossy(&self.1), format!("{second}\n"));
    }
}

#[test]
fn a_grant_is_revoked_and_a_secret_deleted_while_requests_are_in_flight() {
    let platform = Platform::start();
    platform.deploy_with("shop", &guest("config"), GRANT);
    put(&platform.api, "stripe-key", "one");
    let one = "Ok(Some(\"one\"))";
    let begun = Twice::begin(&platform, "shop", one);
    let deployed = platform.deploy_with("shop", &guest("config"), "grant = { secrets = ['b'] }");
    assert_eq!(deployed.secrets_missing[0].as_str(), "b");
    // The request ends on the version it began with; the next one has no such grant.
    ask(&platform, "shop", "get/draft", "stripe-key").is(404);
    begun.reads_again(one);
    ask(&platform, "shop", "get/draft", "b").is(404);
    put(&platform.api, "b", "set later");
    ask(&platform, "shop", "get/draft", "b")
        .is(200)
        .says("set later");

    platform.deploy_with("shop", &guest("config"), GRANT);
    let begun = Twice::begin(&platform, "shop", one);
    put(&platform.api, "stripe-key", "two");
    begun.reads_again("Ok(Some(\"two\"))");
    let begun = Twice::begin(&platform, "shop", "Ok(Some(\"two\"))");
    let gone = delete(&platform.api, "stripe-key");
    assert_eq!(gone["secret"]["granted"], json!(["shop"]));
    begun.reads_again("Ok(None)");
    ask(&platform, "shop", "get/draft", "stripe-key").is(404);
}

/// What makes another name of `name`, which `tenant` and `app` have.
type Transformation = fn(name: &str, tenant: &str, app: &str) -> String;

/// How somebody may try to name what is another's.
const TRANSFORMATIONS: [(&str, Transformation); 14] = [
    ("as it is", |name, _, _| name.into()),
    ("with underscores", |name, _, _| name.replace('-', "_")),
    ("below its tenant", |name, tenant, _| {
        format!("{tenant}/{name}")
    }),
    ("below its app", |name, tenant, app| {
        format!("{tenant}/{app}/{name}")
    }),
    ("upwards", |name, tenant, _| format!("../{tenant}/{name}")),
    ("as it is sealed", |name, tenant, _| {
        format!("secret {tenant}/{name}")
    }),
    ("as a grant", |name, _, _| format!("secrets.{name}")),
    ("in capitals", |name, _, _| name.to_uppercase()),
    ("ended early", |name, _, _| format!("{name}\0")),
    ("begun late", |name, _, _| format!("\0{name}")),
    ("with a space", |name, _, _| format!("{name} ")),
    ("with nothing in between", |name, _, _| {
        name.replacen('-', "\u{200b}-", 1)
    }),
    ("framed", |name, tenant, _| {
        let lengths = [tenant, name].map(|text| char::from(text.len() as u8));
        format!("{}{tenant}{}{name}", lengths[0], lengths[1])
    }),
    ("as a pattern", |name, _, _| format!("{}*", &name[..1])),
];

/// Whoever may name what is another's, by whatever name: each transformation, against each pair of owners.
#[test]
fn nobody_reads_a_secret_that_was_not_granted_by_any_name() {
    let platform = Platform::start();
    let tenants = [
        platform.api.clone(),
        platform.api.new_tenant("alice"),
        platform.api.new_tenant("bob"),
    ];
    // Each tenant has secrets of the same names, and two apps that are granted one each.
    const NAMES: [&str; 3] = ["stripe-key", "shop", "a-b-c"];
    let secret = |tenant: &str, name: &str| format!("the secret {name} of {tenant}");
    let mut thieves = Vec::new();
    for api in &tenants {
        let tenant = api.tenant.as_str();
        for name in NAMES {
            put(api, name, &secret(tenant, name));
        }
        for (app, granted) in [("shop", "stripe-key"), ("blog", "shop")] {
            let grant =
                format!("grant = {{ config = {{ own = 'mine' }}, secrets = ['{granted}'] }}");
            for kind in ["config", "variables"] {
                let called = format!("{app}-{kind}");
                api.deploy(&manifest_of(&called, &grant), &guest(kind));
            }
            thieves.push((tenant, app, granted));
        }
    }
    let reach = |tenant: &str, app: &str, kind: &str| match tenant {
        "default" => format!("{app}-{kind}"),
        _ => format!("{app}-{kind}.{tenant}"),
    };
    let mut tried = [0; TRANSFORMATIONS.len()];
    for (thief, app, granted) in &thieves {
        let mut open =
            ["config", "variables"].map(|kind| platform.connect(&reach(thief, app, kind)));
        let mut try_one = |kind: usize, path: &str| open[kind].get(path).unwrap().text();
        for api in &tenants {
            let victim = api.tenant.as_str();
            for name in NAMES {
                for ((_, transform), tried) in TRANSFORMATIONS.iter().zip(&mut tried) {
                    let written = transform(name, victim, app);
                    let query: String = written.bytes().map(|b| format!("%{b:02x}")).collect();
                    let mut texts: Vec<String> = VERSIONS
                        .iter()
                        .map(|version| try_one(0, &format!("/get/{version}?{query}")))
                        .collect();
                    texts.push(try_one(0, &format!("/all/candidate?{query}")));
                    texts.push(try_one(1, &format!("/get?{query}")));
                    *tried += texts.len();
                    // Its own, by a name that means it, is all that it may find.
                    let own = secret(thief, granted);
                    for text in texts {
                        let stolen = text.contains("the secret") && text != own;
                        assert!(!stolen, "{thief}/{app} {written:?}: {text}");
                    }
                }
            }
        }
        // What is not granted is told apart by nothing but the guest's own word for it.
        let found = |name: &str| ask(&platform, &reach(thief, app, "config"), "get/draft", name);
        found("a-b-c").is(404).says("none");
        found("nobody-has-it").is(404).says("none");
        found(granted).is(200).says(&secret(thief, granted));
        found("own").is(200).says("mine");
    }
    for ((name, _), tried) in TRANSFORMATIONS.iter().zip(tried) {
        assert!(tried >= 100, "{name}: {tried}");
    }

    // The API's walls are the tokens'.
    let [_, alice, bob] = &tenants;
    let theirs = bob.of("alice");
    let part = "the whole tenant `alice`";
    set(&theirs, "shop", "forged").refuses(403, "scope", part);
    theirs
        .get(&theirs.path("secrets"))
        .refuses(403, "scope", part);
    let path = theirs.path("secrets/shop");
    theirs
        .ask("DELETE", &path, None)
        .refuses(403, "scope", part);
    let listed = alice.get(&alice.path("secrets")).is(200).json;
    assert_eq!(listed.as_array().unwrap().len(), NAMES.len());
    let granted = |api: &Api, name: &str| {
        let listed = api.get(&api.path("secrets")).is(200).json;
        let all = listed.as_array().unwrap();
        let found = all.iter().find(|secret| secret["name"] == name).unwrap();
        found["granted"].clone()
    };
    assert_eq!(
        granted(alice, "shop"),
        json!(["blog-config", "blog-variables"])
    );
    assert_eq!(granted(alice, "a-b-c"), json!([]));
}

/// A name of another's takes as long to look for as one that nobody has.
#[test]
fn how_long_a_name_takes_tells_nothing_of_others() {
    let platform = Platform::start();
    let alice = platform.api.new_tenant("alice");
    for number in 0..50 {
        put(&platform.api, &format!("key-{number}"), "x");
        put(&alice, &format!("hers-{number}"), &"x".repeat(60_000));
    }
    platform.deploy_with("shop", &guest("config"), GRANT);
    let mut connection = platform.connect("shop");
    let mut quickest = [Duration::MAX; 3];
    for _ in 0..300 {
        for (name, quickest) in ["none-1", "key-7", "hers-7"].iter().zip(&mut quickest) {
            let began = Instant::now();
            connection
                .get(&format!("/get/draft?{name}"))
                .unwrap()
                .is(404);
            *quickest = began.elapsed().min(*quickest);
        }
    }
    let (least, most) = (
        quickest.iter().min().unwrap(),
        quickest.iter().max().unwrap(),
    );
    assert!(*most < *least * 2, "{quickest:?}");
}

#[test]
fn a_value_is_nowhere_but_sealed() {
    let collector = Collector::start();
    let url = collector.url();
    let mut platform = Platform::configured(&format!(
        "[telemetry]\notlp = \"{url}\"\ntraces = 1.0\nlogs = ['file', 'otlp']"
    ));
    let alice = platform.api.new_tenant("alice");
    let (value, older, refused) = ("hunter2-of-alice", "hunter1-of-alice", "hunter3-of-alice");
    let values = [value, older, refused];
    let deploy = |app: &str, kind: &'static str, more: &str| {
        alice.deploy(&manifest_of(app, &format!("{GRANT}\n{more}")), &guest(kind));
    };
    deploy("shop", "config", "");
    deploy("environment", "environment", "");
    let mut told = vec![
        put(&alice, "stripe-key", older),
        put(&alice, "stripe-key", value),
    ];
    told.push(
        set(&alice, "stripe-key", [refused.as_bytes(), b"\xff"].concat())
            .is(422)
            .json,
    );
    told.push(set(&alice, "stripe-key", refused.repeat(5000)).is(413).json);
    told.push(set(&alice, "Stripe", refused).is(400).json);
    let kind = "content-type: application/json\r\n";
    let path = alice.path("secrets/stripe-key");
    told.push(
        alice
            .send("PUT", &path, kind, refused.as_bytes())
            .is(415)
            .json,
    );
    told.push(alice.get(&alice.path("secrets")).is(200).json);

    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traced = format!("traceparent: 00-{id}-00f067aa0ba902b7-01\r\n");
    let mut connection = platform.connect("shop.alice");
    let reply = connection
        .request("GET", "/get/draft?stripe-key", &traced, b"")
        .unwrap();
    assert_eq!(reply.text(), value);
    let spans = collector.trace(id);
    assert!(
        spans.iter().any(|span| span.name == "secrets.get"),
        "{spans:?}"
    );
    let spans = format!("{spans:?}");
    platform.get("environment.alice", "/").is(200);
    let logs = ["--tenant", "alice", "--json"];
    let mut texts: Vec<String> = told.iter().map(ToString::to_string).collect();
    texts.push(spans);
    for arguments in [
        &["logs", "shop"][..],
        &["logs", "environment"],
        &["secret", "list"],
        &["versions", "shop"],
    ] {
        let Ran { out, err, .. } = platform.run(&[arguments, &logs].concat()).exits(0);
        texts.extend([out, err]);
    }
    texts.push(platform.get("environment.alice", "/").text());
    for path in [
        "/metrics",
        "/v1/status",
        "/v1/usage",
        "/v1/tenants/alice/apps/shop/deployment",
    ] {
        texts.push(platform.api.get(path).is(200).reply.text());
    }
    let backup = platform.folder().join("backup.tar");
    platform.run(&["backup", backup.to_str().unwrap()]).exits(0);
    texts.push(text(&backup));
    for process in [vec![platform.id()], descendants(platform.id())].concat() {
        for file in ["environ", "cmdline"] {
            texts.push(text(format!("/proc/{process}/{file}")));
        }
    }
    platform.stop();
    texts.push(platform.said());
    texts.push(format!("{:?}", collector.received()));
    texts.extend(files(platform.folder()).iter().map(text));
    for text in &texts {
        for value in values {
            assert!(!text.contains(value), "{value} is in {text}");
        }
    }
    assert!(texts.len() > 30, "{}", texts.len());
}

/// What an app writes itself is its own: nothing looks through replies and logs for secrets.
#[test]
fn what_an_app_writes_of_a_secret_is_written() {
    let platform = Platform::start();
    platform.deploy_with("shop", &guest("config"), GRANT);
    put(&platform.api, "stripe-key", "hunter2");
    ask(&platform, "shop", "print/draft", "stripe-key").is(200);
    eventually("the line is in the app's log", || {
        let ran = platform.run(&["logs", "shop"]);
        ran.out.contains("it is Some(\"hunter2\")").then_some(())
    });
}

#[test]
fn who_holds_secrets_leaves_no_core_behind() {
    let platform = Platform::start();
    let allow = |id: u32| {
        let most = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the limit is read, and nothing is written.
        let done =
            unsafe { libc::prlimit(id as i32, libc::RLIMIT_CORE, &most, std::ptr::null_mut()) };
        done == 0
    };
    let mut other = Command::new("sleep")
        .arg("100")
        .current_dir(platform.folder())
        .spawn()
        .unwrap();
    let allowed = allow(other.id());
    platform.signal(other.id(), libc::SIGABRT);
    if !other.wait().unwrap().core_dumped() || !allowed {
        return skip("core dumps", "this machine writes none of any process");
    }
    let worker = platform.workers()[0];
    assert!(allow(worker));
    platform.signal(worker, libc::SIGABRT);
    let said = eventually("the worker's end is told", || {
        let said = platform.said();
        said.contains("another takes its place").then_some(said)
    });
    assert!(said.contains("signal: 6"), "{said}");
    assert!(!said.contains("core dumped"), "{said}");
}

#[test]
fn secrets_outlive_restarts_upgrades_crashes_and_workers() {
    let mut platform = Platform::configured("workers = 2");
    platform.deploy_with("shop", &guest("config"), GRANT);
    let reads = |platform: &Platform, value: &str| {
        for _ in 0..8 {
            ask(platform, "shop", "get/draft", "stripe-key")
                .is(200)
                .says(value);
        }
    };
    put(&platform.api, "stripe-key", "one");
    put(&platform.api, "gone", "two");
    platform.restart();
    reads(&platform, "one");
    delete(&platform.api, "gone");
    let (_, leaving) = platform.upgrade();
    reads(&platform, "one");
    // No reader of the old value is left when this is answered, in either process.
    put(&platform.api, "stripe-key", "three");
    reads(&platform, "three");
    leaving.ended();
    reads(&platform, "three");
    for number in 0..10 {
        let value = format!("after {number} crashes");
        put(&platform.api, "stripe-key", &value);
        platform.kill_tree();
        platform.start_again();
        reads(&platform, &value);
    }
    let listed = platform.api.get(&platform.api.path("secrets")).is(200).json;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");

    // A worker accepts nothing before it has them.
    let killed = platform.workers();
    for worker in &killed {
        platform.signal(*worker, libc::SIGKILL);
    }
    let now = put(&platform.api, "stripe-key", "last");
    assert_eq!(now["live"]["nodes"], 1);
    eventually("both have successors", || {
        let workers = platform.workers();
        let new = workers.iter().all(|worker| !killed.contains(worker));
        (new && workers.len() == 2).then_some(())
    });
    reads(&platform, "last");
}

#[test]
fn a_killed_worker_keeps_no_request_from_a_secret() {
    let platform = Platform::configured("workers = 2");
    platform.deploy_with("shop", &guest("config"), GRANT);
    put(&platform.api, "stripe-key", "one");
    for _ in 0..5 {
        platform.signal(platform.workers()[0], libc::SIGKILL);
        for _ in 0..100 {
            let asked = platform.connect("shop").get("/get/draft?stripe-key");
            // A connection that the dead worker had is cut; none finds the secret missing.
            if let Ok(reply) = asked {
                reply.is(200).says("one");
            }
        }
        eventually("another takes its place", || {
            (platform.workers().len() == 2).then_some(())
        });
    }
}

#[test]
fn a_backup_brings_secrets_and_what_opens_them() {
    let mut platform = Platform::start();
    platform.deploy_with("shop", &guest("config"), GRANT);
    put(&platform.api, "stripe-key", "one");
    let backup = platform.folder().join("backup.tar");
    let backup = backup.to_str().unwrap().to_owned();
    platform.run(&["backup", &backup]).exits(0);
    put(&platform.api, "stripe-key", "two");
    platform.stop();
    let data = platform.data();
    fs::rename(&data, platform.folder().join("lost")).unwrap();
    platform
        .run_alone(&["restore", &backup, "--data", data.to_str().unwrap()])
        .exits(0);
    platform.start_again();
    ask(&platform, "shop", "get/draft", "stripe-key")
        .is(200)
        .says("one");
    put(&platform.api, "stripe-key", "three");
    ask(&platform, "shop", "get/draft", "stripe-key")
        .is(200)
        .says("three");

    // Without the key that sealed them they are named, and can be set again.
    platform.stop();
    fs::remove_file(data.join("keys/secrets")).unwrap();
    platform.start_again();
    let said = platform.said();
    for part in [
        "the secret `stripe-key` of the tenant `default`",
        "`keys/secrets`",
    ] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    ask(&platform, "shop", "get/draft", "stripe-key").is(404);
    put(&platform.api, "stripe-key", "four");
    ask(&platform, "shop", "get/draft", "stripe-key")
        .is(200)
        .says("four");
}

/// Runs `midge secret …` with `input` as its standard input.
fn piped(platform: &Platform, arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = platform.command(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // One that refuses what it has read does not read on.
    let _ = stdin.write_all(input);
    drop(stdin);
    Ran::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn the_command_line_sets_lists_and_deletes() {
    let platform = Platform::start();
    platform.deploy("idle", &guest("hello"));
    let run = |arguments: &[&str]| platform.run(arguments);
    let reads = |value: &str| {
        ask(&platform, "shop", "get/draft", "stripe-key")
            .is(200)
            .says(value);
    };
    let set = ["secret", "set", "stripe-key"];
    let first = piped(&platform, &set, b"one\n").exits(0);
    first
        .says("set stripe-key: live on 1 of 1 nodes in ")
        .says("add `secrets = [\"stripe-key\"]` below `[grant]` in midge.toml");
    platform.deploy_with("shop", &guest("config"), GRANT);
    reads("one");
    let second = piped(&platform, &set, b" two\r\nlines\n\n").exits(0);
    assert!(second.err.is_empty(), "{}", second.err);
    reads(" two\r\nlines\n");
    let most = "x".repeat(64 << 10);
    let file = platform.folder().join("key");
    fs::write(&file, format!("{most}\n")).unwrap();
    let from = [&set[..], &["--from", "key", "--json"]].concat();
    let third = run(&from).exits(0).json();
    assert_eq!(third["secret"]["granted"], json!(["shop"]));
    reads(&most);
    fs::write(&file, format!("{most}x")).unwrap();
    run(&from)
        .exits(2)
        .says("`key` cannot be a secret")
        .says("a secret may have 64KiB");
    fs::write(&file, b"two\xff").unwrap();
    run(&from).exits(2).says("its byte 3 is not UTF-8");
    fs::remove_file(&file).unwrap();
    run(&from).exits(1).says("`key`");
    piped(&platform, &set, b"\n")
        .exits(2)
        .says("the value is empty");
    piped(&platform, &["secret", "set", "Stripe"], b"x").exits(2);
    run(&["secret", "set", "stripe-key", "on-the-line"]).exits(2);
    reads(&most);

    let listed = run(&["secret", "list"])
        .exits(0)
        .says("stripe-key")
        .says("shop");
    assert!(!listed.out.contains("xxxx"), "{}", listed.out);
    let listed = run(&["secret", "list", "--json"]).exits(0).json();
    assert_eq!(listed[0]["revision"], 3);
    let path = platform.api.path("apps/shop/versions/1");
    platform.api.get(&path).is(200);
    let gone = run(&["secret", "delete", "stripe-key"]).exits(0);
    gone.says("deleted stripe-key: live on 1 of 1 nodes")
        .says("find it undefined: shop");
    run(&["secret", "delete", "stripe-key"])
        .exits(3)
        .says("no secret `stripe-key`");
    ask(&platform, "shop", "get/draft", "stripe-key").is(404);

    // A deployment says what is missing, and does not mind.
    let folder = platform.folder().join("project");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("shop.wasm"), guest("config")).unwrap();
    let manifest = format!("name = 'shop'\ncomponent = 'shop.wasm'\n{GRANT}\n");
    fs::write(folder.join("midge.toml"), manifest).unwrap();
    let part =
        "shop is granted the secret stripe-key, which is not set: `midge secret set stripe-key`";
    let deployed = platform.run_in(&folder, &["deploy", "--strict"]).exits(0);
    deployed.says(part).says("live on 1 of 1 nodes");
    let deployed = platform
        .run_in(&folder, &["deploy", "--json"])
        .exits(0)
        .json();
    assert_eq!(
        deployed["deployed"]["secrets_missing"],
        json!(["stripe-key"])
    );
    run(&["rollback", "shop"]).exits(0).says(part);
}

#[test]
fn a_terminal_shows_nothing_of_a_secret_that_is_typed() {
    let platform = Platform::start();
    platform.deploy_with("shop", &guest("config"), GRANT);
    let mut terminal = Pty::open();
    let modes = terminal.modes();
    let mut set = terminal.start(&mut platform.command(&["secret", "set", "stripe-key"]));
    terminal.shows("the value of stripe-key: ");
    eventually("nothing is echoed", || {
        (terminal.modes() != modes).then_some(())
    });
    terminal.press("hunterx\u{7f}2é\r".as_bytes());
    assert_eq!(set.wait().unwrap().code(), Some(0), "{}", terminal.shown());
    terminal.shows("set stripe-key: live on 1 of 1 nodes");
    assert!(!terminal.shown().contains("hunter"), "{}", terminal.shown());
    assert_eq!(terminal.modes(), modes);
    ask(&platform, "shop", "get/draft", "stripe-key")
        .is(200)
        .says("hunter2é");

    // Ctrl-C leaves the terminal and the secret as they were.
    let mut terminal = Pty::open();
    let mut set = terminal.start(&mut platform.command(&["secret", "set", "stripe-key"]));
    terminal.shows("the value of stripe-key: ");
    eventually("nothing is echoed", || {
        (terminal.modes() != modes).then_some(())
    });
    terminal.press(b"other\x03");
    assert_eq!(
        set.wait().unwrap().code(),
        Some(130),
        "{}",
        terminal.shown()
    );
    terminal.shows("`stripe-key` was not set");
    assert_eq!(terminal.modes(), modes);
    ask(&platform, "shop", "get/draft", "stripe-key")
        .is(200)
        .says("hunter2é");
}

#[test]
fn the_inner_loop_has_secrets() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("shop.wasm"), guest("config")).unwrap();
    fs::write(folder.path().join("session.key"), "from a file\n").unwrap();
    let dev = Dev::start(
        folder.path(),
        &[
            "shop.wasm",
            "--secret",
            "stripe-key=sk=1",
            "--secret-file",
            "session-key=session.key",
        ],
    );
    dev.get("/get/draft?stripe-key").is(200).says("sk=1");
    dev.get("/get/draft?session_key")
        .is(200)
        .says("from a file");
    assert!(!dev.err().concat().contains("sk=1"), "{:?}", dev.err());
    assert_eq!(dev.end(libc::SIGINT), Some(0));

    // What the manifest grants and nobody sets is told.
    let manifest = format!("name = 'shop'\ncomponent = 'shop.wasm'\n{GRANT}\n");
    fs::write(folder.path().join("midge.toml"), manifest).unwrap();
    let dev = Dev::start(folder.path(), &[]);
    dev.says("shop is granted the secret stripe-key, which is not set");
    dev.get("/get/draft?stripe-key").is(404);
    let check = |arguments: &[&str], exit: i32, part: &str| {
        let mut dev = Dev::start(folder.path(), arguments);
        assert_eq!(dev.wait(), Some(exit), "{arguments:?}");
        dev.says(part);
    };
    check(&["--secret", "stripe-key="], 2, "the value is empty");
    check(&["--secret", "stripe_key=x"], 2, "a name is made of");
    check(&["--secret-file", "stripe-key=nowhere"], 1, "`nowhere`");
}

#[test]
fn a_manifest_grants_so_many_and_none_that_could_be_mistaken() {
    let platform = Platform::start();
    let api = &platform.api;
    let check = |app: &str, grant: &str, part: &str| {
        let manifest = manifest_of(app, &format!("grant = {{ {grant} }}"));
        let answer = api.publish_or_refuse(&manifest, &guest("hello"));
        answer.refuses(422, "manifest-refused", part);
    };
    let many: Vec<String> = (0..33).map(|number| format!("'key-{number}'")).collect();
    let many = format!("secrets = [{}]", many.join(","));
    check("shop", &many, "grants 33 secrets; one app may have 32");
    for value in ["a-b", "a_b"] {
        let both = format!("secrets = ['a-b'], config = {{ {value} = 'x' }}");
        check("shop", &both, &format!("a guest that asks for `{value}`"));
    }
    // Of two spellings, each is somebody's where they cannot be the same.
    let apart = manifest_of(
        "shop",
        "grant = { secrets = ['a-b'], config = { ab = 'x', A-B = 'y', 'a.b' = 'z' } }",
    );
    api.deploy(&apart, &guest("config"));
    put(api, "a-b", "secret");
    for (name, value) in [("a-b", "secret"), ("ab", "x"), ("A-B", "y"), ("a.b", "z")] {
        ask(&platform, "shop", "get/draft", name)
            .is(200)
            .says(value);
    }
    api.deploy(&bare("shop"), &guest("config"));
    ask(&platform, "shop", "get/draft", "a-b").is(404);
}
