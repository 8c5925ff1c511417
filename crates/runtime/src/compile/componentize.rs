//! A core module with its WIT in a custom section, made into the component that it describes.

use std::panic::catch_unwind;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::ComponentEncoder;

use super::{Refusal, shortened};

/// The component of a module with embedded WIT; its preview-1 imports are served by the reactor adapter.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, Refusal> {
    // The encoder takes the embedded WIT to be what a compiler wrote, and may panic when it is not.
    let encoded = catch_unwind(|| {
        ComponentEncoder::default()
            .module(module)?
            .adapter(
                WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            )?
            .encode()
    });
    let why = match encoded {
        Ok(Ok(component)) => return Ok(component),
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "its WIT cannot be understood".into(),
    };
    Err(Refusal {
        code: "not-componentizable",
        text: format!(
            "it is a core module with embedded WIT that cannot be made into a component: {}; try `wasm-tools component new` on it, or build for wasm32-wasip2",
            shortened(&why)
        ),
    })
}
