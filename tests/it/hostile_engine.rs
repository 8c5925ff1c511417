//! Hostile guests at the engine: bad values, bad addresses, traps in odd places. Each ends alone.

use std::collections::BTreeSet;
use std::time::Duration;

use tests::{Connection, Platform, bare, eventually, guest};

use crate::hostile_http::{Observed, Watched};

/// A component that runs once, with these parts around its core module. The core module `$m` has one page of memory
/// and the body of `run`; `imports` of the core module are given by `given`.
fn runner(parts: &str, imports: &str, given: &str, run: &str) -> Vec<u8> {
    component(parts, imports, given, run, "")
}

/// As [`runner`], with options for the lift of `run`.
fn component(parts: &str, imports: &str, given: &str, run: &str, lift: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            {LIBC}
            {parts}
            (core module $m
                (import "libc" "memory" (memory 1))
                {imports}
                (func (export "run") (result i32) (local $i i32) {run})
                (func (export "after") (param i32) unreachable))
            (core instance $i (instantiate $m (with "libc" (instance $libc)) {given}))
            (func $f (result (result)) (canon lift (core func $i "run") {lift}))
            (instance $run (export "run" (func $f)))
            (export "wasi:cli/run@0.2.0" (instance $run)))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A memory and a `realloc` that answers with whatever the global says: 1024 unless a guest has it otherwise.
const LIBC: &str = r#"
    (core module $libc
        (memory (export "memory") 1)
        (global $at (export "at") (mut i32) (i32.const 1024))
        (data (i32.const 512) "currency\ff\fe\c0\af\ed\a0\80")
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (if (i32.eq (global.get $at) (i32.const -1)) (then unreachable))
            (global.get $at)))
    (core instance $libc (instantiate $libc))"#;

/// `wasi:config/store` as a core function `$get`: pointer and length of a key, and where the answer goes.
fn config(encoding: &str) -> String {
    format!(
        r#"(import "wasi:config/store@0.2.0-rc.1" (instance $store
            (type $e (variant (case "upstream" string) (case "io" string)))
            (export "error" (type $error (eq $e)))
            (type $get (func (param "key" string) (result (result (option string) (error $error)))))
            (export "get" (func (type $get)))
            (type $all (func (result (result (list (tuple string string)) (error $error)))))
            (export "get-all" (func (type $all)))))
        (core func $get (canon lower (func $store "get")
            (memory $libc "memory") (realloc (func $libc "realloc")) string-encoding={encoding}))
        (core func $all (canon lower (func $store "get-all")
            (memory $libc "memory") (realloc (func $libc "realloc")) string-encoding={encoding}))
        (core instance $config (export "get" (func $get)) (export "all" (func $all)))"#
    )
}

const GET: &str = r#"(import "config" "get" (func $get (param i32 i32 i32)))
    (import "config" "all" (func $all (param i32)))
    (import "libc" "at" (global $at (mut i32)))"#;

/// Deploys a guest of one request, asks it, and says what it came to.
fn outcome(platform: &Platform, name: &str, wasm: &[u8]) -> String {
    platform.api.deploy(&granted(name), wasm);
    let reply = platform.get(name, "/");
    reply.header("midge-error").unwrap_or("none").to_owned()
}

fn granted(name: &str) -> model::Manifest {
    tests::manifest_of(name, "[grant]\nconfig = { currency = 'EUR' }")
}

/// G23, G54, G55
#[test]
fn a_bad_value_across_the_border_ends_its_guest_alone() {
    let platform = Watched::start();
    let check = |encoding: &str, what: &str, run: &str, expected: &str| {
        let run = format!("{run} (i32.const 0)");
        let wasm = runner(&config(encoding), GET, r#"(with "config" (instance $config))"#, &run);
        assert_eq!(outcome(&platform, "border", &wasm), expected, "{encoding}: {what}: {run}");
    };
    // A good guest that says nothing has not answered: what traps has not come so far.
    let fine = "no-response";
    for (encoding, alignment, unit) in [("utf8", 1, 1), ("utf16", 2, 2), ("latin1+utf16", 2, 1)] {
        let check = |what: &str, run: &str, expected: &str| check(encoding, what, run, expected);
        check("a good key", "(call $get (i32.const 512) (i32.const 4) (i32.const 64))", fine);
        check("an empty key", "(call $get (i32.const 512) (i32.const 0) (i32.const 64))", fine);
        check("an empty key at the end of memory", "(call $get (i32.const 65536) (i32.const 0) (i32.const 64))", fine);
        let odd = if alignment == 2 { "trap" } else { fine };
        check("an odd address", "(call $get (i32.const 513) (i32.const 2) (i32.const 64))", odd);
        let last = 65536 - 4 * unit;
        check("the last bytes", &format!("(call $get (i32.const {last}) (i32.const 4) (i32.const 64))"), fine);
        check("a byte beyond", &format!("(call $get (i32.const {last}) (i32.const 5) (i32.const 64))"), "trap");
        for (at, length) in [(-1, 1), (-2, 0), (0, -1), (65536, 2), (-2, 2), (2, i32::MAX), (0, 1 << 30), (0, i32::MIN)] {
            let run = format!("(call $get (i32.const {at}) (i32.const {length}) (i32.const 64))");
            check("an address beyond memory", &run, "trap");
        }
        check("an answer beyond memory", "(call $get (i32.const 512) (i32.const 4) (i32.const 65532))", "trap");
        check("an answer at an odd address", "(call $get (i32.const 512) (i32.const 4) (i32.const 65))", "trap");
        for at in [65534, 65536, -2, -8] {
            let run = format!("(global.set $at (i32.const {at})) (call $all (i32.const 64))");
            check("memory that is not there", &run, "trap");
        }
        let run = "(global.set $at (i32.const 1025)) (call $all (i32.const 64))";
        check("memory that is not aligned", run, "trap");
    }
    for (at, length, what) in [(520, 1, "0xff"), (522, 2, "overlong"), (524, 3, "a surrogate"), (512, 9, "half")] {
        let run = format!("(call $get (i32.const {at}) (i32.const {length}) (i32.const 64))");
        check("utf8", what, &run, "trap");
    }
    let unpaired = "(i32.store16 (i32.const 600) (i32.const 0xd800)) (call $get (i32.const 600) (i32.const 1) (i32.const 64))";
    check("utf16", "an unpaired surrogate", unpaired, "trap");
    let tagged = "(i32.store16 (i32.const 600) (i32.const 0xdc00)) (call $get (i32.const 600) (i32.const 0x80000001) (i32.const 64))";
    check("latin1+utf16", "an unpaired surrogate", tagged, "trap");
    let tagged = "(call $get (i32.const 600) (i32.const 0xffffffff) (i32.const 64))";
    check("latin1+utf16", "a length of 2 GiB in units of two", tagged, "trap");
    platform.unharmed();
}

/// G23, G55
#[test]
fn a_bad_value_between_components_ends_both() {
    let platform = Watched::start();
    let check = |what: &str, types: &str, ty: &str, flat: &str, arguments: &str, from: &str, to: &str, expected: &str| {
        let parts = format!(
            r#"{types}
            (component $callee
                {LIBC}
                {types}
                (core module $m (func (export "take") {flat}))
                (core instance $m (instantiate $m))
                (func (export "take") (param "value" {ty})
                    (canon lift (core func $m "take")
                        (memory $libc "memory") (realloc (func $libc "realloc")) string-encoding={to})))
            (instance $callee (instantiate $callee))
            (core func $take (canon lower (func $callee "take")
                (memory $libc "memory") (realloc (func $libc "realloc")) string-encoding={from}))
            (core instance $callees (export "take" (func $take)))"#
        );
        let imports = format!(r#"(import "callee" "take" (func $take {flat}))"#);
        let run = format!("(call $take {arguments}) (i32.const 0)");
        let wasm = runner(&parts, &imports, r#"(with "callee" (instance $callees))"#, &run);
        assert_eq!(outcome(&platform, "between", &wasm), expected, "{what}: {arguments} {from} {to}");
    };
    let fine = "no-response";
    let value = |ty: &str, flat: &str, value: &str, expected: &str| {
        let flat = format!("(param {flat})");
        check(ty, "", ty, &flat, value, "utf8", "utf8", expected);
    };
    value("bool", "i32", "(i32.const 2)", fine);
    value("bool", "i32", "(i32.const -1)", fine);
    value("u8", "i32", "(i32.const 0x12345)", fine);
    value("s16", "i32", "(i32.const 0x7fffffff)", fine);
    for (code, expected) in [
        (0x10ffff, fine),
        (0xd7ff, fine),
        (0xd800, "trap"),
        (0xdfff, "trap"),
        (0x110000, "trap"),
        (-1, "trap"),
    ] {
        value("char", "i32", &format!("(i32.const {code})"), expected);
    }
    for (case, expected) in [(0, fine), (1, fine), (2, "trap"), (256, "trap"), (-1, "trap")] {
        value("(result u32 (error u64))", "i32 i64", &format!("(i32.const {case}) (i64.const 7)"), expected);
        value("(option char)", "i32 i32", &format!("(i32.const {case}) (i32.const 65)"), expected);
    }
    value("(option char)", "i32 i32", "(i32.const 1) (i32.const 0xd800)", "trap");
    value("(option char)", "i32 i32", "(i32.const 0) (i32.const 0xd800)", fine);
    value("f32", "f32", "(f32.const nan:0x200001)", fine);
    let named = |types: &str, case: &str, expected: &str| {
        check(types, types, "$t", "(param i32)", case, "utf8", "utf8", expected);
    };
    let flags = r#"(type $t (flags "a" "b" "c"))"#;
    named(flags, "(i32.const 7)", fine);
    named(flags, "(i32.const -1)", fine);
    let cases = r#"(type $t (enum "a" "b" "c"))"#;
    named(cases, "(i32.const 2)", fine);
    named(cases, "(i32.const 3)", "trap");
    named(cases, "(i32.const -1)", "trap");
    named(r#"(type $t (variant (case "a") (case "b")))"#, "(i32.const 2)", "trap");

    let strings = "(param i32 i32)";
    let encodings = ["utf8", "utf16", "latin1+utf16"];
    for (from, to) in encodings.into_iter().flat_map(|from| encodings.map(|to| (from, to))) {
        let string = |what: &str, arguments: &str, expected: &str| {
            check(what, "", "string", strings, arguments, from, to, expected);
        };
        string("a good string", "(i32.const 512) (i32.const 8)", fine);
        string("an empty one", "(i32.const 512) (i32.const 0)", fine);
        let odd = if from == "utf8" { fine } else { "trap" };
        string("an odd address", "(i32.const 513) (i32.const 4)", odd);
        for arguments in [
            "(i32.const 65534) (i32.const 4)",
            "(i32.const -2) (i32.const 2)",
            "(i32.const 0) (i32.const -1)",
            "(i32.const 0) (i32.const 0x7fffffff)",
            "(i32.const 2) (i32.const 0xfffffffe)",
            "(i32.const 0) (i32.const 0x80008001)",
            "(i32.const 65540) (i32.const 0)",
        ] {
            string("an address beyond memory", arguments, "trap");
        }
    }
    for to in encodings {
        for arguments in ["(i32.const 520) (i32.const 1)", "(i32.const 522) (i32.const 2)", "(i32.const 524) (i32.const 3)"] {
            check("bad UTF-8", "", "string", strings, arguments, "utf8", to, "trap");
        }
    }
    let lists = [
        ("(list u8)", "(i32.const 65536) (i32.const 0)", fine),
        ("(list u64)", "(i32.const 512) (i32.const 0)", fine),
        ("(list u64)", "(i32.const 516) (i32.const 1)", "trap"),
        ("(list u64)", "(i32.const 0) (i32.const 0x20000001)", "trap"),
        ("(list u64)", "(i32.const 65536) (i32.const 1)", "trap"),
        ("(list (list u8))", "(i32.const 0) (i32.const 0x10000000)", "trap"),
        ("(list string)", "(i32.const 65532) (i32.const 1)", "trap"),
        ("(list (tuple))", "(i32.const 0) (i32.const -1)", "refused"),
    ];
    for (ty, arguments, expected) in lists {
        if expected != "refused" {
            check(ty, "", ty, strings, arguments, "utf8", "utf8", expected);
        }
    }
    platform.unharmed();
}
