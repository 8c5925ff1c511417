//! Validation with exactly the features that the engine has on; one that is off is refused by its name.

use model::EngineSetting;
use wasmparser::types::Types;
use wasmparser::{Validator, WasmFeatures};

use super::{Refusal, malformed, shortened};
use crate::engine;

/// Features that are off: what they are called, and how to build without them.
const OFF: &[(WasmFeatures, &str, &str)] = &[
    (
        WasmFeatures::CM_ASYNC,
        "component-model async",
        "export `wasi:http/handler@0.3.0`, for which it is on, or build for WASI 0.2, which does without it",
    ),
    (
        WasmFeatures::SHARED_EVERYTHING_THREADS,
        "shared-everything-threads",
        "build for a target without threads",
    ),
    (
        WasmFeatures::THREADS,
        "threads (shared memory and atomics)",
        "build for a target without threads, such as wasm32-wasip2",
    ),
    (
        WasmFeatures::MEMORY64,
        "memory64",
        "build for a 32-bit target (wasm32)",
    ),
    (
        WasmFeatures::CUSTOM_PAGE_SIZES,
        "custom-page-sizes",
        "build with pages of 64 KiB",
    ),
    (
        WasmFeatures::STACK_SWITCHING,
        "stack-switching",
        "build without it",
    ),
    (
        WasmFeatures::LEGACY_EXCEPTIONS,
        "exceptions (in their legacy form)",
        "build without exceptions (C++: -fno-exceptions)",
    ),
    (
        WasmFeatures::EXCEPTIONS,
        "exceptions",
        "build without exceptions (C++: -fno-exceptions; Rust: panic = \"abort\")",
    ),
    (
        WasmFeatures::FUNCTION_REFERENCES,
        "typed function references",
        "build without them",
    ),
    (
        WasmFeatures::GC,
        "garbage collection (gc)",
        "build with a compiler that brings its own memory management",
    ),
    (
        WasmFeatures::GC_TYPES,
        "references other than to functions (externref)",
        "build without them (-C target-feature=-reference-types)",
    ),
    (
        WasmFeatures::MULTI_MEMORY,
        "multi-memory",
        "build with a single memory",
    ),
    (
        WasmFeatures::WIDE_ARITHMETIC,
        "wide-arithmetic",
        "build without it",
    ),
    (
        WasmFeatures::MEMORY_CONTROL,
        "memory-control",
        "build without it",
    ),
];

/// Whether `wasm` is valid with what `setting` has on.
pub fn check(wasm: &[u8], setting: EngineSetting) -> Result<Types, Refusal> {
    let on = engine::features(setting);
    let error = match Validator::new_with_features(on).validate_all(wasm) {
        Ok(types) => return Ok(types),
        Err(error) => error,
    };
    let all = WasmFeatures::all();
    let valid_with = |features| {
        Validator::new_with_features(features)
            .validate_all(wasm)
            .is_ok()
    };
    if !valid_with(all) {
        return Err(malformed(error));
    }
    // Which one it cannot do without; or, where several would do, the first that is enough.
    let needed = OFF
        .iter()
        .find(|(feature, ..)| !valid_with(all.difference(*feature)))
        .or_else(|| {
            OFF.iter()
                .find(|(feature, ..)| valid_with(on.union(*feature)))
        });
    let (name, todo) = needed.map_or(
        (
            "a feature of Wasm that is not yet settled",
            "build without it",
        ),
        |(_, name, todo)| (*name, *todo),
    );
    Err(Refusal {
        code: "unsupported-feature",
        text: format!(
            "it uses {name}, which this platform keeps off ({}); {todo}",
            shortened(&error.to_string())
        ),
    })
}
