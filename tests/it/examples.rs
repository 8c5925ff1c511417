//! Every example of the repository answers when it is deployed with its own manifest.

use std::fs;
use std::path::{Path, PathBuf};

use model::Manifest;
use tests::{Guest, Platform};

/// An example's folder, what it was built into, and what it answers to `/there`.
const EXAMPLES: [(&str, Guest, &str); 4] = [
    (
        "rust/hello",
        Guest::Example("hello"),
        "Hello from the edge! You asked for /there\n",
    ),
    (
        "rust/outgoing",
        Guest::Example("outgoing"),
        "hello says: Hello from the edge! You asked for /there\n",
    ),
    (
        "rust/secrets",
        Guest::Example("secrets"),
        "charging in EUR, once `midge secret set stripe-key` was said\n",
    ),
    (
        "c/hello-command",
        Guest::InC("hello-command"),
        "Hello from C! You asked for /there\n",
    ),
];

#[test]
fn every_example_answers_as_its_manifest_has_it() {
    let platform = Platform::start();
    for (example, built, answer) in EXAMPLES {
        if matches!(built, Guest::InC(_)) && !built.path().exists() {
            tests::skip("the example in C", "this machine has no compiler for it");
            continue;
        }
        // What was built by other means lies where the manifest's own build would leave it.
        let folder = platform.folder().join(example);
        let text = fs::read_to_string(root().join(example).join("midge.toml")).unwrap();
        let manifest = Manifest::from_toml(&text).unwrap();
        let component = folder.join(manifest.component.unwrap());
        fs::create_dir_all(component.parent().unwrap()).unwrap();
        fs::write(folder.join("midge.toml"), text).unwrap();
        fs::write(component, built.bytes()).unwrap();
        platform
            .run_in(&folder, &["deploy", "--no-build"])
            .exits(0)
            .says("live on 1 of 1 nodes");
        let reply = platform.get(manifest.name.as_str(), "/there");
        reply.is(200).says(answer);
    }
}

/// The code that a page shows is an example's, which is built and answers.
#[test]
fn the_guides_code_is_that_of_an_example() {
    for (page, example) in [
        ("secrets", "rust/secrets"),
        ("outgoing-http", "rust/outgoing"),
    ] {
        shows(page, example);
    }
}

/// The code of the guide's page `page` is in the source of `example`.
fn shows(page: &str, example: &str) {
    let page = root().join(format!("../docs/guide/{page}.md"));
    let page = fs::read_to_string(page).unwrap();
    let source = fs::read_to_string(root().join(example).join("src/lib.rs")).unwrap();
    let blocks: Vec<&str> = page
        .split("```rust\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .map(|(block, _)| block)
        .collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        assert!(source.contains(block), "not in the example:\n{block}");
    }
}

#[test]
fn no_example_is_left_out() {
    let folders = |path: PathBuf| {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
        entries.filter(|entry| entry.file_type().unwrap().is_dir())
    };
    for language in folders(root()) {
        for example in folders(language.path()) {
            let path = example.path();
            let name = path.strip_prefix(root()).unwrap();
            assert!(
                EXAMPLES.iter().any(|(known, ..)| Path::new(known) == name),
                "`{}` is not among those that are deployed",
                name.display()
            );
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}
