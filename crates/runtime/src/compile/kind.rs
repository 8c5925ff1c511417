//! What kind of guest an upload is, by what it exports; and whether everything that it imports is known.

use capabilities::interfaces::{self, Standing};
use model::pipe::Inspection;
use model::{EngineSetting, GuestKind, Import, limits};
use wasmparser::types::Types;
use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, Encoding, ExternalKind, Imports, Parser, Payload,
    TypeBounds,
};

use super::{Refusal, malformed, quoted};

const HANDLER_03: &str = "wasi:http/handler@";

/// What came of an upload.
pub enum Found {
    Guest(Inspection),
    /// A core module with its WIT in a custom section: to be made into a component.
    EmbeddedWit,
}

/// What an upload imports and exports at its outermost level.
pub struct Outline<'a> {
    encoding: Encoding,
    imports: Vec<Needed<'a>>,
    exports: Vec<Offered<'a>>,
    embedded_wit: bool,
}

/// An import: an interface of a component, or a function of a module.
struct Needed<'a> {
    name: &'a str,
    /// Of a module's import: what of `name` it is.
    item: Option<&'a str>,
    /// Whether it can be an interface at all.
    interface: bool,
}

struct Offered<'a> {
    name: &'a str,
    kind: Offer,
}

#[derive(PartialEq)]
enum Offer {
    Interface,
    /// A core function and its index.
    Function(u32),
    Other,
}

impl<'a> Outline<'a> {
    pub fn read(wasm: &'a [u8]) -> Result<Self, Refusal> {
        let mut outline = Self {
            encoding: Encoding::Module,
            imports: Vec::new(),
            exports: Vec::new(),
            embedded_wit: false,
        };
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.map_err(malformed)? {
                Payload::Version { encoding, .. } => {
                    if depth == 0 {
                        outline.encoding = encoding;
                    }
                    depth += 1;
                }
                Payload::End(_) => depth -= 1,
                payload if depth == 1 => outline.add(payload)?,
                _ => {}
            }
        }
        Ok(outline)
    }

    fn add(&mut self, payload: Payload<'a>) -> Result<(), Refusal> {
        match payload {
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    let import = import.map_err(malformed)?;
                    // A name for a type that is already known is nothing to lend.
                    if !matches!(import.ty, ComponentTypeRef::Type(TypeBounds::Eq(_))) {
                        self.imports.push(Needed {
                            name: import.name.name,
                            item: None,
                            interface: matches!(import.ty, ComponentTypeRef::Instance(_)),
                        });
                    }
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(malformed)?;
                    let kind = match export.kind {
                        ComponentExternalKind::Instance => Offer::Interface,
                        _ => Offer::Other,
                    };
                    self.exports.push(Offered {
                        name: export.name.name,
                        kind,
                    });
                }
            }
            Payload::ImportSection(imports) => {
                for group in imports {
                    self.add_core(group.map_err(malformed)?)?;
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(malformed)?;
                    let kind = match export.kind {
                        ExternalKind::Func => Offer::Function(export.index),
                        _ => Offer::Other,
                    };
                    self.exports.push(Offered {
                        name: export.name,
                        kind,
                    });
                }
            }
            Payload::CustomSection(section) => {
                self.embedded_wit |= section.name().starts_with("component-type");
            }
            _ => {}
        }
        Ok(())
    }

    fn add_core(&mut self, group: Imports<'a>) -> Result<(), Refusal> {
        let mut add = |name, item| {
            self.imports.push(Needed {
                name,
                item: Some(item),
                interface: true,
            });
        };
        match group {
            Imports::Single(_, import) => add(import.module, import.name),
            Imports::Compact1 { module, items } => {
                for item in items {
                    add(module, item.map_err(malformed)?.name);
                }
            }
            Imports::Compact2 { module, names, .. } => {
                for name in names {
                    add(module, name.map_err(malformed)?);
                }
            }
        }
        Ok(())
    }

    /// Refuses what was built for a draft of WASI 0.3, by that name.
    pub fn refuse_drafts(&self) -> Result<(), Refusal> {
        let draft = |export: &&Offered<'_>| {
            let version = export.name.strip_prefix(HANDLER_03);
            version.is_some_and(|version| !interfaces::is_stable(version, "0.3"))
        };
        let (Some(export), None) = (self.exports.iter().find(draft), self.handler()) else {
            return Ok(());
        };
        Err(Refusal {
            code: "wasi-0.3",
            text: format!(
                "it exports {}, a version of WASI 0.3 before its release; build it with an SDK or bindings of the released 0.3.0, or for WASI 0.2",
                quoted(export.name)
            ),
        })
    }

    /// The engine setting whose features it is held to.
    pub fn setting(&self) -> EngineSetting {
        let kind = self.handler().unwrap_or(GuestKind::HttpComponent);
        kind.setting()
    }

    /// The kind of guest this valid upload is, with its imports checked.
    pub fn judge(&self, types: &Types) -> Result<Found, Refusal> {
        let kind = match self.encoding {
            Encoding::Component => self.handler().ok_or_else(|| self.no_handler())?,
            Encoding::Module => {
                let start = self.exports.iter().find(|export| export.name == "_start");
                let preview1 = self
                    .imports
                    .iter()
                    .all(|import| import.name == interfaces::PREVIEW1);
                if self.embedded_wit && !(start.is_some() && preview1) {
                    return Ok(Found::EmbeddedWit);
                }
                let start = start.ok_or_else(|| self.no_handler())?;
                check_start(&start.kind, types)?;
                GuestKind::CommandModule
            }
        };
        Ok(Found::Guest(Inspection {
            kind,
            componentized: false,
            imports: self.lend(kind.setting())?,
            exports: self.name_exports(),
        }))
    }

    /// What a component is by its exports; serving HTTP comes before running once.
    fn handler(&self) -> Option<GuestKind> {
        let exports = |interface: &str, track: &str| {
            self.exports.iter().any(|export| {
                let version = export.name.strip_prefix(interface);
                let stable = |version| interfaces::is_stable(version, track);
                export.kind == Offer::Interface && version.is_some_and(stable)
            })
        };
        if exports(HANDLER_03, "0.3") {
            Some(GuestKind::HttpService)
        } else if exports("wasi:http/incoming-handler@", "0.2") {
            Some(GuestKind::HttpComponent)
        } else if exports("wasi:cli/run@", "0.2") {
            Some(GuestKind::CommandComponent)
        } else {
            None
        }
    }

    /// Every import as the platform stands to it.
    fn lend(&self, setting: EngineSetting) -> Result<Vec<Import>, Refusal> {
        let lent = |name: &str| match setting {
            EngineSetting::A => !interfaces::is_asynchronous(name),
            EngineSetting::B => true,
        };
        let mut imports = Vec::new();
        for needed in &self.imports {
            let name = needed.name;
            let standing = interfaces::find(name).filter(|_| needed.interface && lent(name));
            let import = match standing.ok_or_else(|| unknown(needed))? {
                Standing::Free => Import::Free { name: name.into() },
                Standing::Asks(_) => Import::Denied { name: name.into() },
            };
            imports.push(import);
        }
        imports.sort_by(|a, b| a.name().cmp(b.name()));
        imports.dedup();
        Ok(imports)
    }

    fn name_exports(&self) -> Vec<String> {
        let most = limits::WASM_EXPORTS_LISTED.default as usize;
        let name = |export: &Offered<'_>| super::shortened(export.name);
        self.exports.iter().take(most).map(name).collect()
    }

    fn no_handler(&self) -> Refusal {
        let (what, todo) = match self.encoding {
            Encoding::Component => (
                "it is a component",
                "export `wasi:http/incoming-handler@0.2` or `wasi:http/handler@0.3` to serve HTTP, or `wasi:cli/run@0.2` to be a command",
            ),
            Encoding::Module => (
                "it is a core module",
                "build a command (for wasm32-wasip1, with a `main`) or a component (for wasm32-wasip2)",
            ),
        };
        Refusal {
            code: "no-handler",
            text: format!(
                "{what} without a handler this platform knows: {}; {todo}",
                self.list_exports()
            ),
        }
    }

    fn list_exports(&self) -> String {
        const MOST: usize = 8;
        if self.exports.is_empty() {
            return "it exports nothing".into();
        }
        let named: Vec<_> = self
            .exports
            .iter()
            .take(MOST)
            .map(|export| quoted(export.name))
            .collect();
        let more = match self.exports.len().saturating_sub(MOST) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("it exports {}{more}", named.join(", "))
    }
}

/// A command is entered by `_start`, which takes and returns nothing.
fn check_start(start: &Offer, types: &Types) -> Result<(), Refusal> {
    let fits = match start {
        Offer::Function(index) => {
            let types = types.as_ref();
            let ty = types[types.core_function_at(*index)].unwrap_func();
            ty.params().is_empty() && ty.results().is_empty()
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(Refusal {
        code: "no-handler",
        text: "its `_start` is not a function that takes and returns nothing; build a command (for wasm32-wasip1, with a `main`)".into(),
    })
}

fn unknown(needed: &Needed<'_>) -> Refusal {
    let name = match needed.item {
        Some(item) => format!("{} of {}", quoted(item), quoted(needed.name)),
        None => quoted(needed.name),
    };
    let interface = needed.name.split_once('@').map(|(interface, _)| interface);
    let why = match (interface, needed.item) {
        (_, Some(_)) if needed.name == "wasi_unstable" => {
            "that is preview 0 of WASI; build it for wasm32-wasip1 with a compiler of the present"
                .into()
        }
        (_, Some(_)) => format!(
            "a command may import from `{}` alone; build it for wasm32-wasip1 without other imports, or as a component",
            interfaces::PREVIEW1
        ),
        _ if interfaces::is_asynchronous(needed.name) && interfaces::find(needed.name).is_some() => {
            "WASI 0.3 is lent to components that export `wasi:http/handler@0.3`; export that, or build for WASI 0.2"
                .into()
        }
        (Some(known), _) => match interfaces::known_versions(known) {
            Some(versions) => format!("this platform knows that interface in version {versions}; build it with bindings of that"),
            None => "this platform does not know that interface; build without it".into(),
        },
        (None, None) => "an import must be an interface that this platform knows, with its version; build without it".into(),
    };
    Refusal {
        code: "unknown-import",
        text: format!("it imports {name}: {why}"),
    }
}
