//! Every refusal and every kind of guest, as tables.

use model::{EngineSetting, GuestKind, Import};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::*;
use crate::{Code, Engine, PoolSettings};

/// A component that serves HTTP and answers nothing.
const HANDLER: &str = r#"(component
    (import "wasi:http/types@0.2.3" (instance $types
        (export "incoming-request" (type (sub resource)))
        (export "response-outparam" (type (sub resource)))))
    IMPORTS
    (alias export $types "incoming-request" (type $request))
    (alias export $types "response-outparam" (type $out))
    (core module $m
        (memory 1)
        (table 1 funcref)
        (elem (i32.const 0) $handle)
        (global (mut i32) (i32.const 1))
        (data (i32.const 8) "hello")
        (func $handle (export "handle") (param i32 i32)
            (local i64 f32)
            (block (loop (br_if 1 (local.get 0)) (br 0)))))
    (core instance $i (instantiate $m))
    (func $f (param "request" (own $request)) (param "response-out" (own $out))
        (canon lift (core func $i "handle")))
    (instance $handler (export "handle" (func $f)))
    (export "wasi:http/incoming-handler@0.2.3" (instance $handler)))"#;

/// A component that runs once, with `core` within its core module.
fn runner(core: &str) -> String {
    format!(
        r#"(component
            (core module $m {core} (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $f (result (result)) (canon lift (core func $i "run")))
            (instance $run (export "run" (func $f)))
            (export "wasi:cli/run@0.2.0" (instance $run)))"#
    )
}

fn handler(imports: &str) -> String {
    HANDLER.replace("IMPORTS", imports)
}

/// A command whose module also holds `core`.
fn command(core: &str) -> String {
    format!(r#"(module {core} (func (export "_start")))"#)
}

fn binary(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap()
}

/// A core module with the WIT of a command embedded, that imports from preview 1.
fn embedded() -> Vec<u8> {
    let mut resolve = Resolve::default();
    let wit = "package wasi:cli@0.2.0; interface run { run: func() -> result; } world app { export run; }";
    let package = resolve.push_str("run.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some("app")).unwrap();
    let mut module = binary(
        r#"(module
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (func (export "wasi:cli/run@0.2.0#run") (result i32)
                (call $random (i32.const 0) (i32.const 8))))"#,
    );
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

fn refused(wasm: &[u8], code: &str, part: &str) {
    let refusal = inspect(wasm).expect_err(part);
    assert_eq!(refusal.code, code, "{refusal}");
    assert!(refusal.text.contains(part), "{refusal} lacks {part}");
    assert!(!refusal.text.contains(char::is_control), "{refusal:?}");
}

#[test]
fn a_file_that_is_not_wasm_is_called_by_its_name() {
    let check = |file: &[u8], code: &str, part: &str| refused(file, code, part);
    check(b"", "empty-file", "empty");
    check(b"\x7fELF\x02\x01\x01\x00", "native-code", "(ELF)");
    check(b"\x7fELF\x02\x01\x01\xc8", "native-code", ".cwasm");
    check(b"MZ\x90\0", "native-code", "Windows");
    check(b"\xcf\xfa\xed\xfe\x0c", "native-code", "Mach-O");
    check(b"PK\x03\x04rest", "not-wasm", "zip");
    check(b"\x1f\x8b\x08", "not-wasm", "gzip");
    check(b"BC\xc0\xde", "not-wasm", "bitcode");
    check(b"(module)", "not-wasm", "text format");
    check(b"\n ;; a guest\n  (component\n", "not-wasm", "text format");
    check(b"export default {}", "not-wasm", "this is text");
    check("päivää".as_bytes(), "not-wasm", "this is text");
    check(b"\x01\x02\xff\0", "not-wasm", "01 02 ff 00");
    check(b"\0asm\x02\0\0\0", "invalid-wasm", "version 2");
    check(
        b"\0asm\x0a\0\x01\0",
        "invalid-wasm",
        "version 10 of layer 1",
    );
    check(b"\0as", "truncated", "after 3 bytes");
    check(&vec![0; (100 << 20) + 1], "too-large", "100MiB");
}

#[test]
fn a_guest_is_of_the_kind_that_its_exports_say() {
    let check = |wasm: &[u8], kind: GuestKind, imports: &[&str]| {
        let inspection = inspect(wasm).unwrap();
        assert_eq!(inspection.kind, kind);
        let found: Vec<_> = inspection
            .imports
            .iter()
            .map(|import| match import {
                Import::Free { name } | Import::Granted { name } => name.clone(),
                Import::Denied { name } => format!("no {name}"),
            })
            .collect();
        assert_eq!(found, imports);
        inspection
    };
    let http = check(
        &binary(&handler("")),
        GuestKind::HttpComponent,
        &["wasi:http/types@0.2.3"],
    );
    assert_eq!(http.exports, ["wasi:http/incoming-handler@0.2.3"]);
    assert!(!http.componentized);
    check(
        &binary(&handler(
            r#"(import "wasi:sockets/tcp@0.2.0" (instance))
               (import "wasi:http/outgoing-handler@0.2.6" (instance))
               (import "wasi:config/store@0.2.0-rc.1" (instance))"#,
        )),
        GuestKind::HttpComponent,
        &[
            "wasi:config/store@0.2.0-rc.1",
            "no wasi:http/outgoing-handler@0.2.6",
            "wasi:http/types@0.2.3",
            "no wasi:sockets/tcp@0.2.0",
        ],
    );
    check(&binary(&runner("")), GuestKind::CommandComponent, &[]);
    check(&binary(&command("")), GuestKind::CommandModule, &[]);
    let random = r#"(import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))"#;
    check(
        &binary(&command(random)),
        GuestKind::CommandModule,
        &["wasi_snapshot_preview1"],
    );
    let made = inspect(&embedded()).unwrap();
    assert!(made.componentized);
    assert_eq!(made.kind, GuestKind::CommandComponent);
    assert!(
        made.imports
            .iter()
            .any(|i| i.name().starts_with("wasi:random/random@0.2."))
    );
}

#[test]
fn what_exports_no_handler_is_refused_with_what_it_exports() {
    let check = |wat: &str, code: &str, part: &str| refused(&binary(wat), code, part);
    check("(module)", "no-handler", "exports nothing");
    check("(component)", "no-handler", "exports nothing");
    check(r#"(module (func (export "add")))"#, "no-handler", "`add`");
    check(
        r#"(module (func (export "a\u{1b}[2Jb")))"#,
        "no-handler",
        r"`a\u{1b}[2Jb`",
    );
    check(
        r#"(module (func (export "_start") (param i32)))"#,
        "no-handler",
        "takes and returns nothing",
    );
    check(
        r#"(module (memory (export "_start") 1))"#,
        "no-handler",
        "takes and returns nothing",
    );
    let other = |export: &str| handler("").replace("wasi:http/incoming-handler@0.2.3", export);
    check(
        &other("wasi:http/incoming-handler@0.2.0-rc-2023-11-10"),
        "no-handler",
        "rc-2023-11-10",
    );
    check(
        &other("acme:shop/till@1.0.0"),
        "no-handler",
        "`acme:shop/till@1.0.0`",
    );
    check(
        &other("wasi:http/handler@0.3.0-rc-2026-03-15"),
        "wasi-0.3",
        "0.3.0-rc-2026-03-15",
    );
    let many: String = (0..20)
        .map(|i| format!(r#"(func (export "f{i}"))"#))
        .collect();
    check(&format!("(module {many})"), "no-handler", "and 12 more");
}

#[test]
fn an_unknown_import_is_refused_by_its_name() {
    let check = |wat: &str, part: &str| refused(&binary(wat), "unknown-import", part);
    let import = |name: &str| handler(&format!(r#"(import "{name}" (instance))"#));
    check(&import("acme:shop/stock@1.0.0"), "`acme:shop/stock@1.0.0`");
    check(
        &import("fermyon:spin/redis@2.0.0"),
        "`fermyon:spin/redis@2.0.0`",
    );
    check(&import("wasi:config/store@0.2.0-rc.2"), "0.2.0-rc.1");
    check(
        &import("wasi:http/types@0.3.0"),
        "that export `wasi:http/handler@0.3`",
    );
    check(
        &import("wasi:http/types@0.2.0-rc-2023-11-10"),
        "in version 0.2",
    );
    check(&handler(r#"(import "log" (func))"#), "`log`");
    check(
        &handler(r#"(import "thing" (type (sub resource)))"#),
        "`thing`",
    );
    check(&command(r#"(import "env" "now" (func))"#), "`now` of `env`");
    check(
        &command(r#"(import "wasi_unstable" "fd_write" (func))"#),
        "preview 0",
    );
    check(
        &command(r#"(import "env" "memory" (memory 1))"#),
        "`memory` of `env`",
    );
}

#[test]
fn a_name_for_a_known_type_is_no_import() {
    let inspection = inspect(&binary(&handler(
        r#"(alias export $types "incoming-request" (type $t)) (import "request" (type (eq $t)))"#,
    )));
    assert_eq!(inspection.unwrap().imports.len(), 1);
}

/// Every feature that is off, in a command or component that has nothing else wrong.
const FEATURES: &[(&str, &str)] = &[
    ("garbage collection", "(type (struct (field i32)))"),
    (
        "typed function references",
        "(type $f (func)) (func (param (ref $f)))",
    ),
    ("externref", "(func (param externref))"),
    ("exceptions", "(tag)"),
    ("exceptions", "(func (block $b (try_table (catch_all $b))))"),
    ("legacy", "(func try catch_all end)"),
    ("threads", "(memory 1 1 shared)"),
    (
        "threads",
        "(memory 1) (func (drop (i32.atomic.load (i32.const 0))))",
    ),
    ("memory64", "(memory i64 1)"),
    ("multi-memory", "(memory 1) (memory 1)"),
    ("stack-switching", "(type $f (func)) (type (cont $f))"),
    ("custom-page-sizes", "(memory 1 (pagesize 1))"),
    (
        "wide-arithmetic",
        "(func (param i64 i64 i64 i64) (result i64 i64) (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3)))",
    ),
];

#[test]
fn a_feature_that_is_off_is_refused_by_its_name() {
    let compiler = engine::compiling(EngineSetting::A).unwrap();
    for (name, core) in FEATURES {
        for wat in [command(core), runner(core)] {
            let wasm = binary(&wat);
            refused(&wasm, "unsupported-feature", name);
            // The engine alone would refuse it as well: both have the same features, but for the one that the engine's
            // own adapters between two components need.
            if *name != "multi-memory" {
                assert!(compiler.precompile_module(&wasm).is_err(), "{name}");
                assert!(compiler.precompile_component(&wasm).is_err(), "{name}");
            }
        }
    }
    let streams = handler("(type (stream u8))");
    refused(
        &binary(&streams),
        "unsupported-feature",
        "component-model async",
    );
    assert!(compiler.precompile_component(&binary(&streams)).is_err());
}

#[test]
fn a_feature_that_is_on_can_be_used() {
    for core in [
        "(func $f (return_call $f))",
        "(global i32 (i32.add (i32.const 1) (i32.const 2)))",
        "(func (param v128) (result v128) (i32x4.relaxed_trunc_f32x4_s (local.get 0)))",
        "(func (result i32 i32) (i32.const 1) (i32.const 2))",
        "(memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 9)))",
        "(table 1 funcref) (func (result funcref) (table.get (i32.const 0)))",
    ] {
        compile(&binary(&command(core))).expect(core);
        compile(&binary(&runner(core))).expect(core);
    }
}

#[test]
fn every_bound_refuses_by_name_number_and_limit() {
    let check = |wat: &str, name: &str, number: &str| {
        let wasm = binary(wat);
        refused(&wasm, "wasm-limit", &format!("`{name}`"));
        refused(&wasm, "wasm-limit", number);
    };
    let many = |what: &str, count: usize| what.repeat(count);
    check(
        &command(&many("(func)", 200_000)),
        "wasm-functions",
        "200001",
    );
    check(
        &command(&format!("(func (local {}))", many("i32 ", 5_001))),
        "wasm-locals",
        "5001",
    );
    check(
        &command(&many(
            &format!("(func (local {}))", many("i32 ", 5_000)),
            201,
        )),
        "wasm-locals-in-all",
        "1005000",
    );
    check(
        &command(&format!("(func {})", many("nop ", (1 << 20) + 1))),
        "wasm-body",
        "1MiB",
    );
    check(
        &command(&format!(
            "(func {} {})",
            many("block ", 2_001),
            many("end ", 2_001)
        )),
        "wasm-nesting",
        "2001",
    );
    check(
        &command(&many("(type (func))", 50_001)),
        "wasm-types",
        "50001",
    );
    check(
        &format!("(component {})", many("(type (list u8))", 50_001)),
        "wasm-types",
        "50001",
    );
    check(
        &format!(
            "(component (type (instance {})))",
            many("(type (list u8))", 50_000)
        ),
        "wasm-types",
        "50001",
    );
    check(
        &command(&format!(
            "(memory 1) {}",
            many(r#"(data (i32.const 0) "")"#, 100_001)
        )),
        "wasm-data-segments",
        "100001",
    );
    let nested = |depth: usize| format!("{}{}", many("(component ", depth), many(")", depth));
    check(&nested(10), "wasm-depth", "9 levels");
    check(
        &format!("(component {})", many("(core module)", 65)),
        "wasm-modules",
        "65",
    );
    check(
        &format!(
            "(component (core module $m) {})",
            many("(core instance (instantiate $m))", 33)
        ),
        "core-instances",
        "33",
    );
    check(&command("(table 20001 funcref)"), "table-elements", "20001");
    check(&command(&many("(table 1 funcref)", 9)), "tables", "9");
    check(&runner(&many("(memory 1)", 5)), "memories", "5");
    check(&command("(memory 8193)"), "limits.memory", "MiB");
    check(
        &command(&many("(global i32 (i32.const 0))", 65_537)),
        "wasm-instance",
        "1MiB",
    );
    check(
        &command(&many("(global i32 (i32.const 0))", 999_999)),
        "wasm-instance",
        "1MiB",
    );
    let interfaces: String = (0..256)
        .map(|i| format!(r#"(import "wasi:io/error@0.2.{i}" (instance))"#))
        .collect();
    check(&handler(&interfaces), "wasm-imports", "257");
}

#[test]
fn what_is_just_within_bounds_is_taken() {
    let many = |what: &str, count: usize| what.repeat(count);
    for core in [
        format!("(func (local {}))", many("i32 ", 5_000)),
        format!("(func {} {})", many("block ", 2_000), many("end ", 2_000)),
        "(table 20000 funcref)".into(),
        "(memory 8192)".into(),
        many("(global i32 (i32.const 0))", 65_000),
    ] {
        inspect(&binary(&command(&core))).unwrap();
    }
}

#[test]
fn an_instance_that_is_made_too_often_is_refused() {
    let parts = "(core instance (instantiate $m))".repeat(5);
    let wat = runner("").replace(
        "(core instance $i",
        &format!("(core module $m (memory 1)) {parts} (core instance $i"),
    );
    let wat = wat.replace("(core module $m (func", "(core module $n (func");
    let wat = wat
        .replacen("(core module $m ", "(core module $main ", 1)
        .replace(
            "(core instance $i (instantiate $m))",
            "(core instance $i (instantiate $main))",
        );
    let error = compile(&binary(&wat)).unwrap_err().to_string();
    assert!(
        error.contains("5 memories") && error.contains("`memories`"),
        "{error}"
    );
}

#[test]
fn a_known_interface_in_another_shape_is_refused_at_deploy() {
    let check = |wat: &str, part: &str| {
        let CompileError::Refused(refusal) = compile(&binary(wat)).unwrap_err() else {
            panic!("{part}");
        };
        assert_eq!(refusal.code, "unlinkable", "{refusal}");
        assert!(refusal.text.contains(part), "{refusal}");
    };
    check(
        &handler(
            r#"(import "wasi:random/random@0.2.0" (instance (export "dice" (func (result u8)))))"#,
        ),
        "dice",
    );
    check(
        &command(r#"(import "wasi_snapshot_preview1" "sock_dance" (func))"#),
        "sock_dance",
    );
}

#[test]
fn a_damaged_file_never_panics() {
    for wasm in [binary(&handler("")), binary(&command("")), embedded()] {
        for length in 0..wasm.len() {
            // Cut where a section at its end begins, the rest may be whole.
            let Err(refusal) = inspect(&wasm[..length]) else {
                continue;
            };
            assert!(
                ["empty-file", "truncated", "no-handler", "invalid-wasm"].contains(&refusal.code),
                "{length}: {refusal}"
            );
        }
        for at in 0..wasm.len() {
            for bit in [0, 4, 7] {
                let mut damaged = wasm.clone();
                damaged[at] ^= 1 << bit;
                let _ = inspect(&damaged);
            }
        }
    }
}

#[test]
fn cut_within_a_section_it_is_called_cut_off() {
    let wasm = binary(&handler(""));
    refused(&wasm[..wasm.len() - 1], "truncated", "cut off");
}

#[test]
fn what_is_compiled_here_loads_in_a_worker() {
    use std::io::{Seek as _, Write as _};
    let (_folder, backends) = crate::engine::empty_backends();
    let pool = PoolSettings {
        slots: 4,
        memory: model::Size::mib(16),
    };
    let worker = Engine::for_worker(pool, backends).unwrap();
    for wasm in [
        binary(&handler("")),
        binary(&runner("")),
        binary(&command("")),
        embedded(),
    ] {
        let (inspection, build, native) = compile(&wasm).unwrap();
        assert_eq!(build, build_key(inspection.kind.setting()));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&native).unwrap();
        file.rewind().unwrap();
        // SAFETY: the code was made right here.
        unsafe { Code::load(&worker, inspection.kind, file.into()) }.unwrap();
    }
}
