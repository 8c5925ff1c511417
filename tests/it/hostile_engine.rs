//! Hostile guests at the engine: bad values, bad addresses, traps in odd places. Each ends alone.

use std::path::Path;
use std::time::Duration;

use tests::{Connection, Platform, bare, eventually, guest, manifest_of};

use crate::hostile_http::{Observed, Watched};

/// A memory, `$libc`, and a `realloc` that answers with what the global says; -1 makes it trap.
const LIBC: &str = r#"
    (core module $libc
        (memory (export "memory") 1)
        (global $at (export "at") (mut i32) (i32.const 1024))
        (data (i32.const 512) "currency\ff\fe\c0\af\ed\a0\80")
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (if (i32.eq (global.get $at) (i32.const -1)) (then unreachable))
            (global.get $at)))
    (core instance $libc (instantiate $libc))"#;

/// How strings and lists cross a border.
const BY_MEMORY: &str =
    r#"(memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))"#;

/// The interfaces of the request's body.
const WASI: &str = r#"
    (import "wasi:io/error@0.2.0" (instance $io (export "error" (type (sub resource)))))
    (alias export $io "error" (type $error))
    (import "wasi:io/streams@0.2.0" (instance $streams
        (alias outer 1 $error (type $outer))
        (export "error" (type $error (eq $outer)))
        (export "input-stream" (type $input (sub resource)))
        (export "output-stream" (type (sub resource)))
        (type $failed (variant (case "last-operation-failed" (own $error)) (case "closed")))
        (export "stream-error" (type $stream-error (eq $failed)))
        (type $read (func (param "self" (borrow $input)) (param "len" u64)
            (result (result (list u8) (error $stream-error)))))
        (export "[method]input-stream.blocking-read" (func (type $read)))))
    (alias export $streams "input-stream" (type $input))
    (alias export $streams "output-stream" (type $output))
    (import "wasi:cli/stdin@0.2.0" (instance $stdin
        (alias outer 1 $input (type $outer))
        (export "input-stream" (type $input (eq $outer)))
        (type $get (func (result (own $input))))
        (export "get-stdin" (func (type $get)))))
    (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $output (type $outer))
        (export "output-stream" (type $output (eq $outer)))
        (type $get (func (result (own $output))))
        (export "get-stdout" (func (type $get)))))"#;

/// What of them a core module may call: `$wasi`.
const LOWERED: &str = r#"
    (core func $stdin (canon lower (func $stdin "get-stdin")))
    (core func $stdout (canon lower (func $stdout "get-stdout")))
    (core func $drop (canon resource.drop $input))
    (core func $read (canon lower (func $streams "[method]input-stream.blocking-read") BY_MEMORY))
    (core instance $wasi
        (export "stdin" (func $stdin))
        (export "stdout" (func $stdout))
        (export "drop" (func $drop))
        (export "read" (func $read)))"#;

/// A component that runs once.
#[derive(Default)]
struct Runner<'a> {
    /// What the component imports and defines.
    parts: &'a str,
    /// What its core module imports of it, and what it is given for that.
    imports: &'a str,
    given: &'a str,
    /// What else the core module holds.
    core: &'a str,
    /// The body of `run`. `(call $argument N)` is the N-th number of the request's body, once `$arguments` was called.
    run: &'a str,
    /// Options for the lift of `run`.
    lift: &'a str,
}

impl Runner<'_> {
    fn bytes(&self) -> Vec<u8> {
        let inside = self.inside();
        binary(&format!(
            r#"(component {inside}
                (instance $run (export "run" (func $f)))
                (export "wasi:cli/run@0.2.0" (instance $run)))"#
        ))
    }

    /// All but the export of the function `$f`.
    fn inside(&self) -> String {
        let Self {
            parts,
            imports,
            given,
            core,
            run,
            lift,
        } = self;
        let lowered = LOWERED.replace("BY_MEMORY", BY_MEMORY);
        format!(
            r#"{LIBC} {WASI} {lowered} {parts}
                (core module $m
                    (import "libc" "memory" (memory 1))
                    (import "libc" "at" (global $at (mut i32)))
                    (import "wasi" "stdin" (func $stdin (result i32)))
                    (import "wasi" "stdout" (func $stdout (result i32)))
                    (import "wasi" "drop" (func $drop (param i32)))
                    (import "wasi" "read" (func $read (param i32 i64 i32)))
                    {imports}
                    {core}
                    (func $arguments (call $read (call $stdin) (i64.const 64) (i32.const 32)))
                    (func $argument (param i32) (result i32)
                        (i32.load (i32.add (i32.load (i32.const 36)) (i32.shl (local.get 0) (i32.const 2)))))
                    (func (export "run") (result i32) {run})
                    (func (export "after") (param i32) unreachable))
                (core instance $i (instantiate $m
                    (with "libc" (instance $libc)) (with "wasi" (instance $wasi)) {given}))
                (func $f (result (result)) (canon lift (core func $i "run") {lift}))"#
        )
    }
}

fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What a request with these numbers as its body comes to: a code of the platform's, or `answered`.
fn ask(platform: &Platform, app: &str, arguments: &[i64]) -> String {
    let bytes = arguments
        .iter()
        .flat_map(|argument| (*argument as u32).to_le_bytes());
    let reply = platform.post(app, "/", &bytes.collect::<Vec<u8>>());
    let code = reply.header("midge-error");
    code.unwrap_or("answered").to_owned()
}

/// What comes of a run that ends well: it has written nothing. A trap would have come first.
const FINE: &str = "no-response";

/// G23, G54, G55
#[test]
fn a_bad_value_for_the_host_ends_its_guest_alone() {
    let platform = Watched::start();
    for (encoding, unit) in [("utf8", 1), ("utf16", 2), ("latin1+utf16", 1)] {
        let parts = format!(
            r#"(import "wasi:config/store@0.2.0-rc.1" (instance $store
                (type $e (variant (case "upstream" string) (case "io" string)))
                (export "error" (type $error (eq $e)))
                (type $get (func (param "key" string) (result (result (option string) (error $error)))))
                (export "get" (func (type $get)))
                (type $all (func (result (result (list (tuple string string)) (error $error)))))
                (export "get-all" (func (type $all)))))
            (core func $get (canon lower (func $store "get") {BY_MEMORY} string-encoding={encoding}))
            (core func $all (canon lower (func $store "get-all") {BY_MEMORY} string-encoding={encoding}))
            (core instance $config (export "get" (func $get)) (export "all" (func $all)))"#
        );
        // Numbers: where `realloc` points; where the answer goes; the key's address and length, or none for `get-all`;
        // two bytes to put at 600.
        let wasm = Runner {
            parts: &parts,
            imports: r#"(import "config" "get" (func $get (param i32 i32 i32)))
                (import "config" "all" (func $all (param i32)))"#,
            given: r#"(with "config" (instance $config))"#,
            run: r#"(call $arguments)
                (global.set $at (call $argument (i32.const 0)))
                (i32.store16 (i32.const 600) (call $argument (i32.const 4)))
                (if (call $argument (i32.const 5))
                    (then (call $all (call $argument (i32.const 1))))
                    (else (call $get (call $argument (i32.const 2)) (call $argument (i32.const 3))
                        (call $argument (i32.const 1)))))
                (i32.const 0)"#,
            ..Runner::default()
        };
        let manifest = manifest_of("border", "[grant]\nconfig = { currency = 'EUR' }");
        platform.api.deploy(&manifest, &wasm.bytes());
        let check = |what: &str, arguments: [i64; 6], expected: &str| {
            let found = ask(&platform, "border", &arguments);
            assert_eq!(found, expected, "{encoding}: {what}: {arguments:?}");
        };
        let key = |what: &str, at: i64, length: i64, expected: &str| {
            check(what, [1024, 64, at, length, 0, 0], expected);
        };
        key("a good key", 512, 4, FINE);
        key("an empty key", 512, 0, FINE);
        key("an empty key at the end of memory", 65536, 0, FINE);
        let odd = if encoding == "utf8" { FINE } else { "trap" };
        key("an odd address", 513, 2, odd);
        key("the last bytes", 65536 - 4 * unit, 4, FINE);
        key("one beyond", 65536 - 4 * unit, 5, "trap");
        for (at, length) in [
            (-1, 1),
            (-2, 0),
            (-2, 2),
            (0, -1),
            (65536, 2),
            (65538, 0),
            (2, 0x7fff_ffff),
            (0, 1 << 30),
            (512, 0x8000_8000),
        ] {
            key("an address beyond memory", at, length, "trap");
        }
        check(
            "an answer beyond memory",
            [1024, 65532, 512, 4, 0, 0],
            "trap",
        );
        check(
            "an answer at an odd address",
            [1024, 65, 512, 4, 0, 0],
            "trap",
        );
        check("everything", [1024, 64, 0, 0, 0, 1], FINE);
        check("memory at an odd address", [1025, 64, 0, 0, 0, 1], "trap");
        check("a realloc that traps", [-1, 64, 0, 0, 0, 1], "trap");
        for at in [65534, 65536, -2, -8] {
            check("memory that is not there", [at, 64, 0, 0, 0, 1], "trap");
        }
        match encoding {
            "utf8" => {
                key("0xff", 520, 1, "trap");
                key("an overlong character", 522, 2, "trap");
                key("a surrogate", 524, 3, "trap");
                key("good and bad", 512, 9, "trap");
            }
            "utf16" => check("half a pair", [1024, 64, 600, 1, 0xd800, 0], "trap"),
            _ => {
                check(
                    "half a pair",
                    [1024, 64, 600, 0x8000_0001, 0xdc00, 0],
                    "trap",
                );
                key("nothing, in units of two", 512, 0x8000_0000, FINE);
            }
        }
    }
    platform.unharmed();
}

/// G54, G55
#[test]
fn a_handle_that_is_not_what_it_is_said_to_be_ends_its_guest_alone() {
    let platform = Watched::start();
    let check = |what: &str, run: &str, expected: &str| {
        let wasm = Runner {
            run,
            ..Runner::default()
        };
        platform.api.deploy(&bare("handle"), &wasm.bytes());
        assert_eq!(ask(&platform, "handle", &[0; 16]), expected, "{what}");
    };
    check("a stream", "(call $arguments) (i32.const 0)", FINE);
    let read =
        |handle: &str| format!("(call $read {handle} (i64.const 4) (i32.const 64)) (i32.const 0)");
    check(
        "a stream of the other kind",
        &read("(call $stdout)"),
        "trap",
    );
    for handle in ["0", "1", "99", "-1", "0x40000000"] {
        check("no handle", &read(&format!("(i32.const {handle})")), "trap");
    }
    let again = "(global.set $at (call $stdin)) (call $drop (global.get $at))";
    check(
        "a handle that was dropped",
        &format!("{again} {}", read("(global.get $at)")),
        "trap",
    );
    check(
        "a handle that is dropped twice",
        &format!("{again} (call $drop (global.get $at)) (i32.const 0)"),
        "trap",
    );
    check(
        "a stream's end as its answer's place",
        "(call $read (call $stdin) (i64.const -1) (i32.const -8)) (i32.const 0)",
        "trap",
    );
    check(
        "as much as there can be",
        "(call $read (call $stdin) (i64.const -1) (i32.const 64)) (i32.const 0)",
        FINE,
    );
    for result in [2, 256, -1] {
        check(
            "a result that is none",
            &format!("(i32.const {result})"),
            "trap",
        );
    }
    check("a failure", "(i32.const 1)", "trap");
    platform.unharmed();
}

/// Two components side by side: the first hands numbers of the request's body, one for each in `flat`, to the second
/// as a value of `ty`. `options` are those of the second, then those of the first.
fn composed(ty: &str, flat: &str, options: [&str; 2]) -> Vec<u8> {
    let [to, from] = options;
    let value = |(index, ty): (usize, &str)| match ty {
        "f32" => format!("(f32.reinterpret_i32 (call $argument (i32.const {index})))"),
        _ => format!("(call $argument (i32.const {index}))"),
    };
    let values: Vec<String> = flat.split(' ').enumerate().map(value).collect();
    let caller = Runner {
        parts: &format!(
            r#"(import "take" (func $callee (param "value" {ty})))
            (core func $take (canon lower (func $callee) {from}))
            (core instance $callees (export "take" (func $take)))"#
        ),
        imports: &format!(r#"(import "callee" "take" (func $take (param {flat})))"#),
        given: r#"(with "callee" (instance $callees))"#,
        run: &format!(
            "(call $arguments) (call $take {}) (i32.const 0)",
            values.join(" ")
        ),
        ..Runner::default()
    };
    let inside = caller.inside();
    binary(&format!(
        r#"(component {WASI}
            (component $second {LIBC}
                (core module $m (func (export "take") (param {flat})))
                (core instance $m (instantiate $m))
                (func (export "take") (param "value" {ty}) (canon lift (core func $m "take") {to})))
            (instance $second (instantiate $second))
            (component $first {inside} (export "run" (func $f)))
            (instance $first (instantiate $first
                (with "wasi:io/error@0.2.0" (instance $io))
                (with "wasi:io/streams@0.2.0" (instance $streams))
                (with "wasi:cli/stdin@0.2.0" (instance $stdin))
                (with "wasi:cli/stdout@0.2.0" (instance $stdout))
                (with "take" (func $second "take"))))
            (instance $run (export "run" (func $first "run")))
            (export "wasi:cli/run@0.2.0" (instance $run)))"#
    ))
}

/// G55
#[test]
fn a_bad_value_for_another_component_ends_both() {
    let platform = Watched::start();
    let check = |ty: &str, flat: &str, cases: &[(&[i64], &str)]| {
        platform
            .api
            .deploy(&bare("values"), &composed(ty, flat, ["", ""]));
        for (values, expected) in cases {
            assert_eq!(
                ask(&platform, "values", values),
                *expected,
                "{ty}: {values:x?}"
            );
        }
    };
    check("bool", "i32", &[(&[0], FINE), (&[2], FINE), (&[-1], FINE)]);
    check("u8", "i32", &[(&[0x12345], FINE)]);
    check("s16", "i32", &[(&[0x7fff_ffff], FINE)]);
    check("f32", "f32", &[(&[0x7fa0_0001], FINE)]);
    let chars: &[(&[i64], &str)] = &[
        (&[0x10_ffff], FINE),
        (&[0xd7ff], FINE),
        (&[0xd800], "trap"),
        (&[0xdfff], "trap"),
        (&[0x11_0000], "trap"),
        (&[-1], "trap"),
    ];
    check("char", "i32", chars);
    let options: &[(&[i64], &str)] = &[
        (&[0, 0xd800], FINE),
        (&[1, 65], FINE),
        (&[1, 0xd800], "trap"),
        (&[2, 65], "trap"),
        (&[256, 65], "trap"),
        (&[-1, 65], "trap"),
    ];
    check("(option char)", "i32 i32", options);
    check(
        "(result u32 (error u8))",
        "i32 i32",
        &[(&[1, -1], FINE), (&[2, 0], "trap")],
    );
    platform.unharmed();
}

/// G23
#[test]
fn text_and_lists_go_from_component_to_component_or_end_both() {
    let platform = Watched::start();
    let check = |ty: &str, from: &str, to: &str, cases: &[(&[i64], &str)]| {
        let options = [to, from].map(|encoding| format!("{BY_MEMORY} string-encoding={encoding}"));
        let wasm = composed(ty, "i32 i32", [&options[0], &options[1]]);
        platform.api.deploy(&bare("texts"), &wasm);
        for (values, expected) in cases {
            assert_eq!(
                ask(&platform, "texts", values),
                *expected,
                "{ty} from {from} to {to}: {values:x?}"
            );
        }
    };
    let encodings = ["utf8", "utf16", "latin1+utf16"];
    for (from, to) in encodings
        .into_iter()
        .flat_map(|from| encodings.map(|to| (from, to)))
    {
        let odd = if from == "utf8" { FINE } else { "trap" };
        let bad = if from == "utf8" { "trap" } else { FINE };
        let cases: &[(&[i64], &str)] = &[
            (&[512, 4], FINE),
            (&[512, 0], FINE),
            (&[513, 2], odd),
            (&[520, 1], bad),
            (&[65534, 4], "trap"),
            (&[-2, 2], "trap"),
            (&[0, -1], "trap"),
            (&[0, 0x7fff_ffff], "trap"),
            (&[2, 0xffff_fffe], "trap"),
            (&[0, 0x8000_8001], "trap"),
        ];
        check("string", from, to, cases);
    }
    check(
        "(list u64)",
        "utf8",
        "utf8",
        &[
            (&[512, 1], FINE),
            (&[516, 1], "trap"),
            (&[0, 0x2000_0001], "trap"),
            (&[65536, 1], "trap"),
        ],
    );
    check(
        "(list string)",
        "utf8",
        "utf16",
        &[
            (&[512, 0], FINE),
            (&[65532, 1], "trap"),
            (&[0, 0x1000_0000], "trap"),
        ],
    );
    platform.unharmed();
}

/// G50, G62
#[test]
fn a_trap_in_any_place_leaves_its_slot_fit_for_the_next() {
    let platform = Watched::configured("workers = 1\n[node]\nslots = 4\ntenant-slots = 4");
    let check = |what: &str, wasm: &[u8], code: &str| {
        platform.api.deploy(&bare("trapping"), wasm);
        for _ in 0..20 {
            assert_eq!(ask(&platform, "trapping", &[0; 16]), code, "{what}");
        }
    };
    let module = |what: &str, core: &str| {
        let text = format!(r#"(module (memory (export "memory") 1 1) (table 1 funcref) {core})"#);
        check(what, &binary(&text), "trap");
    };
    module(
        "the start function",
        r#"(func $s unreachable) (start $s) (func (export "_start"))"#,
    );
    module(
        "a data segment",
        r#"(data (i32.const 65535) "ab") (func (export "_start"))"#,
    );
    module(
        "an element segment",
        r#"(elem (i32.const 1) $s) (func $s (export "_start"))"#,
    );
    for (what, body) in [
        ("unreachable", "unreachable"),
        (
            "a division by nothing",
            "(drop (i32.div_s (i32.const 1) (i32.load (i32.const 0))))",
        ),
        (
            "a quotient too large",
            "(drop (i32.div_s (i32.sub (i32.load (i32.const 0)) (i32.const 0x80000000)) (i32.const -1)))",
        ),
        (
            "a number that is none",
            "(drop (i32.trunc_f32_s (f32.div (f32.const 0) (f32.convert_i32_s (i32.load (i32.const 0))))))",
        ),
        ("a call of nothing", "(call_indirect (i32.const 0))"),
        ("a call beyond the table", "(call_indirect (i32.const -1))"),
        ("a recursion without end", "(call $f)"),
    ] {
        module(what, &format!(r#"(func $f (export "_start") {body})"#));
    }
    let run = |what: &str, runner: Runner<'_>| check(what, &runner.bytes(), "trap");
    let quiet = "(i32.const 0)";
    run(
        "a component's start",
        Runner {
            core: "(func $s unreachable) (start $s)",
            run: quiet,
            ..Runner::default()
        },
    );
    run(
        "a component's run",
        Runner {
            run: "unreachable",
            ..Runner::default()
        },
    );
    run(
        "what is called after the return",
        Runner {
            run: quiet,
            lift: r#"(post-return (core func $i "after"))"#,
            ..Runner::default()
        },
    );
    run(
        "realloc, while the host has a borrowed stream",
        Runner {
            run: "(global.set $at (i32.const -1)) (call $arguments) (i32.const 0)",
            ..Runner::default()
        },
    );
    run(
        "within a host call's answer",
        Runner {
            run: "(global.set $at (i32.const 65535)) (call $arguments) (i32.const 0)",
            ..Runner::default()
        },
    );
    platform.deploy("exit", &guest("exit"));
    for _ in 0..20 {
        platform.get("exit", "/0").is(500).fails("no-response");
        platform.get("exit", "/7").is(500).fails("trap");
    }
    platform.logs("trapping", "trap");
    platform.unharmed();
}

/// G62
#[test]
fn the_last_words_of_a_guest_are_capped() {
    let platform = Watched::start();
    platform.deploy_with("loud", &guest("loud"), "[limits]\ncpu = '2s'");
    platform.get("loud", "/panic/1048576").is(500).fails("trap");
    platform.logs("loud", "trap");
    let records = platform.records("loud");
    let bytes: usize = records.iter().map(|record| record.text.len()).sum();
    assert!(bytes < 100 << 10, "{bytes} bytes of a panic's message");
    assert!(
        records
            .iter()
            .any(|record| record.text.contains("the rest is dropped"))
    );
    assert!(
        records
            .iter()
            .any(|record| record.text.contains("unreachable"))
    );
    platform.unharmed();
}

/// G63
#[test]
fn a_component_does_not_enter_itself_again() {
    let platform = Watched::start();
    let text = r#"(component
        (core module $shim
            (table (export "table") 1 funcref)
            (func (export "call") (call_indirect (i32.const 0))))
        (core instance $shim (instantiate $shim))
        (core module $m
            (import "shim" "call" (func $call))
            (func (export "run") (result i32) (call $call) (i32.const 0))
            (func (export "again")))
        (core instance $i (instantiate $m (with "shim" (instance $shim))))
        (func $again (canon lift (core func $i "again")))
        (component $other
            (import "again" (func $again))
            (core func $again (canon lower (func $again)))
            (core module $m (import "" "again" (func $again)) (func (export "go") (call $again)))
            (core instance $i (instantiate $m (with "" (instance (export "again" (func $again))))))
            (func (export "go") (canon lift (core func $i "go"))))
        (instance $other (instantiate $other (with "again" (func $again))))
        (core func $go (canon lower (func $other "go")))
        (core module $fix
            (import "shim" "table" (table 1 funcref))
            (import "" "go" (func $go))
            (elem (i32.const 0) $go))
        (core instance (instantiate $fix
            (with "shim" (instance $shim)) (with "" (instance (export "go" (func $go))))))
        (func $f (result (result)) (canon lift (core func $i "run")))
        (instance $run (export "run" (func $f)))
        (export "wasi:cli/run@0.2.0" (instance $run)))"#;
    platform.deploy("again", &binary(text));
    platform.get("again", "/").is(500).fails("trap");
    eventually("the log says why", || {
        let records = platform.records("again");
        let says = |text: &str| records.iter().any(|record| record.text.contains(text));
        says("cannot enter component instance").then_some(())
    });
    platform.unharmed();
}

/// G22, G56
#[test]
fn what_is_off_is_refused_at_deploy_by_its_name() {
    let platform = Watched::start();
    let refuse = |text: &str, code: &str, name: &str| {
        platform
            .api
            .publish_or_refuse(&bare("off"), &binary(text))
            .refuses(422, code, name);
    };
    let check = |core: &str, name: &str| {
        let module = format!(r#"(module {core} (func (export "_start")))"#);
        refuse(&module, "unsupported-feature", name);
        let component = format!(
            r#"(component
                (core module $m {core} (func (export "run") (result i32) i32.const 0))
                (core instance $i (instantiate $m))
                (func $f (result (result)) (canon lift (core func $i "run")))
                (instance $run (export "run" (func $f)))
                (export "wasi:cli/run@0.2.0" (instance $run)))"#
        );
        refuse(&component, "unsupported-feature", name);
    };
    check("(type (struct (field i32)))", "garbage collection");
    check("(type (array (mut i8)))", "garbage collection");
    check("(func (param anyref))", "garbage collection");
    check("(func (param externref))", "externref");
    check("(tag)", "exceptions");
    check("(tag) (func (throw 0))", "exceptions");
    check("(memory 1 1 shared)", "threads");
    check(
        "(memory 1) (func (drop (i32.atomic.load (i32.const 0))))",
        "threads",
    );
    check("(memory i64 1)", "memory64");
    check("(table i64 1 funcref)", "memory64");
    check("(memory 1) (memory 1)", "multi-memory");
    check("(memory 1 (pagesize 1))", "custom-page-sizes");
    check(
        "(type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0)))",
        "typed function references",
    );
    check(
        "(func (result i64 i64) (i64.add128 (i64.const 1) (i64.const 1) (i64.const 1) (i64.const 1)))",
        "wide-arithmetic",
    );
    check(
        "(type $f (func)) (type $c (cont $f)) (tag) (func (param (ref $c)) (resume $c (local.get 0)))",
        "stack-switching",
    );
    for off in [
        "(type (future u8))",
        "(type (stream u8))",
        "(type $s (stream u8)) (core func (canon stream.new $s))",
        "(core func (canon task.return))",
        "(core func (canon backpressure.inc))",
    ] {
        refuse(
            &format!("(component {off})"),
            "unsupported-feature",
            "component-model async",
        );
    }
    let newer = r#"(component
        (instance $handler)
        (export "wasi:http/handler@0.3.0-rc-2026-03-15" (instance $handler)))"#;
    refuse(newer, "wasi-0.3", "wasi:http/handler@0.3.0-rc-2026-03-15");
    platform.unharmed();
}

/// G57
#[test]
fn vector_instructions_read_no_further_than_memory_goes() {
    let platform = Watched::start();
    // Each with how many bytes it reads: at the last address that has them, then further.
    let cases: &[(&str, u32)] = &[
        ("(f64x2.splat (f64.load AT))", 8),
        ("(f32x4.splat (f32.load AT))", 4),
        ("(i8x16.splat (i32.load8_u AT))", 1),
        ("(v128.load AT)", 16),
        ("(v128.load8_splat AT)", 1),
        ("(v128.load16_splat AT)", 2),
        ("(v128.load32_splat AT)", 4),
        ("(v128.load64_splat AT)", 8),
        ("(v128.load32_zero AT)", 4),
        ("(v128.load64_zero AT)", 8),
        ("(v128.load8x8_s AT)", 8),
        ("(v128.load16x4_u AT)", 8),
        ("(v128.load32x2_s AT)", 8),
        ("(v128.load8_lane 15 AT (v128.const i64x2 0 0))", 1),
        ("(v128.load64_lane 1 AT (v128.const i64x2 0 0))", 8),
        ("(f64x2.promote_low_f32x4 (v128.load64_zero AT))", 8),
        ("(f64x2.convert_low_i32x4_u (v128.load64_zero AT))", 8),
        (
            "(f64x2.replace_lane 1 (v128.const i64x2 0 0) (f64.load AT))",
            8,
        ),
        (
            "(f64x2.splat (f64.copysign (f64.load AT) (f64.load AT)))",
            8,
        ),
        (
            "(f64x2.splat (f64.copysign (f64.const 1) (f64.load AT)))",
            8,
        ),
        (
            "(f32x4.splat (f32.copysign (f32.load AT) (f32.const -1)))",
            4,
        ),
        ("(f64x2.splat (f64.sqrt (f64.load AT)))", 8),
        ("(f64x2.splat (f64.abs (f64.load AT)))", 8),
        ("(f64x2.splat (f64.neg (f64.load AT)))", 8),
        ("(f64x2.splat (f64.min (f64.const 1) (f64.load AT)))", 8),
        ("(f64x2.splat (f64.promote_f32 (f32.load AT)))", 4),
        ("(f64x2.splat (f64.convert_i32_s (i32.load AT)))", 4),
        (
            "(i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 31 (v128.load AT) (v128.load AT))",
            16,
        ),
        (
            "(i32x4.shl (v128.load AT) (i32.load8_u (i32.const 65535)))",
            16,
        ),
        (
            "(i16x8.relaxed_q15mulr_s (v128.load AT) (v128.load AT))",
            16,
        ),
    ];
    // One guest of a function for each, chosen by the request's first number.
    let function = |(index, (load, size)): (usize, &(&str, u32))| {
        let at = format!("(i32.add (i32.const {}) (call $beyond))", 65536 - size);
        // What is not used would not be computed.
        format!(
            "(func $f{index} (v128.store (i32.const 256) {}))",
            load.replace("AT", &at)
        )
    };
    let functions: Vec<String> = cases.iter().enumerate().map(function).collect();
    let names: Vec<String> = (0..cases.len()).map(|index| format!("$f{index}")).collect();
    let core = format!(
        r#"(import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (global $beyond (mut i32) (i32.const 0))
        (func $beyond (result i32) (global.get $beyond))
        (table funcref (elem {}))
        {}"#,
        names.join(" "),
        functions.concat()
    );
    let body = r#"(i32.store (i32.const 64) (i32.const 128)) (i32.store (i32.const 68) (i32.const 8))
        (drop (call $read (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 72)))
        (i64.store (i32.const 65528) (i64.const -1))
        (global.set $beyond (i32.load (i32.const 132)))
        (call_indirect (i32.load (i32.const 128)))"#;
    platform.deploy("vector", &command(&core, body));
    for (index, (load, _)) in cases.iter().enumerate() {
        let index = index as i64;
        assert_eq!(ask(&platform, "vector", &[index, 0]), "answered", "{load}");
        for beyond in [1, 15, 65536, 0x7fff_ffff, -70_000] {
            assert_eq!(
                ask(&platform, "vector", &[index, beyond]),
                "trap",
                "{load} {beyond} bytes beyond"
            );
        }
    }
    platform.unharmed();
}

/// A command that answers `fine` when `body` has run to its end; `core` comes before its memory of one page.
fn command(core: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            {core}
            (memory (export "memory") 1)
            (data (i32.const 0) "\08\00\00\00\1e\00\00\00content-type: text/plain\n\nfine")
            (func $answer (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 48))))
            (func (export "_start") {body} (call $answer)))"#
    );
    binary(&text)
}

/// G58
#[test]
fn an_access_beyond_memory_traps_wherever_it_lies() {
    let platform = Watched::start();
    let core = r#"(import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (global $at (mut i32) (i32.const 0))
        (data $bytes "passive")
        (table funcref (elem
            $load8 $load8far $load64 $load64far $store8 $store64far $store128 $fill $copy $copyfrom $init $loadmid))
        (func $load8 (drop (i32.load8_u (global.get $at))))
        (func $load8far (drop (i32.load8_u offset=0xffffffff (global.get $at))))
        (func $load64 (drop (i64.load (global.get $at))))
        (func $load64far (drop (i64.load offset=0xfffffff8 (global.get $at))))
        (func $store8 (i32.store8 (global.get $at) (i32.const 1)))
        (func $store64far (i64.store offset=0xffffffff (global.get $at) (i64.const -1)))
        (func $store128 (v128.store (global.get $at) (v128.const i64x2 -1 -1)))
        (func $fill (memory.fill (global.get $at) (i32.const 1) (i32.const 16)))
        (func $copy (memory.copy (global.get $at) (i32.const 0) (i32.const 16)))
        (func $copyfrom (memory.copy (i32.const 1024) (global.get $at) (i32.const 16)))
        (func $init (memory.init $bytes (global.get $at) (i32.const 0) (i32.const 7)))
        (func $loadmid (drop (i64.load offset=0x7fffffff (global.get $at))))"#;
    let body = r#"(i32.store (i32.const 64) (i32.const 128)) (i32.store (i32.const 68) (i32.const 8))
        (drop (call $read (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 72)))
        (global.set $at (i32.load (i32.const 132)))
        (call_indirect (i32.load (i32.const 128)))"#;
    // One for each client below: a hundred traps would put one for all in quarantine.
    let wasm = command(core, body);
    platform.deploy("beyond", &wasm);
    for client in 0..6 {
        platform.deploy(&format!("beyond-{client}"), &wasm);
    }
    let inside = [
        (0, 65535),
        (2, 65528),
        (4, 65535),
        (6, 65520),
        (7, 65520),
        (8, 65520),
        (9, 65520),
        (10, 65529),
    ];
    for (function, at) in inside {
        assert_eq!(
            ask(&platform, "beyond", &[function, at]),
            "answered",
            "function {function} at {at}"
        );
    }
    let outside = [
        0x1_0000,
        0x1_1000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_0000,
        0xffff_fff0,
        0xffff_ffff,
    ];
    let beyond = |app: &str, function: i64| {
        for at in outside {
            let found = ask(&platform, app, &[function, at]);
            assert_eq!(found, "trap", "function {function} at {at:x}");
        }
    };
    for (function, at) in inside {
        assert_eq!(
            ask(&platform, "beyond", &[function, at + 1]),
            "trap",
            "function {function} at {}",
            at + 1
        );
    }
    for function in [1, 3, 5, 11] {
        assert_eq!(
            ask(&platform, "beyond", &[function, 0]),
            "trap",
            "function {function} at 0"
        );
    }
    // Many at once: the handler of the signal is every thread's.
    std::thread::scope(|scope| {
        for client in 0..6 {
            scope.spawn(move || {
                let app = format!("beyond-{client}");
                (0..12).for_each(|function| beyond(&app, (function + client) % 12));
            });
        }
    });
    platform.unharmed();
}

/// G61
#[test]
fn nothing_of_one_instance_is_found_by_the_next() {
    let platform = Watched::configured("workers = 1\n[node]\nslots = 4\ntenant-slots = 4");
    // Looks at everything, then fills everything. Traps if there was anything, else answers.
    let hunter = |segment: &str, dirt: u32, then: &str| {
        let text = format!(
            r#"(module
                (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 16)
                (table $table 20000 funcref)
                (global $kept (mut i64) (i64.const 0))
                (elem declare func $seek)
                {segment}
                (func $seek (local $at i32)
                    (loop $more
                        (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
                        (br_if $more (i32.lt_u
                            (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 0x1000000)))))
                (func $seek-table (local $at i32)
                    (loop $more
                        (if (i32.eqz (ref.is_null (table.get $table (local.get $at)))) (then unreachable))
                        (br_if $more (i32.lt_u
                            (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const 20000)))))
                (func (export "_start")
                    (drop (memory.grow (i32.const 240)))
                    (call $seek)
                    (call $seek-table)
                    (if (i64.ne (global.get $kept) (i64.const 0)) (then unreachable))
                    (memory.fill (i32.const 0) (i32.const {dirt}) (i32.const 0x1000000))
                    (table.fill $table (i32.const 0) (ref.func $seek) (i32.const 20000))
                    (global.set $kept (i64.const -1))
                    (i32.store (i32.const 0) (i32.const 16))
                    (i32.store (i32.const 4) (i32.const 4))
                    (i32.store (i32.const 16) (i32.const 0x0a0a3a78))
                    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                    {then}))"#
        );
        binary(&text)
    };
    let limits = "[limits]\ncpu = '5s'";
    platform.deploy_with("seeks", &hunter("", 0xa5, ""), limits);
    platform.deploy_with("traps", &hunter("", 0x5a, "unreachable"), limits);
    let segment = r#"(data (i32.const 0x8000) "\00\00\00\00\00\00\00\00")"#;
    platform.deploy_with("image", &hunter(segment, 0xc3, ""), limits);
    // What was there to be found is found.
    let marked = hunter(r#"(data (i32.const 0xfffff) "!")"#, 0, "");
    platform.deploy_with("marked", &marked, limits);
    platform.deploy_with(
        "grow",
        &guest("grow"),
        "[limits]\nmemory = '16MiB'\ncpu = '5s'",
    );
    assert_eq!(ask(&platform, "marked", &[]), "trap");
    for _ in 0..10 {
        for app in ["seeks", "image", "seeks"] {
            assert_eq!(ask(&platform, app, &[]), "answered", "{app}");
        }
        let mut connection = platform.connect("traps");
        let _ = connection.get("/");
        platform.get("grow", "/64").is(503).fails("memory-limit");
    }
    platform.unharmed();
}

/// G52
#[test]
fn a_client_may_leave_at_any_moment() {
    let platform = Watched::configured("workers = 1");
    let worker = platform.workers()[0];
    let hungry = "[limits]\ncpu = '1s'\nwall = '10s'";
    for (app, name) in [
        ("slow", "slow"),
        ("echo", "echo"),
        ("spin", "spin"),
        ("endless", "endless"),
        ("sum", "sum"),
    ] {
        platform.deploy_with(app, &guest(name), hungry);
    }
    // Every app is loaded: its code is a descriptor of its own.
    platform.get("slow", "/wait/1").is(200);
    platform.post("echo", "/", b"echo").is(200);
    platform.post("sum", "/", b"sum").is(200);
    platform.get("spin", "/").is(503);
    let mut endless = platform.connect("endless");
    endless.send_head("GET", "/", "").unwrap();
    endless.head().unwrap();
    drop(endless);
    platform.logs("endless", "client-gone");
    let descriptors = || {
        std::fs::read_dir(Path::new("/proc").join(worker.to_string()).join("fd"))
            .unwrap()
            .count()
    };
    let before = descriptors();
    let leave = |app: &str, method: &str, path: &str, body: &[u8], after: Duration| {
        let mut connection = Connection::open(platform.listen, &platform.host(app)).unwrap();
        let more = match method {
            "POST" => "content-length: 100000\r\n",
            _ => "",
        };
        let _ = connection.send_head(method, path, more);
        let _ = connection.send(body);
        std::thread::sleep(after);
    };
    let lives: &[(&str, &str, &str, &[u8])] = &[
        ("slow", "GET", "/wait/30", b""),
        ("slow", "GET", "/10/3", b""),
        ("echo", "POST", "/", &[7; 50_000]),
        ("sum", "POST", "/3", &[7; 100_000]),
        ("endless", "GET", "/", b""),
        ("spin", "GET", "/", b""),
    ];
    std::thread::scope(|scope| {
        for (app, method, path, body) in lives {
            let leave = &leave;
            scope.spawn(move || {
                (0..40)
                    .for_each(|after| leave(app, method, path, body, Duration::from_millis(after)));
            });
        }
    });
    for app in ["slow", "echo", "endless", "spin"] {
        platform.logs(app, "client-gone");
    }
    eventually("every descriptor is back", || {
        (descriptors() <= before).then_some(())
    });
    platform.unharmed();
}
