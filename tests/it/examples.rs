//! The examples of the repository answer: the Rust one deployed with its own manifest; the C one is among the guests.

use std::path::Path;

use tests::{Guest, Platform};

#[test]
fn the_rust_example_answers() {
    let platform = Platform::start();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/rust/hello");
    let wasm = Guest::Example("hello").path();
    let wasm = wasm.to_str().unwrap();
    platform
        .run_in(&folder, &["deploy", wasm, "--manifest", "midge.toml"])
        .exits(0)
        .says("live on 1 of 1 nodes");
    platform
        .get("hello", "/there")
        .is(200)
        .says("Hello from the edge! You asked for /there\n");
}
