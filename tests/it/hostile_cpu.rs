//! Guests that want all of the processor: each is stopped at its budget, whichever way it spends it.

use tests::{guest, trials};

use crate::siege::{Siege, command, component};

/// The default of `limits.cpu`, in microseconds.
const BUDGET_US: u64 = 50_000;

const FOR_EVER: &str = "(loop $again (br $again))";

/// G01
#[test]
fn an_endless_loop_is_stopped_at_its_budget() {
    let siege = Siege::begin();
    let check = |app: &str, limits: &str, budget_us: u64| {
        siege.fails(app, &command("", "", FOR_EVER), limits, 503, "cpu-limit");
        is_charged(&siege, app, budget_us, 5_000);
    };
    check("default", "", BUDGET_US);
    check("little", "[limits]\ncpu = '10ms'", 10_000);
    check("much", "[limits]\ncpu = '300ms'", 300_000);
    siege.end();
}

#[test]
fn a_budget_holds_on_a_busy_machine_in_small() {
    println!("{}", trials::charged(trials::CHARGED / 20, 7));
}

#[track_caller]
fn is_charged(siege: &Siege, app: &str, budget_us: u64, beyond_us: u64) {
    let charged = siege.ends(app).iter().filter_map(trials::cpu_us).collect();
    trials::is_charged(app, charged, budget_us, beyond_us);
}

/// G02
#[test]
fn a_loop_before_the_handler_is_charged_to_the_request() {
    let siege = Siege::begin();
    let check = |app: &str, wasm: &[u8]| {
        siege.fails(app, wasm, "", 503, "cpu-limit");
        is_charged(&siege, app, BUDGET_US, 5_000);
    };
    let start = format!("(func $first {FOR_EVER}) (start $first)");
    check("start", &command("never", &start, "(call $say)"));
    let run = r#"(func (export "run") (result i32) (i32.const 0))"#;
    check(
        "component-start",
        &component("", "", &format!("{start} {run}"), ""),
    );
    let first = format!("(core module $first {start}) (core instance (instantiate $first))");
    check("another-start", &component(&first, "", run, ""));
    check("realloc", &random_into(FOR_EVER));
    siege.end();
}

/// A component that asks the host for 16 random bytes, for which the host calls its `realloc`.
fn random_into(realloc: &str) -> Vec<u8> {
    let imports = format!(
        r#"(import "wasi:random/random@0.2.3" (instance $random
            (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
        (core module $memory
            (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) {realloc} (unreachable)))
        (core instance $memory (instantiate $memory))
        (core func $bytes (canon lower (func $random "get-random-bytes")
            (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))"#
    );
    component(
        &imports,
        r#"(with "host" (instance (export "bytes" (func $bytes))))"#,
        r#"(import "host" "bytes" (func $bytes (param i64 i32)))
        (func (export "run") (result i32) (call $bytes (i64.const 16) (i32.const 0)) (i32.const 0))"#,
        "",
    )
}

/// G03
#[test]
fn who_goes_on_after_the_answer_is_stopped_and_the_answer_stays_whole() {
    let siege = Siege::begin();
    let check = |app: &str, wasm: &[u8], path: &str| {
        siege.platform.deploy(app, wasm);
        let mut connection = siege.platform.connect(app);
        for _ in 0..3 {
            let reply = connection.get(path).unwrap().is(200);
            assert_eq!(reply.text(), "answered, and on\n");
        }
        siege.told(app, "cpu-limit", 3);
        is_charged(&siege, app, BUDGET_US, 5_000);
    };
    check("in-the-handler", &guest("spin"), "/after");
    check("in-post-return", &guest("linger"), "/");
    siege.end();
}

/// G04
#[test]
fn bulk_operations_in_a_row_are_interrupted_between_two() {
    let siege = Siege::begin();
    let check = |app: &str, operation: &str| {
        // Its pages are there by the time the budget ends.
        let wasm = command("", "", &on_all_memory(operation));
        siege.fails(app, &wasm, "[limits]\ncpu = '400ms'", 503, "cpu-limit");
        // One operation over 128 MiB takes 20 ms and more where the memory is busy, and nothing interrupts it.
        is_charged(&siege, app, 400_000, 40_000);
    };
    check("fill", FILL);
    check("copy", COPY);
    siege.end();
}

/// All but the first page of 128 MiB.
const FILL: &str = "(memory.fill (i32.const 65536) (i32.const 7) (i32.const 134152192))";
const COPY: &str = "(memory.copy (i32.const 65536) (i32.const 65537) (i32.const 134152191))";

/// Grows to 128 MiB, then does one thing more often than any machine can within the budget.
fn on_all_memory(operation: &str) -> String {
    let grow = "(drop (memory.grow (i32.const 2047)))";
    format!("{grow} {}", operation.repeat(1_000))
}

/// G05
#[test]
fn calls_without_a_return_are_counted_or_refused() {
    let siege = Siege::begin();
    let ring: String = (0..10)
        .map(|i| format!("(func $ring{i} (return_call $ring{}))", (i + 1) % 10))
        .collect();
    let tails = command("", &ring, "(return_call $ring0)");
    siege.fails("tails", &tails, "", 503, "cpu-limit");
    let table = "(type $f (func)) (table 2 2 funcref) (elem (i32.const 0) $a $b)
        (func $a (return_call_indirect (type $f) (i32.const 1)))
        (func $b (return_call_indirect (type $f) (i32.const 0)))";
    let indirect = command("", table, "(return_call $a)");
    siege.fails("indirect-tails", &indirect, "", 503, "cpu-limit");

    let refused = |parts: &str, start: &str, feature: &str| {
        let answer = siege
            .platform
            .api
            .publish_or_refuse(&tests::bare("dodger"), &command("", parts, start));
        answer.refuses(422, "unsupported-feature", feature);
    };
    refused(
        "(type $f (func)) (elem declare func $a) (func $a (return_call_ref $f (ref.func $a)))",
        "(call_ref $f (ref.func $a))",
        "typed function references",
    );
    refused(
        "(tag $again) (func $throw (throw $again))",
        "(loop $l (block $h (try_table (catch_all $h) (call $throw))) (br $l))",
        "exceptions",
    );
    siege.end();
}

/// G06
#[test]
fn recursion_without_end_is_a_trap() {
    let siege = Siege::begin();
    let check = |app: &str, parts: &str, start: &str| {
        siege.fails(app, &command("", parts, start), "", 500, "trap");
    };
    check(
        "small-frames",
        "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))",
        "(drop (call $deep))",
    );
    let many = "i64 ".repeat(1_000);
    let live: String = (0..1_000)
        .map(|i| format!("(i64.store (i32.const {}) (local.get {i}))", 2048 + 8 * i))
        .collect();
    let set: String = (0..1_000)
        .map(|i| format!("(local.set {i} (i64.load (i32.const {})))", 2048 + 8 * i))
        .collect();
    check(
        "large-frames",
        &format!("(func $deep (local {many}) {set} (call $deep) {live})"),
        "(call $deep)",
    );
    check(
        "through-a-table",
        "(type $f (func (result i32))) (table 1 1 funcref) (elem (i32.const 0) $deep)
        (func $deep (type $f) (i32.add (call_indirect (type $f) (i32.const 0)) (i32.const 1)))",
        "(drop (call $deep))",
    );
    check(
        "in-the-start-function",
        "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))
        (func $first (drop (call $deep))) (start $first)",
        "",
    );
    siege.end();
}

/// G07
#[test]
fn a_host_call_at_any_depth_of_the_stack_returns_or_traps() {
    let siege = Siege::begin();
    let check = |app: &str, locals: usize, call: &str| {
        let deep = deep_frames(locals, call);
        let limits = "[limits]\ncpu = '10s'";
        siege.fails(
            app,
            &command("", &deep, "(call $deep)"),
            limits,
            500,
            "trap",
        );
    };
    // Frames of odd sizes end at different distances from the limit.
    for locals in [0, 1, 3, 31] {
        let random = "(drop (call $random (i32.const 128) (i32.const 1024)))";
        check(&format!("random-{locals}"), locals, random);
        let clock = "(drop (call $clock (i32.const 1) (i64.const 1) (i32.const 128)))";
        check(&format!("clock-{locals}"), locals, clock);
    }
    check(
        "write",
        15,
        "(i32.store (i32.const 4) (i32.const 64)) (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))",
    );
    check("yield", 200, "(drop (call $yield))");
    check(
        "poll",
        200,
        "(drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 512)))",
    );
    siege.end();
}

/// A function that calls the host and then itself, with so many locals that live across the call.
fn deep_frames(locals: usize, call: &str) -> String {
    let place = |i: usize| 4096 + 8 * i;
    let set = |i| format!("(local.set {i} (i64.load (i32.const {})))", place(i));
    let live = |i| format!("(i64.store (i32.const {}) (local.get {i}))", place(i));
    let (set, live): (String, String) = (
        (0..locals).map(set).collect(),
        (0..locals).map(live).collect(),
    );
    let declared = "i64 ".repeat(locals);
    format!("(func $deep (local {declared}) {set} {call} (call $deep) {live})")
}

/// G08
#[test]
fn a_request_that_makes_a_pattern_explode_is_stopped() {
    let siege = Siege::begin();
    let platform = &siege.platform;
    platform.deploy("backtrack", &guest("backtrack"));
    let mut connection = platform.connect("backtrack");
    let bomb = format!("/{}!", "a".repeat(60));
    for _ in 0..3 {
        let reply = connection.get("/aaaab").unwrap();
        reply.is(200).says("it matches\n");
        let reply = connection.get(&bomb).unwrap();
        reply.is(503).fails("cpu-limit");
    }
    siege.told("backtrack", "cpu-limit", 3);
    siege.told("backtrack", "ok", 3);
    siege.end();
}

/// G09
#[test]
fn host_calls_without_number_count_as_cpu_time() {
    let siege = Siege::begin();
    let check = |app: &str, call: &str| {
        let start = format!("(loop $again {call} (br $again))");
        siege.fails(app, &command("", "", &start), "", 503, "cpu-limit");
        is_charged(&siege, app, BUDGET_US, 5_000);
    };
    check(
        "clock",
        "(drop (call $clock (i32.const 1) (i64.const 1) (i32.const 128)))",
    );
    check(
        "random",
        "(drop (call $random (i32.const 128) (i32.const 60000)))",
    );
    check(
        "write-nothing",
        "(drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))",
    );
    let now = component(
        r#"(import "wasi:clocks/monotonic-clock@0.2.3" (instance $clock (export "now" (func (result u64)))))
        (core func $now (canon lower (func $clock "now")))"#,
        r#"(with "host" (instance (export "now" (func $now))))"#,
        r#"(import "host" "now" (func $now (result i64)))
        (func (export "run") (result i32) (loop $again (drop (call $now)) (br $again)) (unreachable))"#,
        "",
    );
    siege.fails("now", &now, "", 503, "cpu-limit");
    is_charged(&siege, "now", BUDGET_US, 5_000);
    siege.end();
}

/// G10
#[test]
fn who_yields_for_ever_meets_a_limit_and_starves_nobody() {
    let siege = Siege::begin();
    let poll = "(drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 512)))";
    for (app, call) in [("yield", "(drop (call $yield))"), ("poll", poll)] {
        let wasm = command("", "", &format!("(loop $again {call} (br $again))"));
        siege.fails(&format!("{app}-cpu"), &wasm, "", 503, "cpu-limit");
        let limits = "[limits]\ncpu = '30s'\nwall = '400ms'";
        siege.fails(&format!("{app}-wall"), &wasm, limits, 504, "wall-limit");
    }
    for (app, limits, status, code) in [
        ("ready-cpu", "", 503, "cpu-limit"),
        (
            "ready-wall",
            "[limits]\ncpu = '30s'\nwall = '400ms'",
            504,
            "wall-limit",
        ),
    ] {
        siege.fails(app, &blocks_on_what_is_ready(), limits, status, code);
    }
    siege.end();
}

/// A component that blocks on one pollable of 0 ns again and again.
fn blocks_on_what_is_ready() -> Vec<u8> {
    component(
        r#"(import "wasi:io/poll@0.2.3" (instance $poll
            (export "pollable" (type $pollable (sub resource)))
            (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:clocks/monotonic-clock@0.2.3" (instance $clock
            (alias outer 1 $pollable (type $outer))
            (export "pollable" (type $pollable (eq $outer)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
        (core func $after (canon lower (func $clock "subscribe-duration")))
        (core func $block (canon lower (func $poll "[method]pollable.block")))"#,
        r#"(with "host" (instance (export "after" (func $after)) (export "block" (func $block))))"#,
        r#"(import "host" "after" (func $after (param i64) (result i32)))
        (import "host" "block" (func $block (param i32)))
        (func (export "run") (result i32) (local i32)
            (local.set 0 (call $after (i64.const 0)))
            (loop $again (call $block (local.get 0)) (br $again))
            (unreachable))"#,
        "",
    )
}

/// What a log says of a failure is more than its code, whichever limit it was.
#[test]
fn a_guest_over_a_limit_reads_in_its_log_which_one() {
    let siege = Siege::begin();
    let check = |app: &str, start: &str, limits: &str, code: &str, name: &str| {
        let wasm = command("", "", &format!("(loop $again {start} (br $again))"));
        siege.platform.deploy_with(app, &wasm, limits);
        siege.platform.get(app, "/").fails(code);
        siege.told(app, code, 1);
        let why = siege.reasons(app);
        assert!(why.contains(name), "{app}: `{name}` is not in: {why:?}");
    };
    check("spin", "", "", "cpu-limit", "limits.cpu");
    check(
        "yield",
        "(drop (call $yield))",
        "",
        "cpu-limit",
        "limits.cpu",
    );
    let wall = "[limits]\ncpu = '30s'\nwall = '100ms'";
    check(
        "wall",
        "(drop (call $yield))",
        wall,
        "wall-limit",
        "limits.wall",
    );
    siege.end();
}
