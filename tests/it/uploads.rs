//! Wrong files: each is refused with what it is, why, and what to do.

use model::Digest;
use tests::{Answer, Guest, Platform, bare, guest, variant};

fn upload(platform: &Platform, wasm: &[u8]) -> Answer {
    platform.api.publish_or_refuse(&bare("wrong"), wasm)
}

#[test]
fn each_wrong_file_is_refused_for_what_it_is() {
    let platform = Platform::start();
    let native = first_native_code(&platform);
    let hello = guest("hello");
    let program = std::fs::read(tests::binary()).unwrap()[..100_000].to_vec();
    let check = |name: &str, wasm: &[u8], parts: &[&str]| {
        let answer = upload(&platform, wasm);
        let (status, text) = (answer.reply.status(), answer.reply.text());
        assert!(matches!(status, 400 | 422), "{name}: {status} {text}");
        assert_eq!(
            answer.reply.header("content-type"),
            Some("application/problem+json"),
            "{name}"
        );
        let detail = answer.json["detail"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        for part in parts {
            assert!(
                detail.to_lowercase().contains(part),
                "{name}: `{part}` is not in: {detail}"
            );
        }
    };
    check("an empty file", b"", &["empty"]);
    check("a text", b"fn main() {}\n", &["wasm"]);
    check("a truncated component", &hello[..hello.len() / 2], &[]);
    check("only a header", &hello[..8], &[]);
    check("a program of this machine", &program, &["elf"]);
    check("native code posed as wasm", &native, &["native"]);
    check(
        "an unknown import",
        &guest("unknown"),
        &["acme:vault/keys@1.2.3"],
    );
    check(
        "a module without a handler",
        &wasm_without_exports(),
        &["exports nothing", "wasm32-wasip1"],
    );
    platform
        .api
        .get("tenants/default/apps/wrong/versions")
        .is(404);
    platform.deploy("right", &hello);
    platform.get("right", "/").is(200);
}

/// The native code that the platform made of its first app: what an attacker would upload to have it run as it is.
fn first_native_code(platform: &Platform) -> Vec<u8> {
    platform.deploy("first", &guest("hello"));
    let mut folders = vec![platform.data()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path)
                && let Some(at) = bytes.windows(4).position(|four| four == b"\x7fELF")
            {
                return bytes[at..].to_vec();
            }
        }
    }
    panic!("no native code lies in the data folder");
}

/// The least module there is.
fn wasm_without_exports() -> Vec<u8> {
    b"\0asm\x01\0\0\0".to_vec()
}

#[test]
fn a_component_cut_at_any_place_is_refused() {
    let platform = Platform::start();
    let hello = guest("hello");
    for length in (1..hello.len()).step_by(hello.len() / 12) {
        let answer = upload(&platform, &hello[..length]);
        assert!(
            matches!(answer.reply.status(), 400 | 422),
            "{length}: {}",
            answer.reply.text()
        );
    }
}

#[test]
fn an_upload_must_be_what_its_digest_says() {
    let platform = Platform::start();
    let path = format!(
        "tenants/default/artifacts/{}",
        Digest::of(b"something else")
    );
    let answer = platform.api.send(
        "PUT",
        &path,
        "content-type: application/wasm\r\n",
        &guest("hello"),
    );
    assert!(
        matches!(answer.reply.status(), 400 | 422),
        "{}",
        answer.reply.text()
    );
    assert!(
        answer
            .reply
            .text()
            .contains(&Digest::of(&guest("hello")).to_string())
            || answer.reply.text().contains("digest")
    );
}

#[test]
fn only_what_is_missing_need_be_uploaded() {
    let platform = Platform::start();
    let (one, two) = (guest("hello"), variant(&guest("hello"), 1));
    platform.api.upload(&one);
    let digests = [Digest::of(&one), Digest::of(&two)].map(|digest| digest.to_string());
    let body = serde_json::json!({ "digests": digests });
    let answer = platform
        .api
        .ask("POST", "tenants/default/artifacts/missing", Some(body))
        .is(200);
    let text = answer.reply.text();
    assert!(
        text.contains(&digests[1]) && !text.contains(&digests[0]),
        "{text}"
    );
}

#[test]
fn an_upload_over_the_limit_is_refused() {
    let platform = Platform::configured("[control]\nwasm = '100KiB'");
    let answer = upload(&platform, &vec![0; 200 << 10]);
    assert_eq!(answer.reply.status(), 413, "{}", answer.reply.text());
    assert!(
        answer.reply.text().contains("100KiB"),
        "{}",
        answer.reply.text()
    );
    platform.deploy("fits", &guest("hello"));
}

#[test]
fn a_client_that_dies_while_it_uploads_leaves_nothing() {
    let platform = Platform::start();
    tests::eventually("the last of its own files is there", || {
        platform.data().join("midge.sock").exists().then_some(())
    });
    let files = || count(&platform.data());
    let before = files();
    for _ in 0..5 {
        let mut connection = tests::Connection::open(platform.api.address, "api").unwrap();
        let path = format!("/v1/tenants/default/artifacts/{}", Digest::of(b"x"));
        let headers = format!(
            "authorization: Bearer {}\r\ncontent-length: 1000000\r\n",
            platform.api.token
        );
        connection.send_head("PUT", &path, &headers).unwrap();
        connection.send(&[0; 1000]).unwrap();
        drop(connection);
    }
    tests::eventually("no debris stays", || (files() <= before).then_some(()));
}

fn count(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().filter_map(Result::ok);
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                count(&entry.path())
            } else {
                1
            }
        })
        .sum()
}

#[test]
fn a_command_without_the_grants_it_needs_is_refused_when_it_is_asked_strictly() {
    let platform = Platform::start();
    let wasm = Guest::Component("outbound").bytes();
    let path = platform.folder().join("outbound.wasm");
    std::fs::write(&path, &wasm).unwrap();
    let path = path.to_str().unwrap();
    platform
        .run(&["deploy", path, "--name", "strict", "--strict"])
        .exits(3)
        .says("outgoing-handler");
    platform
        .run(&["deploy", path, "--name", "lenient"])
        .exits(0)
        .says("outgoing-handler");
}
