//! Certificates of tenants, through both front doors: set over the API, shown in real handshakes, for no host of another's.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::tls::{AlertDescription, Certificate};
use tests::{Answer, Api, eventually, guest, manifest_of};

use crate::tls::Secured;

const HELLO: &str = "Hello, Midge!\n";
/// What the operator's own certificate is for, without which there is no address for TLS.
const OPERATORS: &[&[&str]] = &[&["operator.test"]];

fn body(certificate: &Certificate) -> Value {
    json!({ "chain": certificate.chain, "key": certificate.key })
}

/// Sets a certificate as `api` says who asks and for whom.
fn set(api: &Api, name: &str, certificate: &Certificate) -> Answer {
    let path = api.path(&format!("certificates/{name}"));
    api.ask("PUT", &path, Some(body(certificate)))
}

/// Deploys `hello` as `app`, at this host instead of its own.
#[track_caller]
fn deploy_at(api: &Api, app: &str, host: &str) {
    let manifest = format!("[[route]]\nhost = '{host}'");
    api.deploy(&manifest_of(app, &manifest), &guest("hello"));
}

/// Waits until new clients are shown nothing for this host, whichever worker they meet.
#[track_caller]
fn comes_to_refuse(secured: &Secured, host: &str) {
    let client = secured.authority.client();
    eventually("the host is shown nothing any longer", || {
        let refused = || secured.try_connect(&client, host).is_err();
        (0..8).all(|_| refused()).then_some(())
    });
    secured.refuses(&client, host, AlertDescription::AccessDenied);
}

/// Every file below a folder that can be read as one.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_certificate_serves_without_a_restart_and_is_replaced_and_deleted_so() {
    let secured = Secured::configured("workers = 2", OPERATORS);
    let alice = secured.platform.api.new_tenant("alice");
    deploy_at(&alice, "shop", "shop.test");
    let client = secured.authority.client();
    secured.refuses(&client, "shop.test", AlertDescription::AccessDenied);

    let first = secured.authority.certify(&["shop.test"]);
    let answer = set(&alice, "shop", &first).is(201);
    assert_eq!(answer.json["shown_for"], json!(["shop.test"]));
    secured.comes_to_show("shop.test", &first);
    secured.shows("shop.test", &first);

    let second = secured.authority.certify(&["shop.test", "*.shop.test"]);
    set(&alice, "shop", &second).is(200);
    secured.comes_to_show("shop.test", &second);
    // A host that a route brings, and the one that the app itself had.
    deploy_at(&alice, "cart", "cart.shop.test");
    secured.comes_to_show("cart.shop.test", &second);
    let own = secured.authority.certify(&["cart.alice.apps.test"]);
    set(&alice, "own", &own).is(201);
    secured.refuses(
        &client,
        "cart.alice.apps.test",
        AlertDescription::AccessDenied,
    );
    alice.deploy(&manifest_of("cart", ""), &guest("hello"));
    secured.comes_to_show("cart.alice.apps.test", &own);
    comes_to_refuse(&secured, "cart.shop.test");

    let mut kept = secured.connect("shop.test");
    let path = alice.path("certificates/shop");
    alice.ask("DELETE", &path, None).is(204);
    comes_to_refuse(&secured, "shop.test");
    // Whoever is connected is served on.
    kept.get("/").unwrap().is(200).says(HELLO);
    secured.shows("cart.alice.apps.test", &own);
    alice.ask("DELETE", &alice.path("apps/cart"), None).is(200);
    comes_to_refuse(&secured, "cart.alice.apps.test");
    assert_eq!(secured.platform.metric("midge_worker_restarts_total"), 0.0);
}

#[test]
fn no_tenant_takes_anothers_host_over() {
    let secured = Secured::start(OPERATORS);
    let api = &secured.platform.api;
    let (alice, bob) = (api.new_tenant("alice"), api.new_tenant("bob"));
    let client = secured.authority.client();
    // Alice is first to bring certificates, for all there may be, and has one host herself.
    deploy_at(&alice, "shop", "a.shop.test");
    let greedy = ["a.shop.test", "b.shop.test", "*.shop.test", "*.test"];
    let greedy = secured.authority.certify(&greedy);
    let answer = set(&alice, "greedy", &greedy).is(201);
    assert_eq!(answer.json["shown_for"], json!(["a.shop.test"]));
    secured.comes_to_show("a.shop.test", &greedy);
    deploy_at(&bob, "shop", "b.shop.test");
    deploy_at(&bob, "cart", "c.shop.test");
    for host in ["b.shop.test", "c.shop.test", "d.shop.test", "d.test"] {
        secured.refuses(&client, host, AlertDescription::AccessDenied);
    }
    // Bob's are shown for his, hers for hers.
    let bobs = secured.authority.certify(&["b.shop.test", "*.shop.test"]);
    set(&bob, "shop", &bobs).is(201);
    secured.comes_to_show("b.shop.test", &bobs);
    secured.shows("c.shop.test", &bobs);
    secured.shows("a.shop.test", &greedy);
    // What names another's host in full is refused from now on.
    let part = "`b.shop.test`, a host that another tenant's app has";
    set(&alice, "more", &greedy).refuses(409, "certificate-host-taken", part);
    // A host that changes hands takes its certificate along from neither.
    bob.ask("DELETE", &bob.path("apps/shop"), None).is(200);
    comes_to_refuse(&secured, "b.shop.test");
    deploy_at(&alice, "taken", "b.shop.test");
    secured.comes_to_show("b.shop.test", &greedy);
    // With bob's token nothing can be done to alice's.
    let hers = bob.of("alice");
    for (method, path) in [
        ("GET", "certificates"),
        ("PUT", "certificates/greedy"),
        ("DELETE", "certificates/greedy"),
    ] {
        let sent = (method == "PUT").then(|| body(&bobs));
        let answer = hers.ask(method, &hers.path(path), sent);
        answer.refuses(403, "scope", "the whole tenant `alice`");
    }
}

#[test]
fn the_platforms_domain_is_the_operators_but_for_apps_own_hosts() {
    let secured = Secured::start(&[&["*.apps.test", "operator.test"]]);
    let alice = secured.platform.api.new_tenant("alice");
    let default = &secured.platform.api;
    let check = |api: &Api, host: &str| {
        let certificate = secured.authority.certify(&["fine.test", host]);
        let part = format!("`{host}`, which lies within the platform's domain `apps.test`");
        set(api, "greedy", &certificate).refuses(422, "certificate-host-reserved", &part);
    };
    for host in [
        "apps.test",
        "*.apps.test",
        "*.alice.apps.test",
        "alice.apps.test",
        "shop.bob.apps.test",
        "shop.apps.test",
    ] {
        check(&alice, host);
    }
    for host in ["apps.test", "*.apps.test", "shop.alice.apps.test"] {
        check(default, host);
    }
    // An own host in full comes before the operator's `*`; what the operator names in full is the operator's.
    default.deploy(&manifest_of("hello", ""), &guest("hello"));
    secured.connect("hello.apps.test").get("/").unwrap().is(200);
    let own = secured.authority.certify(&["hello.apps.test"]);
    set(default, "hello", &own).is(201);
    secured.comes_to_show("hello.apps.test", &own);
    deploy_at(&alice, "imposter", "operator.test");
    let imposter = secured.authority.certify(&["operator.test", "alices.test"]);
    set(&alice, "imposter", &imposter).is(201);
    deploy_at(&alice, "other", "alices.test");
    secured.comes_to_show("alices.test", &imposter);
    let shown = secured.connect("operator.test");
    assert!(!shown.stream().was_shown(&imposter));
}

#[test]
fn what_cannot_be_used_is_refused_and_what_was_set_serves_on() {
    let secured = Secured::start(OPERATORS);
    let alice = secured.platform.api.new_tenant("alice");
    deploy_at(&alice, "shop", "shop.test");
    let good = secured.authority.certify(&["shop.test"]);
    set(&alice, "shop", &good).is(201);
    secured.comes_to_show("shop.test", &good);

    let check = |chain: &str, key: &str, status: u16, code: &str, part: &str| {
        let certificate = Certificate {
            chain: chain.to_owned(),
            key: key.to_owned(),
            ..good.clone()
        };
        set(&alice, "shop", &certificate).refuses(status, code, part);
    };
    let unusable = |chain: &str, key: &str, part: &str| {
        check(chain, key, 422, "certificate-unusable", part);
    };
    let Certificate { chain, key, .. } = &good;
    let other = secured.authority.certify(&["shop.test"]);
    unusable(chain, &other.key, "is not that of the certificate");
    unusable(&other.chain, key, "is not that of the certificate");
    unusable("", key, "`chain` holds no certificate");
    unusable("garbage", key, "`chain` holds no certificate");
    unusable(key, key, "`chain` holds no certificate");
    unusable(chain, "", "`key` holds no private key");
    unusable(chain, "garbage", "`key` holds no private key");
    unusable(chain, chain, "`key` holds no private key");
    unusable(&chain[..chain.len() / 4], key, "`chain` cannot be read");
    let nothing = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    unusable(nothing, key, "`chain` cannot be read");
    unusable(
        &nothing.replace("aGVsbG8=", "?"),
        key,
        "`chain` cannot be read",
    );
    let nothing = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    unusable(chain, nothing, "of a kind that cannot be used");
    let nameless = secured.authority.certify(&["127.0.0.1"]);
    unusable(&nameless.chain, &nameless.key, "names no host");

    let out_of_time = |certificate: &Certificate, part: &str| {
        let Certificate { chain, key, .. } = certificate;
        check(chain, key, 422, "certificate-out-of-time", part);
    };
    out_of_time(
        &secured.authority.certify_once(&["shop.test"]),
        "ended on 2020-01-01",
    );
    let some_day = secured.authority.certify_some_day(&["shop.test"]);
    out_of_time(&some_day, "begins on 3000-01-01");

    let large = "x".repeat(65 << 10);
    check(
        &large,
        key,
        413,
        "certificate-too-large",
        "`chain` is larger than 64KiB",
    );
    check(
        chain,
        &large,
        413,
        "certificate-too-large",
        "`key` is larger than 64KiB",
    );
    let larger = "x".repeat(2 << 20);
    check(&larger, key, 413, "body-too-large", "1MiB");
    let many: Vec<String> = (0..101)
        .map(|number| format!("host-{number}.test"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let many = secured.authority.certify(&many);
    let part = "names 101 hosts; it may name 100";
    check(&many.chain, &many.key, 422, "certificate-hosts", part);
    let internal = secured.authority.certify(&["shop.app.internal"]);
    let Certificate { chain, key, .. } = &internal;
    check(
        chain,
        key,
        422,
        "certificate-host-reserved",
        "inside the platform",
    );
    let strange = secured.authority.certify(&["shop_1.test"]);
    let Certificate { chain, key, .. } = &strange;
    check(
        chain,
        key,
        422,
        "certificate-hosts",
        "`shop_1.test`, which is not a host",
    );

    let listed = alice.get(&alice.path("certificates")).is(200).json;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    secured.shows("shop.test", &good);
}

#[test]
fn certificates_outlive_restarts_crashes_upgrades_and_a_worker() {
    let mut secured = Secured::configured("workers = 1", OPERATORS);
    let alice = secured.platform.api.new_tenant("alice");
    deploy_at(&alice, "shop", "shop.test");
    let certificate = secured.authority.certify(&["shop.test"]);
    set(&alice, "shop", &certificate).is(201);
    secured.comes_to_show("shop.test", &certificate);
    secured.platform.restart();
    secured.address = secured.platform.tls();
    // From the first connection on.
    secured.shows("shop.test", &certificate);
    secured.platform.crash();
    secured.address = secured.platform.tls();
    secured.shows("shop.test", &certificate);
    let before = secured.platform.workers();
    secured.platform.signal(before[0], libc::SIGKILL);
    eventually("another takes its place", || {
        let now = secured.platform.workers();
        (now.len() == 1 && now != before).then_some(())
    });
    secured.shows("shop.test", &certificate);
    let (_, leaving) = secured.platform.upgrade();
    secured.shows("shop.test", &certificate);
    leaving.ended();
    let newer = secured.authority.certify(&["shop.test"]);
    let alice = Api {
        address: secured.platform.api.address,
        ..alice
    };
    set(&alice, "shop", &newer).is(200);
    secured.comes_to_show("shop.test", &newer);
    secured.shows("shop.test", &newer);
}

#[test]
fn a_backup_brings_certificates_and_what_opens_their_keys() {
    let mut secured = Secured::start(OPERATORS);
    let alice = secured.platform.api.new_tenant("alice");
    deploy_at(&alice, "shop", "shop.test");
    let certificate = secured.authority.certify(&["shop.test"]);
    set(&alice, "shop", &certificate).is(201);
    secured.comes_to_show("shop.test", &certificate);
    let backup = secured.platform.folder().join("backup.tar");
    let backup = backup.to_str().unwrap();
    secured.platform.run(&["backup", backup]).exits(0);
    secured.platform.stop();
    let data = secured.platform.data();
    fs::rename(&data, secured.platform.folder().join("lost")).unwrap();
    let restore = ["restore", backup, "--data", data.to_str().unwrap()];
    secured.platform.run_alone(&restore).exits(0);
    secured.platform.start_again();
    secured.address = secured.platform.tls();
    secured.shows("shop.test", &certificate);
}

#[test]
fn a_key_is_nowhere_but_sealed() {
    let mut secured = Secured::start(OPERATORS);
    let alice = secured.platform.api.new_tenant("alice");
    deploy_at(&alice, "shop", "shop.test");
    let certificate = secured.authority.certify(&["shop.test"]);
    // As some tools write it: both in one file.
    let both = Certificate {
        chain: format!("{}{}", certificate.key, certificate.chain),
        key: format!("{}{}", certificate.chain, certificate.key),
        ..certificate.clone()
    };
    let shown = set(&alice, "shop", &both).is(201).reply.text();
    secured.comes_to_show("shop.test", &certificate);
    let other = secured.authority.certify(&["other.test"]);
    let mismatched = Certificate {
        key: other.key.clone(),
        ..certificate.clone()
    };
    let refused = set(&alice, "shop", &mismatched).is(422).reply.text();
    let listed = alice.get(&alice.path("certificates")).is(200).reply.text();
    secured.platform.stop();
    let texts = [&certificate, &other].map(|certificate| {
        let lines = certificate
            .key
            .lines()
            .filter(|line| !line.starts_with('-'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    });
    let secrets: Vec<String> = texts
        .concat()
        .into_iter()
        .filter(|text| text.len() > 30)
        .collect();
    assert!(secrets.len() >= 4, "{secrets:?}");
    for secret in &secrets {
        for answer in [&shown, &refused, &listed, &secured.platform.said()] {
            assert!(!answer.contains(secret), "{answer}");
        }
    }
    for path in files(&secured.platform.data()) {
        let bytes = fs::read(&path).unwrap();
        for secret in &secrets {
            let mut places = bytes.windows(secret.len());
            let found = places.any(|place| place == secret.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
    // And the file that opens them is its owner's alone.
    use std::os::unix::fs::PermissionsExt as _;
    let file = fs::metadata(secured.platform.data().join("keys/secrets")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[test]
fn without_the_key_that_sealed_them_certificates_are_named_and_can_be_set_again() {
    let mut secured = Secured::start(OPERATORS);
    let alice = secured.platform.api.new_tenant("alice");
    deploy_at(&alice, "shop", "shop.test");
    let certificate = secured.authority.certify(&["shop.test"]);
    set(&alice, "shop", &certificate).is(201);
    secured.comes_to_show("shop.test", &certificate);
    secured.platform.stop();
    let key = secured.platform.data().join("keys/secrets");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    secured.platform.start_again();
    secured.address = secured.platform.tls();
    let said = secured.platform.said();
    for part in [
        "the certificate `shop` of the tenant `alice`",
        "`keys/secrets`",
    ] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    let client = secured.authority.client();
    secured.refuses(&client, "shop.test", AlertDescription::AccessDenied);
    secured.connect("operator.test");
    assert_ne!(fs::read(&key).unwrap(), kept);
    let alice = Api {
        address: secured.platform.api.address,
        ..alice
    };
    set(&alice, "shop", &certificate).is(200);
    secured.comes_to_show("shop.test", &certificate);
}

#[test]
fn the_command_line_sets_lists_and_deletes() {
    let secured = Secured::start(OPERATORS);
    secured.platform.deploy("hello", &guest("hello"));
    let certificate = secured.authority.certify(&["hello.apps.test"]);
    let write = |name: &str, text: &str| {
        fs::write(secured.platform.folder().join(name), text).unwrap();
    };
    write("shop.pem", &certificate.chain);
    write("shop.key", &certificate.key);
    write("large", &"x".repeat(65 << 10));
    let set = |chain: &str, key: &str| {
        let arguments = ["certificate", "set", "shop", "--chain", chain, "--key", key];
        secured.platform.run(&arguments)
    };
    set("shop.pem", "shop.key")
        .exits(0)
        .says("set shop, good until 4000-01-01");
    secured.comes_to_show("hello.apps.test", &certificate);
    let listed = secured.platform.run(&["certificate", "list"]).exits(0);
    let listed = listed.says("hello.apps.test").says("4000-01-01");
    assert!(!listed.out.contains("PRIVATE"), "{}", listed.out);
    let listed = secured.platform.run(&["certificate", "list", "--json"]);
    assert_eq!(listed.json()[0]["shown_for"], json!(["hello.apps.test"]));
    set("shop.key", "shop.key")
        .exits(3)
        .says("holds no certificate");
    set("large", "shop.key")
        .exits(2)
        .says("`large` is larger than 64KiB");
    set("none.pem", "shop.key").exits(1).says("`none.pem`");
    let deleted = secured.platform.run(&["certificate", "delete", "shop"]);
    deleted.exits(0).says("deleted shop");
    comes_to_refuse(&secured, "hello.apps.test");
    let again = secured.platform.run(&["certificate", "delete", "shop"]);
    again.exits(3).says("no certificate `shop`");
}

#[test]
fn a_platform_without_tls_keeps_certificates_and_shows_them_once_it_has_it() {
    let platform = tests::Platform::start();
    let certificate = tests::tls::Authority::new().certify(&["shop.test"]);
    let answer = set(&platform.api, "shop", &certificate).is(201);
    assert_eq!(answer.json["shown_for"], json!([]));
    deploy_at(&platform.api, "shop", "shop.test");
    let listed = platform.api.get(&platform.api.path("certificates")).is(200);
    assert_eq!(listed.json[0]["shown_for"], json!(["shop.test"]));
}
