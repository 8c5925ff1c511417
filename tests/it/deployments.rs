//! Versions and deployments: one pointer, moved by who saw where it was; history; retention; the trial under load.

use model::{AppName, DeploymentCause, Digest, Manifest, VersionNumber};
use serde_json::{Value, json};
use tests::{Platform, guest, manifest_of, trials, variant};

fn release(number: u32) -> Manifest {
    manifest_of(
        "shop",
        &format!("[grant]\nenv = {{ RELEASE = \"{number}\" }}"),
    )
}

fn version(number: u32) -> Option<VersionNumber> {
    VersionNumber::new(number)
}

#[test]
fn a_deployment_is_live_when_it_says_so() {
    let platform = Platform::start();
    let wasm = guest("version");
    let mut connection = None;
    for number in 1..=20 {
        let deployed = platform.api.deploy(&release(number), &wasm);
        assert_eq!((deployed.live.nodes, deployed.live.of), (1, 1));
        assert_eq!(deployed.deployment.version, version(number).unwrap());
        assert_eq!(
            deployed.urls,
            [format!("http://shop.localhost:{}/", platform.listen.port())]
        );
        platform.get("shop", "/").is(200).says(&number.to_string());
        let kept = connection.get_or_insert_with(|| platform.connect("shop"));
        kept.get("/").unwrap().is(200).says(&number.to_string());
    }
}

#[test]
fn a_thousand_deploys_under_load_in_small() {
    println!("{}", trials::deploys(trials::DEPLOYS / 20, 7));
}

#[test]
fn a_rollback_moves_the_pointer_back_and_history_says_so() {
    let platform = Platform::start();
    let wasm = guest("version");
    for number in 1..=3 {
        platform.api.deploy(&release(number), &wasm);
    }
    let back = platform
        .api
        .move_to("shop", None, DeploymentCause::Rollback, None);
    assert!(matches!(back.reply.status(), 200 | 201));
    platform.get("shop", "/").says("2");
    platform
        .api
        .serve("shop", version(1).unwrap(), DeploymentCause::Rollback);
    platform.get("shop", "/").says("1");
    let history = platform
        .api
        .get("tenants/default/apps/shop/deployments")
        .is(200);
    let list = first_list(&history.json);
    let versions: Vec<u64> = list
        .iter()
        .map(|one| one["version"].as_u64().unwrap())
        .collect();
    assert_eq!(versions, [1, 2, 3, 2, 1], "newest first");
    assert_eq!(list[0]["cause"], "rollback");
    assert_eq!(list[2]["cause"], "deploy");
}

/// The list in an answer, bare or in a field.
fn first_list(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list.clone(),
        Value::Object(fields) => fields
            .values()
            .find_map(Value::as_array)
            .cloned()
            .unwrap_or_default(),
        _ => panic!("no list in {value}"),
    }
}

#[test]
fn of_two_who_saw_the_same_deployment_one_moves_the_pointer() {
    let platform = Platform::start();
    let wasm = guest("version");
    let first = platform.api.deploy(&release(1), &wasm);
    let two = platform.api.publish(&release(2), &wasm).number;
    let three = platform.api.publish(&release(3), &wasm).number;
    let seen = Some(first.deployment.revision);
    let race: Vec<u16> = std::thread::scope(|scope| {
        let movers = [two, three].map(|version| {
            let api = platform.api.clone();
            scope.spawn(move || {
                api.move_to("shop", Some(version), DeploymentCause::Deploy, seen)
                    .reply
                    .status()
            })
        });
        movers
            .into_iter()
            .map(|mover| mover.join().unwrap())
            .collect()
    });
    assert!(race.contains(&409), "{race:?}");
    assert_eq!(
        race.iter().filter(|status| **status < 300).count(),
        1,
        "{race:?}"
    );
    let stale = platform
        .api
        .move_to("shop", Some(two), DeploymentCause::Deploy, seen);
    assert_eq!(stale.is(409).json["status"], 409);
}

#[test]
fn a_mutation_with_the_same_key_happens_once() {
    let platform = Platform::start();
    let wasm = guest("version");
    platform.api.upload(&wasm);
    let new = json!({ "manifest": { "name": "shop" }, "wasm": Digest::of(&wasm).to_string() })
        .to_string();
    let make = |key: &str, body: &str| {
        let headers = format!("content-type: application/json\r\nidempotency-key: {key}\r\n");
        platform.api.send(
            "POST",
            "tenants/default/apps/shop/versions",
            &headers,
            body.as_bytes(),
        )
    };
    let one = make("k1", &new);
    let again = make("k1", &new);
    assert_eq!(one.reply.text(), again.reply.text());
    assert_eq!(one.reply.status(), again.reply.status());
    assert_eq!(one.json["number"], 1);
    let other = new.replace("\"shop\"", "\"shop\" ");
    let changed = make("k1", &other);
    assert!(
        matches!(changed.reply.status(), 409 | 422),
        "{}",
        changed.reply.text()
    );
    assert_eq!(make("k2", &new).json["number"], 2);
}

#[test]
fn a_version_and_an_app_that_do_not_exist_are_not_found() {
    let platform = Platform::start();
    let wasm = guest("version");
    platform.api.deploy(&release(1), &wasm);
    let api = &platform.api;
    let missing = api
        .move_to("shop", version(9), DeploymentCause::Deploy, None)
        .is(404);
    assert!(
        missing.json["detail"].as_str().unwrap().contains('9'),
        "{}",
        missing.json
    );
    api.move_to("nobody", version(1), DeploymentCause::Deploy, None)
        .is(404);
    api.get("tenants/default/apps/nobody/versions").is(404);
    api.get("tenants/nobody/apps").is(404);
    let nothing_before = api.move_to("shop", None, DeploymentCause::Rollback, None);
    assert!(
        matches!(nothing_before.reply.status(), 404 | 409),
        "{}",
        nothing_before.reply.text()
    );
    let never_uploaded = api.new_version(&release(1), Digest::of(b"never uploaded"));
    assert!(
        matches!(never_uploaded.reply.status(), 404 | 409 | 422),
        "{}",
        never_uploaded.reply.text()
    );
}

#[test]
fn a_deleted_app_answers_no_more_and_its_name_is_free() {
    let platform = Platform::start();
    platform.deploy("gone", &guest("hello"));
    let deleted = platform
        .api
        .ask("DELETE", "tenants/default/apps/gone", None);
    assert!(deleted.reply.status() < 300, "{}", deleted.reply.text());
    tests::eventually("it answers no more", || {
        (platform.get("gone", "/").status() == 404).then_some(())
    });
    platform.deploy("gone", &guest("hello"));
    platform.get("gone", "/").is(200);
}

#[test]
fn only_so_many_versions_are_kept_and_the_served_one_always() {
    let platform = Platform::configured("[control]\nversions-kept = 3");
    let wasm = guest("version");
    platform.api.deploy(&release(1), &wasm);
    for number in 2..=6 {
        platform
            .api
            .publish(&release(number), &variant(&wasm, number));
    }
    let numbers = || -> Vec<u64> {
        let answer = platform
            .api
            .get("tenants/default/apps/shop/versions")
            .is(200);
        let mut numbers: Vec<u64> = first_list(&answer.json)
            .iter()
            .map(|one| one["number"].as_u64().unwrap())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    tests::eventually("old versions go, the served one stays", || {
        let numbers = numbers();
        (numbers.contains(&1) && numbers.contains(&6) && numbers.len() <= 4).then_some(())
    });
    platform.get("shop", "/").is(200).says("1");
}

#[test]
fn manifests_are_checked_before_anything_is_made() {
    let platform = Platform::start();
    let wasm = guest("hello");
    platform.api.upload(&wasm);
    let check = |manifest: Value, part: &str| {
        let body = json!({ "manifest": manifest, "wasm": Digest::of(&wasm).to_string() });
        let answer = platform
            .api
            .ask("POST", "tenants/default/apps/shop/versions", Some(body));
        assert!(
            matches!(answer.reply.status(), 400 | 403 | 409 | 422),
            "{}",
            answer.reply.text()
        );
        assert!(
            answer.reply.text().contains(part),
            "`{part}` is not in: {}",
            answer.reply.text()
        );
    };
    check(json!({ "name": "other" }), "other");
    check(json!({ "name": "../x" }), "../x");
    check(json!({ "name": "shop", "secret": 1 }), "secret");
    check(
        json!({ "name": "shop", "limits": { "cpu": "1h" } }),
        "limits.cpu",
    );
    check(
        json!({ "name": "shop", "limits": { "memory": "-1B" } }),
        "-1B",
    );
    check(
        json!({ "name": "shop", "route": [{ "host": "other.localhost" }] }),
        "other.localhost",
    );
    let many: Vec<Value> = (0..33)
        .map(|number| json!({ "path": format!("/{number}") }))
        .collect();
    check(json!({ "name": "shop", "route": many }), "33");
    platform
        .api
        .get("tenants/default/apps/shop/versions")
        .is(404);
}

#[test]
fn two_apps_cannot_have_one_route() {
    let platform = Platform::start();
    let route = "[[route]]\nhost = 'shop.example.com'";
    platform.deploy_with("one", &guest("hello"), route);
    platform
        .api
        .publish_or_refuse(&manifest_of("two", route), &guest("hello"));
    let two = platform
        .api
        .move_to("two", version(1), DeploymentCause::Deploy, None);
    assert_eq!(two.reply.status(), 409, "{}", two.reply.text());
    assert!(
        two.reply.text().contains("shop.example.com"),
        "{}",
        two.reply.text()
    );
}

#[test]
fn apps_of_many_names_live_side_by_side() {
    let platform = Platform::start();
    let wasm = guest("version");
    for number in 0..20 {
        let name: AppName = format!("app-{number}").parse().unwrap();
        let manifest = manifest_of(
            name.as_str(),
            &format!("[grant]\nenv = {{ RELEASE = \"{number}\" }}"),
        );
        platform.api.deploy(&manifest, &wasm);
    }
    for number in 0..20 {
        platform
            .get(&format!("app-{number}"), "/")
            .is(200)
            .says(&number.to_string());
    }
    let apps = platform.api.get("tenants/default/apps").is(200);
    assert_eq!(first_list(&apps.json).len(), 20);
}
