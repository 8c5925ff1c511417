//! Code: native code mapped from disk and linked, ready to be instantiated; one per digest, shared by every app
//! that has it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use model::GuestKind;
use wasmtime::component::{Component, ComponentExportIndex};
use wasmtime::{Module, component};

use crate::Engine;
use crate::context::Context;
use crate::engine::Side;

/// Why native code could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the native code does not fit this engine: {0:#}")]
    Refused(wasmtime::Error),
    #[error("the native code cannot be linked: {0:#}")]
    Unlinkable(wasmtime::Error),
    #[error("the guest does not export `{0}`")]
    NoExport(&'static str),
}

/// A guest's code, resident in this worker.
pub struct Code {
    kind: GuestKind,
    pub(crate) linked: Linked,
}

/// What an instance is made from, and where it is entered.
pub(crate) enum Linked {
    Component {
        pre: component::InstancePre<Context>,
        entry: ComponentExportIndex,
    },
    Module(wasmtime::InstancePre<Context>),
}

impl Code {
    /// Maps native code from a descriptor and links it; the engine keeps the file mapped while the code is resident.
    ///
    /// # Safety
    /// The bytes were made by this platform's compile child and nobody can change them: loading chosen bytes is
    /// running them. The supervisor has checked their signature and digest.
    pub unsafe fn load(
        engine: &Engine,
        kind: GuestKind,
        native: OwnedFd,
    ) -> Result<Self, LoadError> {
        // SAFETY: the caller's promise is the one that loading asks for.
        let linked = unsafe {
            match kind {
                GuestKind::HttpComponent | GuestKind::HttpService | GuestKind::CommandComponent => {
                    load_component(engine.side(kind.setting()), native, door(kind))?
                }
                GuestKind::CommandModule => load_module(engine, native)?,
            }
        };
        Ok(Self { kind, linked })
    }

    pub fn kind(&self) -> GuestKind {
        self.kind
    }
}

/// Where a component is entered.
struct Door {
    interface: &'static str,
    /// How the versions of it begin that are known.
    track: &'static str,
    function: &'static str,
}

/// The door of a kind of component.
fn door(kind: GuestKind) -> Door {
    let (interface, track, function) = match kind {
        GuestKind::HttpComponent => ("wasi:http/incoming-handler", "@0.2.", "handle"),
        GuestKind::HttpService => ("wasi:http/handler", "@0.3.", "handle"),
        GuestKind::CommandComponent => ("wasi:cli/run", "@0.2.", "run"),
        GuestKind::CommandModule => unreachable!("a module is entered by a function of its own"),
    };
    Door {
        interface,
        track,
        function,
    }
}

/// # Safety
/// As [`Code::load`].
unsafe fn load_component(side: &Side, native: OwnedFd, door: Door) -> Result<Linked, LoadError> {
    // The engine opens components by name alone; this name is the descriptor itself.
    let path = format!("/proc/self/fd/{}", native.as_raw_fd());
    // SAFETY: the caller's promise.
    let component =
        unsafe { Component::deserialize_file(&side.wasm, path) }.map_err(LoadError::Refused)?;
    let entry =
        find_entry(&side.wasm, &component, &door).ok_or(LoadError::NoExport(door.interface))?;
    let pre = side
        .components
        .instantiate_pre(&component)
        .map_err(LoadError::Unlinkable)?;
    Ok(Linked::Component { pre, entry })
}

/// The door's function in whichever version the component exports it.
fn find_entry(
    wasm: &wasmtime::Engine,
    component: &Component,
    door: &Door,
) -> Option<ComponentExportIndex> {
    let ty = component.component_type();
    let mut exports = ty.exports(wasm).map(|(name, _)| name);
    let name = exports.find(|name| {
        name.strip_prefix(door.interface)
            .is_some_and(|rest| rest.starts_with(door.track))
    })?;
    let instance = component.get_export_index(None, name)?;
    component.get_export_index(Some(&instance), door.function)
}

/// # Safety
/// As [`Code::load`].
unsafe fn load_module(engine: &Engine, native: OwnedFd) -> Result<Linked, LoadError> {
    let wasm = &engine.side(GuestKind::CommandModule.setting()).wasm;
    // SAFETY: the caller's promise.
    let module = unsafe { Module::deserialize_open_file(wasm, File::from(native)) }
        .map_err(LoadError::Refused)?;
    if module.get_export("_start").is_none() {
        return Err(LoadError::NoExport("_start"));
    }
    let pre = engine
        .modules()
        .instantiate_pre(&module)
        .map_err(LoadError::Unlinkable)?;
    Ok(Linked::Module(pre))
}
