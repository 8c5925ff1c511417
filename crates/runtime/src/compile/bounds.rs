//! Our own bounds, counted in one pass before anything else is done with an upload.
//!
//! Compilers take time and memory that grow faster than some of these counts (a few KiB can take minutes), and an
//! engine's own bounds are far higher than what real guests need.

use model::Size;
use model::limits::{self, Limit};
use wasmparser::{
    ComponentType, ComponentTypeDeclaration, CoreType, DataKind, Element, ElementItems, Encoding,
    ExternalKind, FunctionBody, Imports, Instance, InstanceTypeDeclaration, Operator, Parser,
    Payload, TypeRef,
};

use super::{Refusal, malformed};

/// Whether `wasm` is within every bound. It may still be invalid.
pub fn check(wasm: &[u8]) -> Result<(), Refusal> {
    let mut count = Count::default();
    for payload in Parser::new(0).parse_all(wasm) {
        count.add(payload.map_err(malformed)?)?;
    }
    Ok(())
}

/// What has been seen so far.
#[derive(Default)]
struct Count {
    /// The components and the module that are open, outermost first.
    open: Vec<Part>,
    modules: u64,
    core_instances: u64,
    functions: u64,
    locals: u64,
    memories: u64,
    memory_bytes: u64,
    tables: u64,
}

/// One module or component.
#[derive(Default)]
struct Part {
    types: u64,
    imports: u64,
    imported_functions: u32,
    bodies: u32,
    /// What the engine keeps for an instance of it besides memories and tables.
    instance_bytes: u64,
    /// A bit for each function that a table, an export or a value may hold.
    escaped: Vec<u64>,
}

/// Bytes the engine keeps for each of these in an instance.
const PER_GLOBAL: u64 = 16;
const PER_IMPORT: u64 = 32;
const PER_ESCAPED: u64 = 32;
const PER_PASSIVE_DATA: u64 = 12;

impl Count {
    fn add(&mut self, payload: Payload<'_>) -> Result<(), Refusal> {
        if let Payload::Version { encoding, .. } = payload {
            return self.enter(encoding);
        }
        let Some(part) = self.open.last_mut() else {
            return Ok(());
        };
        match payload {
            Payload::End(_) => {
                self.open.pop();
            }
            Payload::TypeSection(types) => part.add_types(types.count().into())?,
            Payload::CoreTypeSection(types) => {
                for ty in types {
                    part.add_types(weigh_core(&ty.map_err(malformed)?))?;
                }
            }
            Payload::ComponentTypeSection(types) => {
                for ty in types {
                    part.add_types(weigh(&ty.map_err(malformed)?))?;
                }
            }
            Payload::ComponentImportSection(imports) => {
                part.imports += u64::from(imports.count());
                within(&limits::WASM_IMPORTS, part.imports, "imports")?;
            }
            Payload::ImportSection(imports) => {
                for group in imports {
                    part.add_imports(group.map_err(malformed)?)?;
                }
            }
            Payload::FunctionSection(functions) => {
                self.functions += u64::from(functions.count());
                within(&limits::WASM_FUNCTIONS, self.functions, "functions")?;
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    let table = table.map_err(malformed)?.ty;
                    self.tables += 1;
                    within(&limits::TABLES, self.tables, "tables")?;
                    let what = "elements in a table";
                    within(&limits::TABLE_ELEMENTS, table.initial, what)?;
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    let memory = memory.map_err(malformed)?;
                    self.memories += 1;
                    within(&limits::MEMORIES, self.memories, "memories")?;
                    let bytes = memory.initial.saturating_mul(1 << 16);
                    self.memory_bytes = self.memory_bytes.saturating_add(bytes);
                }
                check_memory(Size(self.memory_bytes))?;
            }
            Payload::GlobalSection(globals) => {
                part.hold(u64::from(globals.count()) * PER_GLOBAL)?;
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(malformed)?;
                    if export.kind == ExternalKind::Func {
                        part.escape(export.index)?;
                    }
                }
            }
            Payload::ElementSection(elements) => {
                for element in elements {
                    part.add_elements(element.map_err(malformed)?)?;
                }
            }
            Payload::DataSection(segments) => {
                let what = "data segments in a module";
                within(&limits::WASM_DATA_SEGMENTS, segments.count().into(), what)?;
                for segment in segments {
                    if let DataKind::Passive = segment.map_err(malformed)?.kind {
                        part.hold(PER_PASSIVE_DATA)?;
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                let index = part.imported_functions + part.bodies;
                part.bodies += 1;
                let locals = check_body(&body, index, self.modules)?;
                self.locals += locals;
                within(
                    &limits::WASM_LOCALS_IN_ALL,
                    self.locals,
                    "locals in all its functions",
                )?;
            }
            Payload::InstanceSection(instances) => {
                for instance in instances {
                    if let Instance::Instantiate { .. } = instance.map_err(malformed)? {
                        self.core_instances += 1;
                    }
                }
                let what = "core instances";
                within(&limits::CORE_INSTANCES, self.core_instances, what)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, encoding: Encoding) -> Result<(), Refusal> {
        match encoding {
            Encoding::Module => {
                self.modules += 1;
                within(&limits::WASM_MODULES, self.modules, "core modules")?;
            }
            Encoding::Component => {
                let depth = self.open.len() as u64;
                within(
                    &limits::WASM_DEPTH,
                    depth,
                    "levels of components within components",
                )?;
            }
        }
        self.open.push(Part::default());
        Ok(())
    }
}

impl Part {
    fn add_types(&mut self, count: u64) -> Result<(), Refusal> {
        self.types += count;
        within(
            &limits::WASM_TYPES,
            self.types,
            "types in one module or component",
        )
    }

    fn add_imports(&mut self, group: Imports<'_>) -> Result<(), Refusal> {
        let mut add = |ty: &TypeRef| {
            if let TypeRef::Func(_) | TypeRef::FuncExact(_) = ty {
                self.imported_functions += 1;
            }
            self.hold(PER_IMPORT)
        };
        match group {
            Imports::Single(_, import) => add(&import.ty)?,
            Imports::Compact1 { items, .. } => {
                for item in items {
                    add(&item.map_err(malformed)?.ty)?;
                }
            }
            Imports::Compact2 { ty, names, .. } => {
                for _ in names {
                    add(&ty)?;
                }
            }
        }
        Ok(())
    }

    fn add_elements(&mut self, element: Element<'_>) -> Result<(), Refusal> {
        match element.items {
            ElementItems::Functions(functions) => {
                for function in functions {
                    self.escape(function.map_err(malformed)?)?;
                }
            }
            ElementItems::Expressions(_, expressions) => {
                for expression in expressions {
                    for operator in expression.map_err(malformed)?.get_operators_reader() {
                        if let Operator::RefFunc { function_index } = operator.map_err(malformed)? {
                            self.escape(function_index)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes that a function's reference may be held somewhere.
    fn escape(&mut self, function: u32) -> Result<(), Refusal> {
        let (word, bit) = (function as usize / 64, 1 << (function % 64));
        // An index beyond every function is invalid, which validation says.
        if u64::from(function) > limits::WASM_FUNCTIONS.default * 2 {
            return Ok(());
        }
        if self.escaped.len() <= word {
            self.escaped.resize(word + 1, 0);
        }
        if self.escaped[word] & bit != 0 {
            return Ok(());
        }
        self.escaped[word] |= bit;
        self.hold(PER_ESCAPED)
    }

    fn hold(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.instance_bytes += bytes;
        let limit = &limits::WASM_INSTANCE;
        let held = Size(self.instance_bytes);
        if held > limit.default {
            return Err(beyond(
                format!(
                    "an instance of one of its modules takes {held} besides its memory (globals, imports, functions in tables)"
                ),
                format!("one may take {}", limit.default),
                limit.name,
            ));
        }
        Ok(())
    }
}

/// How many types a core type is.
fn weigh_core(ty: &CoreType<'_>) -> u64 {
    match ty {
        CoreType::Rec(_) => 1,
        CoreType::Module(declarations) => 1 + declarations.len() as u64,
    }
}

/// How many types a component's type is, with those within it.
fn weigh(ty: &ComponentType<'_>) -> u64 {
    match ty {
        ComponentType::Defined(_) | ComponentType::Func(_) | ComponentType::Resource { .. } => 1,
        ComponentType::Component(declarations) => {
            let within = declarations.iter().map(|declaration| match declaration {
                ComponentTypeDeclaration::Type(ty) => weigh(ty),
                ComponentTypeDeclaration::CoreType(ty) => weigh_core(ty),
                _ => 1,
            });
            1 + within.sum::<u64>()
        }
        ComponentType::Instance(declarations) => {
            let within = declarations.iter().map(|declaration| match declaration {
                InstanceTypeDeclaration::Type(ty) => weigh(ty),
                InstanceTypeDeclaration::CoreType(ty) => weigh_core(ty),
                _ => 1,
            });
            1 + within.sum::<u64>()
        }
    }
}

/// Whether one function's body is within bounds; how many locals it has.
fn check_body(body: &FunctionBody<'_>, index: u32, module: u64) -> Result<u64, Refusal> {
    let of = |what: String| format!("function {index} of module {module} has {what}");
    let size = Size(body.range().len() as u64);
    let limit = &limits::WASM_BODY;
    if size > limit.default {
        let most = format!("one body may have {}; split it", limit.default);
        return Err(beyond(of(format!("a body of {size}")), most, limit.name));
    }
    let mut locals = 0;
    for group in body.get_locals_reader().map_err(malformed)? {
        locals += u64::from(group.map_err(malformed)?.0);
    }
    let limit = &limits::WASM_LOCALS;
    if locals > limit.default {
        let most = format!("one function may have {}; split it", limit.default);
        return Err(beyond(of(format!("{locals} locals")), most, limit.name));
    }
    let (mut depth, mut deepest) = (0u64, 0);
    let mut operators = body.get_operators_reader().map_err(malformed)?;
    while !operators.eof() {
        match operators.read().map_err(malformed)? {
            Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::Try { .. }
            | Operator::TryTable { .. } => depth += 1,
            Operator::End => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    let limit = &limits::WASM_NESTING;
    if deepest > limit.default {
        let most = format!("one function may have {}; split it", limit.default);
        return Err(beyond(
            of(format!("blocks nested {deepest} deep")),
            most,
            limit.name,
        ));
    }
    Ok(locals)
}

fn check_memory(needed: Size) -> Result<(), Refusal> {
    let limit = &limits::MEMORY;
    if needed > limit.ceiling {
        return Err(beyond(
            format!("its memories begin with {needed}"),
            format!(
                "one invocation may have {} at most; link it with less static data and stack",
                limit.ceiling
            ),
            limit.name,
        ));
    }
    Ok(())
}

fn within(limit: &Limit<u64>, count: u64, what: &str) -> Result<(), Refusal> {
    if count > limit.default {
        let most = format!(
            "one upload may have {}; split it, or leave out what is not used",
            limit.default
        );
        return Err(beyond(format!("it has {count} {what}"), most, limit.name));
    }
    Ok(())
}

fn beyond(found: String, most: String, name: &str) -> Refusal {
    Refusal {
        code: "wasm-limit",
        text: format!("{found}; {most} (`{name}`)"),
    }
}
