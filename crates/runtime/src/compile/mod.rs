//! Compiling: what an upload is, whether it can be served, and its native code.
//!
//! The cheap checks come first, and no compiler sees what did not pass them all: the file's format, our bounds,
//! validation, then what it exports and imports. All of it runs in a process of its own (`child`).

mod bounds;
mod child;
mod componentize;
mod fence;
mod format;
mod kind;
mod link;
mod validate;

use std::borrow::Cow;

use model::pipe::Inspection;
use model::{BuildKey, GuestKind};

use crate::engine;
use crate::{EngineError, build_key};
use kind::Found;

pub use child::child;

/// Why an upload cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// A stable word, such as `unknown-import`.
    pub code: &'static str,
    /// What, why and what to do.
    pub text: String,
}

/// Why there is no native code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The upload's fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The platform's.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What `wasm` is, what it needs and whether it can be served; nothing is compiled.
pub fn inspect(wasm: &[u8]) -> Result<Inspection, Refusal> {
    Ok(prepare(wasm)?.inspection)
}

/// Native code of `wasm` for this machine's class of processors.
pub fn compile(wasm: &[u8]) -> Result<(Inspection, BuildKey, Vec<u8>), CompileError> {
    let Prepared { inspection, wasm } = prepare(wasm)?;
    let setting = inspection.kind.setting();
    let engine = engine::compiling(setting)?;
    let native = match inspection.kind {
        GuestKind::HttpComponent | GuestKind::HttpService | GuestKind::CommandComponent => {
            engine.precompile_component(&wasm)
        }
        GuestKind::CommandModule => engine.precompile_module(&wasm),
    }
    .map_err(|error| Refusal {
        code: "not-compilable",
        text: format!(
            "the compiler refuses it: {}",
            shortened(&format!("{error:#}"))
        ),
    })?;
    link::check(&engine, inspection.kind, &native)?;
    Ok((inspection, build_key(setting), native))
}

/// An upload that can be served, as the compiler takes it.
struct Prepared<'a> {
    inspection: Inspection,
    wasm: Cow<'a, [u8]>,
}

fn prepare(wasm: &[u8]) -> Result<Prepared<'_>, Refusal> {
    format::check(wasm)?;
    match examine(wasm)? {
        Found::Guest(inspection) => Ok(Prepared {
            inspection,
            wasm: wasm.into(),
        }),
        Found::EmbeddedWit => {
            let component = componentize::componentize(wasm)?;
            match examine(&component)? {
                Found::Guest(inspection) => Ok(Prepared {
                    inspection: Inspection {
                        componentized: true,
                        ..inspection
                    },
                    wasm: component.into(),
                }),
                Found::EmbeddedWit => unreachable!("a component is never made into one"),
            }
        }
    }
}

fn examine(wasm: &[u8]) -> Result<Found, Refusal> {
    bounds::check(wasm)?;
    let outline = kind::Outline::read(wasm)?;
    // Before validation, which would speak of the features that WASI 0.3 needs and not of WASI 0.3.
    outline.refuse_drafts()?;
    let types = validate::check(wasm, outline.setting())?;
    outline.judge(&types)
}

/// What the parser says of bytes that it cannot read.
fn malformed(error: wasmparser::Error) -> Refusal {
    Refusal {
        code: "invalid-wasm",
        text: format!(
            "it is not valid Wasm: {}; build it again, and if that does not help, report it to the makers of your compiler",
            shortened(&error.to_string())
        ),
    }
}

/// A name from an upload as it may stand in a message: in backticks, escaped and short.
fn quoted(name: &str) -> String {
    format!("`{}`", shortened(name))
}

/// Text that may hold parts of an upload: escaped, on one line and short.
fn shortened(text: &str) -> String {
    const MOST: usize = 300;
    let mut short = String::new();
    for c in text.chars().take(MOST) {
        match c {
            '\n' => short.push(' '),
            '\'' | '"' | '\\' => short.push(c),
            c => short.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
