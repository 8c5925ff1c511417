//! Hostile input to the control plane: uploads, manifests, bodies and the folder it keeps. Each is refused for what it
//! is, and the neighbours notice nothing.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{DeploymentCause, Digest, Revision, VersionNumber};
use serde_json::{Value, json};
use tests::load::Always;
use tests::{Answer, Connection, Load, Platform, Reply, Settings, bare, guest, variant};

const VERSIONS: &str = "tenants/default/apps/wrong/versions";

/// A platform whose app `hello` is under a steady load.
struct Target {
    platform: Platform,
    load: Load,
}

impl Target {
    fn open(config: &str) -> Self {
        let platform = Platform::configured(config);
        platform.deploy("hello", &guest("hello"));
        let load = Load::start(
            platform.listen,
            &platform.host("hello"),
            "/",
            1,
            Duration::from_millis(5),
            Arc::new(Always("Hello, Midge!\n")),
        );
        Self { platform, load }
    }

    /// A version of the app `wrong` from a manifest as it is.
    fn version(&self, manifest: Value) -> Answer {
        let wasm = Digest::of(&guest("hello"));
        let body = json!({ "manifest": manifest, "wasm": wasm });
        self.platform.api.ask("POST", VERSIONS, Some(body))
    }

    /// Asserts that nothing was made of what was refused, and that no neighbour noticed.
    #[track_caller]
    fn holds(self) {
        let platform = &self.platform;
        let apps = platform.api.get("tenants/default/apps").is(200).json;
        let names: Vec<_> = apps.as_array().unwrap().iter().map(|a| &a["app"]).collect();
        assert_eq!(names, ["hello"]);
        let tenants = platform.api.get("tenants").is(200).json;
        assert_eq!(tenants, json!(["default"]));
        tests::eventually("no temporary file stays", || {
            let temporary = std::fs::read_dir(platform.data().join("temporary"));
            (temporary.unwrap().count() == 0).then_some(())
        });
        assert_eq!(platform.metric("midge_worker_restarts_total"), 0.0);
        self.load.stop().is_clean();
    }
}

/// Asserts that an answer is a problem with one of these codes.
#[track_caller]
fn refused(what: &str, answer: &Answer, codes: &[&str]) {
    let shown = answer.reply.text();
    let code = answer.json["code"].as_str();
    let code = code.unwrap_or_else(|| panic!("{what}: {} {shown}", answer.reply.status()));
    assert!(codes.contains(&code), "{what}: {shown}");
    assert!(
        (400..500).contains(&answer.reply.status()),
        "{what}: {shown}"
    );
}

/// C01
#[test]
fn a_file_that_is_no_guest_is_called_what_it_is() {
    let target = Target::open("");
    let check = |what: &str, wasm: &[u8], codes: &[&str]| {
        let answer = target.platform.api.publish_or_refuse(&bare("wrong"), wasm);
        assert_eq!(answer.reply.status(), 422, "{what}");
        refused(what, &answer, codes);
    };
    check("0 bytes", b"", &["empty-file"]);
    check("text", b"fn main() {}\n", &["not-wasm"]);
    check("the text format", b"(module)", &["not-wasm"]);
    check("ELF", b"\x7fELF\x02\x01\x01\0", &["native-code"]);
    check("a .cwasm", b"\x7fELF\x02\x01\x01\xc8", &["native-code"]);
    check("zip", b"PK\x03\x04\x14\0\0\0\x08\0", &["not-wasm"]);
    check("gzip", b"\x1f\x8b\x08\0\0\0\0\0", &["not-wasm"]);
    check("a core module", b"\0asm\x01\0\0\0", &["no-handler"]);
    check(
        "a component of nothing",
        b"\0asm\x0d\0\x01\0",
        &["no-handler"],
    );
    check("zeros", &[0; 4096], &["not-wasm"]);
    let mut twice = guest("hello");
    twice.extend(guest("hello"));
    check("a guest twice", &twice, &["invalid-wasm"]);
    target.holds();
}

/// C02
#[test]
fn a_guest_cut_at_every_kibibyte_is_refused() {
    let target = Target::open("");
    let whole = guest("hello");
    for length in (1..whole.len()).step_by(1 << 10) {
        let cut = &whole[..length];
        let answer = target.platform.api.publish_or_refuse(&bare("wrong"), cut);
        let codes = ["truncated", "invalid-wasm", "no-handler"];
        refused(&format!("{length} bytes"), &answer, &codes);
    }
    target.holds();
}

/// C03
#[test]
fn an_upload_of_one_byte_too_many_is_refused() {
    let target = Target::open("[control]\nwasm = '1MiB'");
    let api = &target.platform.api;
    let bytes = vec![7; (1 << 20) + 1];
    let path = format!("/v1/tenants/default/artifacts/{}", Digest::of(&bytes));
    api.upload(&bytes).refuses(413, "body-too-large", "1MiB");
    // Without a length, only reading shows it.
    let mut connection = Connection::open(api.address, "api").unwrap();
    let headers = format!(
        "authorization: Bearer {}\r\ncontent-type: application/wasm\r\ntransfer-encoding: chunked\r\n",
        api.token
    );
    connection.send_head("PUT", &path, &headers).unwrap();
    for chunk in bytes.chunks(64 << 10) {
        connection.send_chunk(chunk).unwrap();
    }
    let reply = connection.reply("PUT").unwrap().is(413);
    assert!(reply.text().contains("body-too-large"), "{}", reply.text());
    let missing = json!({ "digests": [Digest::of(&bytes)] });
    let missing = api.ask("POST", "tenants/default/artifacts/missing", Some(missing));
    assert_eq!(missing.is(200).json["digests"].as_array().unwrap().len(), 1);
    // Exactly as much as may be is taken, and then called what it is.
    let answer = api.publish_or_refuse(&bare("wrong"), &bytes[1..]);
    refused("just as much as may be", &answer, &["not-wasm"]);
    target.holds();
}

/// C05: native code that another platform signed is not this one's, and neither is a signature that was changed.
#[test]
fn native_code_under_another_signature_is_never_run() {
    let stranger = Platform::start();
    stranger.deploy("hello", &guest("hello"));
    let mut platform = Platform::start();
    platform.deploy("hello", &guest("hello"));
    let digest = Digest::of(&guest("hello")).to_string();
    let header = |platform: &Platform| {
        let files = artifacts(platform, &digest).into_iter();
        let mut headers = files.filter(|path| std::fs::read(path).unwrap().starts_with(b"{"));
        headers.next().expect("a header is JSON")
    };
    let theirs = std::fs::read(header(&stranger)).unwrap();
    let ours = String::from_utf8(std::fs::read(header(&platform)).unwrap()).unwrap();
    let unsigned: Value = serde_json::from_str(&ours).unwrap();
    let signature = unsigned["signature"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(!signature.is_empty(), "{ours}");
    let with = |signature: &str| {
        let mut header = unsigned.clone();
        header["signature"] = json!(signature);
        header.to_string().into_bytes()
    };
    let mut none = unsigned.clone();
    none.as_object_mut().unwrap().remove("signature");
    let zeros = signature.replace(|c: char| c != '=', "0");
    let half = &signature[..signature.len() / 2];
    for (what, bytes) in [
        ("another key", theirs),
        ("no signature", none.to_string().into_bytes()),
        ("an empty signature", with("")),
        ("half a signature", with(half)),
        ("a signature of zeros", with(&zeros)),
        ("a small-order point", with(&small_order(&signature))),
        ("no header", Vec::new()),
    ] {
        platform.stop();
        let log = platform.said().len();
        let path = header(&platform);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        platform.start_again();
        let reply = platform.get("hello", "/").is(200);
        assert_eq!(reply.text(), "Hello, Midge!\n", "{what}");
        tests::eventually(&format!("{what}: it is made anew"), || {
            platform.said()[log..].contains("made anew").then_some(())
        });
    }
}

/// A signature whose point is the neutral element and whose scalar is zero, written as `like` is.
fn small_order(like: &str) -> String {
    let is_hex = like.len() == 128;
    if is_hex {
        format!("01{}", "0".repeat(126))
    } else {
        format!("AQ{}", "A".repeat(like.len() - 2))
    }
}

/// The artifacts that belong to an upload.
fn artifacts(platform: &Platform, digest: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(platform.data().join("artifacts")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().contains(digest))
        .collect()
}

/// C06
#[test]
fn a_compile_bomb_takes_no_more_than_a_compile_may() {
    let target = Target::open("");
    let check = |what: &str, wasm: &[u8], codes: &[&str]| {
        let answer = target.platform.api.publish_or_refuse(&bare("bomb"), wasm);
        assert_eq!(answer.reply.status(), 422, "{what}");
        refused(what, &answer, codes);
    };
    let limit = &["wasm-limit"];
    let empty = function(&[], &[]);
    let locals = |count: u32| function(&[(count, 0x7f)], &[]);
    check(
        "2,000 functions of 50,000 locals",
        &command(&vec![locals(50_000); 2_000], &[]),
        limit,
    );
    check(
        "201 functions of 5,000 locals",
        &command(&vec![locals(5_000); 201], &[]),
        limit,
    );
    check(
        "500,000 empty functions",
        &command(&vec![empty.clone(); 500_000], &[]),
        limit,
    );
    let nested = |kind: u8, depth: usize| {
        let body = [[kind, 0x40].repeat(depth), vec![0x0b; depth]].concat();
        command(&[function(&[], &body)], &[])
    };
    check("200,000 loops, nested", &nested(0x03, 200_000), limit);
    check("500,000 blocks, nested", &nested(0x02, 500_000), limit);
    let constants = [0x41, 0, 0x1a].repeat(7_300_000 / 3);
    check(
        "a function of 7.3 MB",
        &command(&[function(&[], &constants)], &[]),
        limit,
    );
    let globals = [0x7f, 0, 0x41, 0, 0x0b].repeat(1_000_000);
    check(
        "1,000,000 globals",
        &command(&[], &[(6, counted(1_000_000, &globals))]),
        limit,
    );
    let types = [0x60, 0, 0].repeat(900_000);
    check(
        "900,000 types",
        &module(&[(1, counted(900_000, &types))]),
        limit,
    );
    let imports = [1, b'a', 1, b'b', 3, 0x7f, 0].repeat(500_000);
    check(
        "500,000 imports",
        &module(&[(2, counted(500_000, &imports))]),
        &["wasm-limit", "invalid-wasm"],
    );
    let table = [&[0x70, 0][..], &leb(10_000_000)].concat();
    check(
        "a table of 10,000,000",
        &command(&[], &[(4, counted(1, &table))]),
        limit,
    );
    let segments = [0, 0x41, 0, 0x0b, 0].repeat(200_000);
    check(
        "200,000 data segments",
        &command(&[], &[(11, counted(200_000, &segments))]),
        limit,
    );
    // Within every bound: it compiles in the time that a compile has, or not at all.
    for (rounds, functions) in [(2, 1), (8, 3)] {
        let wasm = command(&vec![live(3_000, rounds); functions], &[]);
        let answer = target.platform.api.publish_or_refuse(&bare("bomb"), &wasm);
        if answer.reply.status() != 201 {
            let what = format!("3,000 live locals, {rounds} times, {functions} functions");
            refused(
                &what,
                &answer,
                &["compile-cpu-limit", "compile-memory-limit"],
            );
        }
    }
    target
        .platform
        .api
        .ask("DELETE", "tenants/default/apps/bomb", None);
    target.holds();
}

/// A section's number and what it holds.
type Section = (u8, Vec<u8>);

/// A command with these functions besides `_start`, and these sections.
fn command(functions: &[Vec<u8>], more: &[Section]) -> Vec<u8> {
    let count = functions.len() as u32 + 1;
    let exports = b"\x06memory\x02\0\x06_start\0\0";
    let start = function(&[], &[]);
    let bodies: Vec<u8> = [&start]
        .into_iter()
        .chain(functions)
        .flatten()
        .copied()
        .collect();
    let mut sections = vec![
        (1, counted(1, &[0x60, 0, 0])),
        (3, counted(count, &vec![0; count as usize])),
        (5, counted(1, &[0, 1])),
        (7, counted(2, exports)),
        (10, counted(count, &bodies)),
    ];
    sections.extend_from_slice(more);
    sections.sort_by_key(|(number, _)| *number);
    module(&sections)
}

fn module(sections: &[Section]) -> Vec<u8> {
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    for (number, content) in sections {
        wasm.push(*number);
        wasm.extend(leb(content.len() as u32));
        wasm.extend(content);
    }
    wasm
}

/// A function's body with its length: locals of a type, and instructions.
fn function(locals: &[(u32, u8)], code: &[u8]) -> Vec<u8> {
    let runs = locals
        .iter()
        .flat_map(|(count, kind)| [leb(*count), vec![*kind]].concat());
    let runs: Vec<u8> = runs.collect();
    let body = [&leb(locals.len() as u32)[..], &runs, code, &[0x0b]].concat();
    [&leb(body.len() as u32)[..], &body].concat()
}

/// A function in which `count` locals are alive all the time, and each is computed of two others `rounds` times.
fn live(count: u32, rounds: u32) -> Vec<u8> {
    let mut code = vec![0x03, 0x40];
    for round in 1..=rounds {
        for local in 0..count {
            let other = (local * 7 + round) % count;
            code.extend([&[0x20][..], &leb(local), &[0x20], &leb(other)].concat());
            code.extend([&[0x6a, 0x21][..], &leb(local)].concat());
        }
    }
    code.extend([0x20, 0, 0x0d, 0, 0x0b]);
    function(&[(count, 0x7f)], &code)
}

fn counted(count: u32, items: &[u8]) -> Vec<u8> {
    [&leb(count)[..], items].concat()
}

fn leb(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// C07, C09: 1,000 deployments at once, of which those that were made count and the others were refused by name.
#[test]
fn a_thousand_deployments_at_once_are_made_one_by_one_or_refused() {
    let target = Target::open("");
    let platform = &target.platform;
    for release in ["1", "2"] {
        let manifest = format!("[grant]\nenv = {{ RELEASE = '{release}' }}");
        platform.deploy_with("shop", &guest("version"), &manifest);
    }
    let clients: Vec<_> = (0..1_000u32)
        .map(|number| {
            let api = platform.api.clone();
            let client = std::thread::Builder::new().stack_size(256 << 10);
            let asks = move || -> std::io::Result<Reply> {
                let mut connection = Connection::open(api.address, "api")?;
                let headers = format!(
                    "authorization: Bearer {}\r\ncontent-type: application/json\r\n",
                    api.token
                );
                let version = 1 + number % 2;
                let body = json!({ "version": version, "cause": "deploy", "wait": "0ms" });
                let path = "/v1/tenants/default/apps/shop/deployments";
                connection.request("POST", path, &headers, body.to_string().as_bytes())
            };
            client.spawn(asks).unwrap()
        })
        .collect();
    let mut made: Vec<Revision> = Vec::new();
    for client in clients {
        // Who found no room in the kernel's queue was not heard, and nothing was done.
        let Ok(reply) = client.join().unwrap() else {
            continue;
        };
        let json: Value = serde_json::from_slice(&reply.body).unwrap();
        match reply.status() {
            201 => made.push(json["deployment"]["revision"].as_u64().unwrap()),
            503 => {
                let code = json["code"].as_str().unwrap();
                assert!(
                    matches!(code, "deploy-queue-full" | "overloaded" | "records-busy"),
                    "{json}"
                );
            }
            status => panic!("{status} {json}"),
        }
    }
    made.sort_unstable();
    let expected: Vec<Revision> = (3..3 + made.len() as Revision).collect();
    assert!(made.len() >= 256, "{} of 1,000 were made", made.len());
    assert_eq!(made, expected);
    let now = platform.api.get("tenants/default/apps/shop").is(200).json;
    assert_eq!(now["revision"], json!(made.last().unwrap()));
    let version = now["version"].to_string();
    tests::eventually("the last of them is served", || {
        (platform.get("shop", "/").text() == version).then_some(())
    });
    platform.api.serve(
        "shop",
        VersionNumber::new(1).unwrap(),
        DeploymentCause::Deploy,
    );
    platform.get("shop", "/").is(200).says("1");
    platform
        .api
        .ask("DELETE", "tenants/default/apps/shop", None);
    target.holds();
}

/// C07: 40 uploads that must be compiled, at once: what the queue does not hold is told to come again.
#[test]
fn more_compiles_than_may_wait_are_told_to_come_again() {
    let target = Target::open("");
    let platform = &target.platform;
    let clients: Vec<_> = (0..40)
        .map(|number| {
            let api = platform.api.clone();
            let wasm = variant(&guest("headers"), number);
            std::thread::spawn(move || api.publish_or_refuse(&bare("busy"), &wasm))
        })
        .collect();
    let mut made = 0;
    for client in clients {
        let answer = client.join().unwrap();
        match answer.reply.status() {
            201 => made += 1,
            503 => assert_eq!(answer.json["code"], "compile-queue-full"),
            status => panic!("{status} {}", answer.json),
        }
    }
    assert!(made >= 16, "{made} of 40 were made");
    platform
        .api
        .ask("DELETE", "tenants/default/apps/busy", None);
    target.holds();
}

/// C11
#[test]
fn a_name_that_could_be_read_as_another_is_none() {
    let target = Target::open("");
    let api = &target.platform.api;
    let long = "a".repeat(10 << 10);
    let names = [
        "",
        ".",
        "..",
        "../x",
        "..\\x",
        "/etc",
        "a/b",
        "a\0b",
        "\u{202e}a",
        "a\u{200b}b",
        "caf\u{e9}",
        "cafe\u{301}",
        "CON",
        "Shop",
        "😀",
        "%2f",
        "a b",
        "a_b",
        "a.b",
        "-a",
        "a-",
        "xn--a",
        "a\r\nb",
        "*",
        &long,
    ];
    let escaped = |name: &str| -> String { name.bytes().map(|b| format!("%{b:02x}")).collect() };
    for name in names {
        let shown = name.chars().take(20).collect::<String>();
        let check = |what: &str, answer: Answer, codes: &[&str]| {
            refused(
                &format!("{what} `{}`", shown.escape_default()),
                &answer,
                codes,
            );
        };
        let in_path = escaped(name);
        let path = ["path-malformed", "not-found", "method-not-allowed"];
        check(
            "app",
            api.get(&format!("tenants/default/apps/{in_path}/versions")),
            &path,
        );
        check(
            "app",
            api.ask("DELETE", &format!("tenants/default/apps/{in_path}"), None),
            &path,
        );
        check("tenant", api.get(&format!("tenants/{in_path}/apps")), &path);
        check(
            "digest",
            api.ask("PUT", &format!("tenants/default/artifacts/{in_path}"), None),
            &path,
        );
        let body = ["body-unfit"];
        check("manifest", target.version(json!({ "name": name })), &body);
        for scope in [
            json!({ "tenant": name, "verb": "read" }),
            json!({ "tenant": "default", "app": name, "verb": "read" }),
        ] {
            check(
                "scope",
                api.ask("POST", "tokens", Some(json!({ "scope": scope }))),
                &body,
            );
        }
        // Two labels are a host, and one in its encoded form is one as well.
        if !matches!(name, "a.b" | "xn--a") {
            let route = json!({ "name": "wrong", "route": [{ "host": name }] });
            check("host", target.version(route), &body);
        }
        let route = json!({ "name": "wrong", "route": [{ "path": name }] });
        if name != "/etc" {
            check("path", target.version(route), &body);
        }
    }
    // A device elsewhere, a plain name here.
    target.platform.deploy("con", &guest("hello"));
    target.platform.get("con", "/").is(200);
    api.ask("DELETE", "tenants/default/apps/con", None);
    target.holds();
}

/// C12
#[test]
fn routes_are_few_and_plain() {
    let target = Target::open("");
    let routes = |count: usize| -> Vec<Value> {
        let route = |i| json!({ "host": format!("h{i}.test"), "path": format!("/{i}") });
        (0..count).map(route).collect()
    };
    let claim = |routes: Vec<Value>| target.version(json!({ "name": "wrong", "route": routes }));
    refused("33 routes", &claim(routes(33)), &["manifest-refused"]);
    refused("1,001 routes", &claim(routes(1_001)), &["manifest-refused"]);
    refused(
        "100,001 routes",
        &claim(routes(100_001)),
        &["body-too-large"],
    );
    refused(
        "one twice",
        &claim([routes(1), routes(1)].concat()),
        &["manifest-refused", "route-twice"],
    );
    for host in [
        "*",
        "*.test",
        "a.*",
        "**.test",
        "*.*.test",
        "a*.test",
        "[a-z].test",
        "(a+)+$",
        "a.test:80",
        "user@a.test",
        "a.test/",
    ] {
        refused(host, &claim(vec![json!({ "host": host })]), &["body-unfit"]);
    }
    for path in [
        "/{a}", "/a?b", "/a#b", "/[a]", "/^a", "/a|b", "/a\\d", "/%61", "/a/../b", "//", "/a//b",
    ] {
        refused(path, &claim(vec![json!({ "path": path })]), &["body-unfit"]);
    }
    for host in [
        "localhost",
        "hello.localhost",
        "a.hello.localhost",
        "x.internal",
        "internal",
    ] {
        let answer = claim(vec![json!({ "host": host })]);
        refused(host, &answer, &["route-reserved", "manifest-refused"]);
    }
    // What is a pattern elsewhere is a plain path here.
    let platform = &target.platform;
    let plain = "[[route]]\nhost = 'plain.test'\npath = '/(a+)+$'\n[[route]]\nhost = 'plain.test'\npath = '/*'";
    platform.deploy_with("plain", &guest("hello"), plain);
    let mut connection = Connection::open(platform.listen, "plain.test").unwrap();
    connection.get("/(a+)+$").unwrap().is(200);
    connection.get("/*/x").unwrap().is(200);
    let many = format!("/{}!", "a".repeat(10_000));
    for path in ["/a", "/", "/x", &many] {
        connection.get(path).unwrap().is(404).fails("not-found");
    }
    platform
        .api
        .ask("DELETE", "tenants/default/apps/plain", None);
    target.holds();
}

/// C13
#[test]
fn a_body_that_is_not_plain_json_of_its_kind_is_refused_everywhere() {
    let target = Target::open("");
    let api = &target.platform.api;
    let places = [
        ("tokens", json!({ "scope": { "verb": "read" } })),
        (
            "tenants/default/artifacts/missing",
            json!({ "digests": [] }),
        ),
        (
            VERSIONS,
            json!({ "manifest": { "name": "wrong" }, "wasm": Digest::of(b"") }),
        ),
        (
            "tenants/default/apps/hello/deployments",
            json!({ "cause": "deploy", "version": 1 }),
        ),
    ];
    let kind = "content-type: application/json\r\n";
    for (path, whole) in &places {
        let check = |what: &str, body: &[u8], codes: &[&str]| {
            let answer = api.send("POST", path, kind, body);
            refused(&format!("{path} {what}"), &answer, codes);
        };
        let text = whole.to_string();
        let open = text.strip_suffix('}').unwrap();
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        let deep = String::from_utf8(deep).unwrap();
        check("depth 100,000", deep.as_bytes(), &["json-too-deep"]);
        check(
            "depth 100,000 within",
            format!("{open},\"x\":{deep}}}").as_bytes(),
            &["json-too-deep"],
        );
        check(
            "an unknown field",
            format!("{open},\"x\":1}}").as_bytes(),
            &["body-unfit"],
        );
        let (first, _) = text[2..].split_once('"').unwrap();
        check(
            "a field twice",
            format!("{open},\"{first}\":null}}").as_bytes(),
            &["body-unfit"],
        );
        let malformed = ["json-malformed"];
        for (what, value) in [
            ("NaN", "NaN"),
            ("Infinity", "-Infinity"),
            ("a lone surrogate", "\"\\ud800\""),
            ("a hex number", "0x1"),
            ("a leading zero", "01"),
        ] {
            let body = format!("{open},\"{first}\":{value}}}");
            check(what, body.as_bytes(), &["json-malformed", "body-unfit"]);
        }
        check(
            "a byte order mark",
            format!("\u{feff}{text}").as_bytes(),
            &malformed,
        );
        check(
            "trailing garbage",
            format!("{text} x").as_bytes(),
            &malformed,
        );
        check(
            "another after it",
            format!("{text}{text}").as_bytes(),
            &malformed,
        );
        check("a comment", format!("{text}//").as_bytes(), &malformed);
        check("not UTF-8", b"\"\xff\"", &["json-malformed", "body-unfit"]);
        check("UTF-16", b"\xff\xfe{\0}\0", &malformed);
        check("nothing", b"", &malformed);
        check("null", b"null", &["body-unfit"]);
        check("64 MiB", &vec![b' '; 64 << 20], &["body-too-large"]);
    }
    let version = |number: &str| {
        let body = format!("{{\"cause\":\"deploy\",\"version\":{number}}}");
        let path = "tenants/default/apps/hello/deployments";
        let answer = api.send("POST", path, kind, body.as_bytes());
        refused(number, &answer, &["json-malformed", "body-unfit"]);
    };
    for number in [
        "1e999",
        "-1e999",
        "9007199254740993",
        "18446744073709551617",
        "-1",
        "0",
        "1.5",
        "1e0",
        "\"1\"",
        "4294967296",
    ] {
        version(number);
    }
    target.holds();
}

/// C14
#[test]
fn a_manifest_that_asks_for_what_it_may_not_have_is_refused() {
    let target = Target::open("[ceiling]\nmemory = '256MiB'\ncpu = '1s'");
    let check = |field: &str, value: Value, codes: &[&str]| {
        let mut manifest = json!({ "name": "wrong" });
        manifest[field] = value;
        refused(
            &manifest.to_string(),
            &target.version(manifest.clone()),
            codes,
        );
    };
    let unknown = ["body-unfit"];
    for grant in [
        json!({ "kv": ["*"] }),
        json!({ "sockets": true }),
        json!({ "files": { "/": "/" } }),
        json!({ "http": ["169.254.169.254"] }),
        json!({ "http": ["http://0xa9fea9fe"] }),
        json!({ "secrets": ["../x"] }),
        json!({ "env": { "A": 1 } }),
        json!({ "env": ["A=1"] }),
        json!(null),
    ] {
        check("grant", grant, &unknown);
    }
    check("capabilities", json!(["wasi:sockets"]), &unknown);
    check("tenant", json!("other"), &unknown);
    for (limit, values) in [
        (
            "memory",
            ["257MiB", "1GiB", "512MiB", "17179869183GiB", "0B", "0MiB"],
        ),
        ("cpu", ["1001ms", "30s", "1h", "106751991167d", "0ms", "0s"]),
        ("wall", ["6m", "301s", "1d", "213503982334d", "0ms", "0h"]),
    ] {
        for value in values {
            check("limits", json!({ limit: value }), &["manifest-refused"]);
        }
    }
    for value in [
        json!("-1ms"),
        json!("1e3ms"),
        json!("NaNs"),
        json!("1.5s"),
        json!("99999999999999999999s"),
        json!("18446744073709551615d"),
        json!("1"),
        json!(" 1s"),
        json!("+1s"),
        json!("١s"),
        json!(""),
        json!(100),
        json!(-1),
        json!(1e300),
        json!(null),
        json!([]),
        json!({}),
    ] {
        check("limits", json!({ "cpu": value }), &unknown);
    }
    check("limits", json!({ "fuel": 1 }), &unknown);
    let value = ["manifest-refused"];
    check("grant", json!({ "env": { "A=B": "c" } }), &value);
    check("grant", json!({ "env": { "": "c" } }), &value);
    check("grant", json!({ "env": { "A\0": "c" } }), &value);
    check("grant", json!({ "env": { "A": "b\0c" } }), &value);
    check("grant", json!({ "env": { "A".repeat(257): "c" } }), &value);
    check("grant", json!({ "config": { "A B": "c" } }), &value);
    check(
        "grant",
        json!({ "env": { "A": "x".repeat(65 << 10) } }),
        &value,
    );
    target.holds();
}

/// C19
#[test]
fn a_compressed_body_is_never_unpacked() {
    let target = Target::open("");
    let platform = &target.platform;
    let gzip = [b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), vec![0; 1_000]].concat();
    for coding in [
        "gzip",
        "deflate",
        "br",
        "zstd",
        "identity",
        "gzip, gzip",
        "x",
    ] {
        let headers = format!("content-type: application/json\r\ncontent-encoding: {coding}\r\n");
        let answer = platform.api.send("POST", "tokens", &headers, &gzip);
        answer.refuses(415, "media-type", "Content-Encoding");
        let headers = format!("content-type: application/wasm\r\ncontent-encoding: {coding}\r\n");
        let path = format!("tenants/default/artifacts/{}", Digest::of(&gzip));
        let answer = platform.api.send("PUT", &path, &headers, &gzip);
        answer.refuses(415, "media-type", "Content-Encoding");
    }
    let answer = platform.api.publish_or_refuse(&bare("wrong"), &gzip);
    refused("gzip as a guest", &answer, &["not-wasm"]);
    // An app gets what was sent, to unpack or not.
    platform.deploy("echo", &guest("echo"));
    let mut connection = platform.connect("echo");
    let reply = connection.request("POST", "/", "content-encoding: gzip\r\n", &gzip);
    assert!(reply.unwrap().is(200).body == gzip);
    platform
        .api
        .ask("DELETE", "tenants/default/apps/echo", None);
    target.holds();
}

/// C20
#[test]
fn a_million_parts_are_one_body() {
    let target = Target::open("");
    let platform = &target.platform;
    let part = "--b\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n\r\n";
    let parts = part.repeat(1_000_000) + "--b--\r\n";
    let kind = "content-type: multipart/form-data; boundary=b\r\n";
    for path in ["tokens", VERSIONS, "tenants/default/artifacts/missing"] {
        let answer = platform
            .api
            .send("POST", path, kind, &parts.as_bytes()[..1_000]);
        refused(path, &answer, &["media-type"]);
        let answer = platform.api.send("POST", path, kind, parts.as_bytes());
        refused(path, &answer, &["media-type", "body-too-large"]);
    }
    platform.deploy_with("sum", &guest("sum"), "[limits]\ncpu = '5s'");
    let mut connection = platform.connect("sum");
    let reply = connection.request("POST", "/", kind, parts.as_bytes());
    reply.unwrap().is(200).says(&parts.len().to_string());
    platform.api.ask("DELETE", "tenants/default/apps/sum", None);
    target.holds();
}

/// A platform with two apps that answer with what no other does, stopped.
fn stopped() -> Platform {
    let mut platform = Platform::configured("workers = 1");
    platform.deploy("hello", &guest("hello"));
    for release in ["1", "2"] {
        let manifest = format!("[grant]\nenv = {{ RELEASE = '{release}' }}");
        platform.deploy_with("shop", &guest("version"), &manifest);
    }
    platform.stop();
    platform
}

/// Starts a platform of [`stopped`] whose file `name` was damaged: it refuses and names the file, or serves both apps
/// as they were. Says which.
#[track_caller]
fn starts_or_names(platform: &mut Platform, what: &str, name: &str) -> bool {
    let before = platform.said().len();
    if let Err(said) = platform.try_start_again() {
        let said = &said[said.find(" ready").map_or(0, |_| before.min(said.len()))..];
        assert!(said.contains(name), "{what}: {said}");
        assert!(!said.contains("panicked"), "{what}: {said}");
        return false;
    }
    for (app, says) in [("hello", "Hello, Midge!\n"), ("shop", "2")] {
        let reply = platform.get(app, "/").is(200);
        assert_eq!(reply.text(), says, "{what}: `{app}`");
    }
    assert_eq!(platform.metric("midge_worker_restarts_total"), 0.0);
    platform.stop();
    true
}

/// C26: bits flipped and files cut at random are `flips`.
#[test]
fn records_that_are_not_what_was_written_are_named() {
    let mut platform = stopped();
    let path = platform.data().join("records.db");
    let whole = std::fs::read(&path).unwrap();
    let page = 4096;
    let pages = whole.len() / page;
    let mut check = |what: String, bytes: Vec<u8>| {
        for beside in ["records.db-wal", "records.db-shm"] {
            let _ = std::fs::remove_file(platform.data().join(beside));
        }
        std::fs::write(&path, bytes).unwrap();
        starts_or_names(&mut platform, &what, "records.db");
    };
    check("all zeros".into(), vec![0; whole.len()]);
    check("all ones".into(), vec![0xff; whole.len()]);
    for number in 0..pages {
        let (here, next) = (number * page, (number + 1) % pages * page);
        let mut zeros = whole.clone();
        zeros[here..here + page].fill(0);
        check(format!("page {number} is zeros"), zeros);
        let mut swapped = whole.clone();
        swapped[here..here + page].copy_from_slice(&whole[next..next + page]);
        swapped[next..next + page].copy_from_slice(&whole[here..here + page]);
        check(format!("page {number} and the next are swapped"), swapped);
        check(format!("cut to {number} pages"), whole[..here].to_vec());
    }
}

/// C26
#[test]
fn records_that_have_lost_what_was_served_are_named() {
    let mut platform = Platform::start();
    let older = platform.data().join("older");
    for number in 0..6 {
        platform.deploy("hello", &variant(&guest("hello"), number));
        if number == 3 {
            platform.stop();
            std::fs::copy(platform.data().join("records.db"), &older).unwrap();
            platform.start_again();
        }
    }
    platform.kill_tree();
    let files = ["records.db", "records.db-wal"].map(|name| platform.data().join(name));
    let [records, wal] = files.each_ref().map(|file| std::fs::read(file).unwrap());
    let mut check = |what: &str, records: &[u8], wal: &[u8], lost: bool| {
        std::fs::write(&files[0], records).unwrap();
        std::fs::write(&files[1], wal).unwrap();
        let _ = std::fs::remove_file(platform.data().join("records.db-shm"));
        match platform.try_start_again() {
            Err(said) if lost => assert!(said.contains("records.db"), "{what}: {said}"),
            Ok(()) if !lost => {
                platform.get("hello", "/").is(200);
                platform.kill_tree();
            }
            other => panic!("{what}: {other:?}"),
        }
    };
    let flipped = |place: usize| {
        let mut wal = wal.clone();
        wal[place] ^= 1;
        wal
    };
    check("nothing", &records, &wal, false);
    for place in [5, 16, 40, 200, wal.len() / 2] {
        check(
            &format!("byte {place} of the log"),
            &records,
            &flipped(place),
            true,
        );
    }
    check("half of the log", &records, &wal[..wal.len() / 2], true);
    check("the log", &records, &[], true);
    check("the newest", &std::fs::read(&older).unwrap(), &[], true);
    check("all but one byte", &records[..1], &[], true);
    check("nothing at last", &records, &wal, false);
}

/// C26
#[test]
fn an_upload_that_changed_on_disk_is_named_and_not_backed_up_but_sent_anew() {
    let mut platform = Platform::start();
    let wasm = guest("hello");
    platform.deploy("hello", &wasm);
    let digest = Digest::of(&wasm);
    let path = platform.data().join(format!("artifacts/{digest}.wasm"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 4;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let file = platform.folder().join("backup.tar");
    let file = file.to_str().unwrap();
    let refused = platform.run(&["backup", file]).exits(1);
    refused.says("is damaged on disk").says(&digest.to_string());
    assert!(!Path::new(file).exists());
    platform.stop();
    platform.start_again();
    let named = format!(
        "the upload `{}` cannot be used (damaged",
        &digest.to_string()[..12]
    );
    tests::eventually("its start names it", || {
        platform.said().contains(&named).then_some(())
    });
    platform.deploy("hello", &wasm);
    assert_eq!(std::fs::read(&path).unwrap(), wasm);
    platform.run(&["backup", file]).exits(0);
}

/// C26
#[test]
fn what_does_not_belong_in_the_folder_is_left_alone() {
    let mut platform = stopped();
    let data = platform.data();
    for folder in ["", "artifacts", "keys", "node", "node/catalog", "node/logs"] {
        let folder = data.join(folder);
        for name in [
            "foreign", ".hidden", "x.wasm", "näme", "a\nb", "-rf", "core",
        ] {
            std::fs::write(folder.join(name), "foreign").unwrap();
        }
        std::fs::create_dir(folder.join("folder")).unwrap();
        std::os::unix::fs::symlink("/nowhere", folder.join("dangling")).unwrap();
        std::os::unix::fs::symlink("/", folder.join("root")).unwrap();
    }
    for name in ["records.db-journal", "records.db-wal", "records.db.new"] {
        std::fs::write(data.join(name), vec![0x5a; 8192]).unwrap();
    }
    assert!(starts_or_names(&mut platform, "foreign files", ""));
    assert!(data.join("artifacts/foreign").exists() && data.join("foreign").exists());
    assert!(Path::new("/etc").exists());
}

/// C26
#[test]
fn a_link_in_an_artifacts_place_is_no_artifact() {
    let mut platform = stopped();
    let one = Digest::of(&guest("hello")).to_string();
    let other = Digest::of(&guest("version")).to_string();
    let kinds = artifacts(&platform, &one);
    assert_eq!(kinds.len(), 3);
    for path in kinds {
        let theirs = path.to_string_lossy().replace(&one, &other);
        for target in [&*theirs, "/dev/null", "/nowhere", "/", "/etc/hostname"] {
            let kept = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink(target, &path).unwrap();
            let what = format!("{} -> {target}", path.display());
            assert!(starts_or_names(&mut platform, &what, ""));
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, kept).unwrap();
            assert!(Path::new(&theirs).metadata().unwrap().len() > 0, "{what}");
        }
    }
}

/// A library that moves the clock of whoever loads it by the seconds that a file holds.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile long *seconds;
__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_SECONDS"), O_RDONLY);
    void *at = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) seconds = at;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && seconds) now->tv_sec += *seconds;
    return result;
}
"#;

/// C27
#[test]
fn a_clock_that_leaps_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(place("clock.c"), CLOCK).unwrap();
    let (source, library) = (place("clock.c"), place("clock.so"));
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", &library, &source])
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return tests::skip("a clock that leaps", "this machine has no C compiler");
    }
    let set = |seconds: i64| {
        let mut options = std::fs::File::options();
        let options = options.create(true).truncate(false).write(true);
        let file = options.open(place("seconds")).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    };
    set(0);
    let environment = vec![
        ("LD_PRELOAD".to_owned(), library),
        ("CLOCK_SECONDS".to_owned(), place("seconds")),
    ];
    let mut platform = Platform::start_with(Settings {
        environment,
        ..Settings::default()
    });
    platform.deploy("hello", &guest("hello"));
    let token = |platform: &Platform| {
        let body = json!({ "scope": { "verb": "read" }, "expires_in": "30m" });
        let answer = platform.api.ask("POST", "tokens", Some(body)).is(201);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let id = text(&answer.json["summary"]["id"]);
        (text(&answer.json["token"]), id)
    };
    let (expiring, _) = token(&platform);
    let (revoked, id) = token(&platform);
    platform.api.ask("DELETE", &format!("tokens/{id}"), None);
    let asks = |platform: &Platform, token: &str| {
        platform.api.with_token(token).get("status").reply.status()
    };
    assert_eq!(asks(&platform, &expiring), 200);

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = now.as_secs() as i64;
    let mut release = 0;
    for (what, seconds, allowed) in [
        ("an hour ahead", 3_600, &[401][..]),
        ("an hour behind", -3_600, &[200]),
        ("as it was", 0, &[200]),
        ("a second behind", -1, &[200]),
        ("a second twice", 0, &[200]),
        (
            "before the end of 2038's 32 bits",
            (1 << 31) - 5 - now,
            &[401],
        ),
        ("after it", (1 << 31) + 5 - now, &[401]),
        // A token that ended so long ago may have been forgotten by now.
        ("1970", 5 - now, &[200, 401]),
        ("as it was", 0, &[200, 401]),
    ] {
        set(seconds);
        for restarted in [false, true] {
            if restarted {
                platform.restart();
            }
            release += 1;
            let manifest = format!("[grant]\nenv = {{ RELEASE = '{release}' }}");
            let deployed = platform.deploy_with("shop", &guest("version"), &manifest);
            let at = deployed.deployment.at_ms as i64 / 1_000;
            let expected = now + seconds;
            assert!((at - expected).abs() < 120, "{what}: {at}, not {expected}");
            platform.get("shop", "/").is(200).says(&release.to_string());
            platform.get("hello", "/").is(200).says("Hello, Midge!\n");
            let status = asks(&platform, &expiring);
            assert!(allowed.contains(&status), "{what}: {status}");
            assert_eq!(asks(&platform, &revoked), 401, "{what}");
        }
    }
    assert_eq!(platform.metric("midge_worker_restarts_total"), 0.0);
    let said = platform.said();
    assert!(!said.contains("panicked"), "{said}");
}
