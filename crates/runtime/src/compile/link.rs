//! Whether native code that was just made can be linked and fits a worker's pool: better said at deploy than at the
//! first request.

use model::{GuestKind, limits};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, ResourcesRequired};

use super::{Refusal, shortened};
use crate::engine;

/// Links `native` as a worker will and throws the result away.
pub fn check(wasm: &Engine, kind: GuestKind, native: &[u8]) -> Result<(), Refusal> {
    match kind {
        GuestKind::HttpComponent | GuestKind::HttpService | GuestKind::CommandComponent => {
            // SAFETY: this process made the code a moment ago, and nothing of it is run.
            let component = unsafe { Component::deserialize(wasm, native) }.map_err(unlinkable)?;
            let linker = engine::link_components(wasm, kind.setting()).map_err(unlinkable)?;
            linker.instantiate_pre(&component).map_err(unlinkable)?;
            component.resources_required().map_or(Ok(()), fit)
        }
        GuestKind::CommandModule => {
            // SAFETY: as above.
            let module = unsafe { Module::deserialize(wasm, native) }.map_err(unlinkable)?;
            let linker = engine::link_modules(wasm).map_err(unlinkable)?;
            linker.instantiate_pre(&module).map_err(unlinkable)?;
            fit(module.resources_required())
        }
    }
}

/// What all its instances together need; a component may make several of one module.
fn fit(needs: ResourcesRequired) -> Result<(), Refusal> {
    let check = |name: &str, what: &str, count: u64, limit: u64| {
        if count <= limit {
            return Ok(());
        }
        Err(Refusal {
            code: "wasm-limit",
            text: format!(
                "its instances need {count} {what}; one invocation may have {limit} (`{name}`)"
            ),
        })
    };
    let (memories, tables) = (limits::MEMORIES, limits::TABLES);
    check(
        memories.name,
        "memories",
        needs.num_memories.into(),
        memories.default,
    )?;
    check(
        tables.name,
        "tables",
        needs.num_tables.into(),
        tables.default,
    )
}

fn unlinkable(error: wasmtime::Error) -> Refusal {
    Refusal {
        code: "unlinkable",
        text: format!(
            "it asks for something of a known interface that this platform does not have: {}; build it with bindings of the released WASI 0.2 or 0.3",
            shortened(&format!("{error:#}"))
        ),
    }
}
