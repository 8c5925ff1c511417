//! Guests that want all of the memory, and uploads that want too much of everything.

use std::fs;

use tests::{Platform, trials};

use crate::siege::{Siege, command, component};

/// Grows by one page until it may not, and traps unless that was at `pages`.
fn grow_to(pages: u32) -> String {
    format!(
        "(loop $more
            (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 7))
            (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (if (i32.ne (memory.size) (i32.const {pages})) (then (unreachable)))"
    )
}

/// G11
#[test]
fn memory_grows_to_its_cap_and_is_given_back() {
    let siege = Siege::configured("workers = 1");
    let worker = siege.platform.workers()[0];
    let before = tests::anonymous_bytes(worker);
    let check = |app: &str, limits: &str, pages: u32| {
        let start = format!("{} {TOUCH} (call $say)", grow_to(pages));
        let wasm = command("to the cap\n", "", &start);
        siege.answers(app, &wasm, limits, "to the cap\n");
    };
    check("default", "[limits]\ncpu = '5s'", 2048);
    check("little", "[limits]\ncpu = '5s'\nmemory = '1MiB'", 16);
    check("much", "[limits]\ncpu = '5s'\nmemory = '256MiB'", 4096);
    tests::eventually("the memory is given back", || {
        (tests::anonymous_bytes(worker) < before + (32 << 20)).then_some(())
    });
    siege.end();
}

/// G11
#[test]
fn memory_is_given_back_though_nobody_asks_for_anything_after() {
    let platform = Platform::configured("workers = 1");
    let worker = platform.workers()[0];
    let before = tests::anonymous_bytes(worker);
    let start = format!("{} {TOUCH} (call $say)", grow_to(2048));
    let wasm = command("to the cap\n", "", &start);
    platform.deploy_with("grow", &wasm, "[limits]\ncpu = '5s'");
    platform.get("grow", "/").is(200).says("to the cap\n");
    tests::eventually("the memory is given back", || {
        (tests::anonymous_bytes(worker) < before + (32 << 20)).then_some(())
    });
}

/// Writes to all memory but the first page.
const TOUCH: &str = "(memory.fill (i32.const 65536) (i32.const 7)
    (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 65536)))";

/// G61, and what another app left behind
#[test]
fn nothing_is_left_of_one_instance_for_the_next_in_small() {
    println!("{}", trials::residue(trials::INSTANCES / 20, 7));
}

/// G12
#[test]
fn growing_beyond_the_cap_again_and_again_takes_nothing() {
    let siege = Siege::begin();
    let worker = siege.platform.workers()[0];
    let check = |app: &str, pages: &str| {
        let start = format!(
            "(local $turn i32)
            (loop $again
                (if (i32.ne (memory.grow (i32.const {pages})) (i32.const -1)) (then (unreachable)))
                (local.set $turn (i32.add (local.get $turn) (i32.const 1)))
                (br_if $again (i32.lt_u (local.get $turn) (i32.const 100000))))
            (if (i32.ne (memory.size) (i32.const 1)) (then (unreachable)))
            (call $say)"
        );
        let wasm = command("never grown\n", "", &start);
        let limits = "[limits]\ncpu = '5s'\nmemory = '2MiB'";
        siege.answers(app, &wasm, limits, "never grown\n");
    };
    let before = tests::anonymous_bytes(worker);
    check("one-too-many", "32");
    check("all-there-is", "65535");
    check("more-than-there-is", "-1");
    let after = tests::anonymous_bytes(worker);
    assert!(after < before + (16 << 20), "{before} bytes, then {after}");
    siege.end();
}

/// G13
#[test]
fn memories_are_summed_whoever_of_a_component_holds_them() {
    let siege = Siege::begin();
    let limits = "[limits]\nmemory = '8MiB'";
    let run = r#"(func (export "run") (result i32) (i32.const 0))"#;
    let memories = |count: usize, pages: u32| -> String {
        (0..count)
            .map(|i| {
                format!(
                    r#"(core module $m{i} (memory (export "memory") {pages})
                        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
                    (core instance $m{i} (instantiate $m{i}))"#
                )
            })
            .collect()
    };
    let fits = component(&memories(4, 32), "", run, "");
    siege.fails("four-fit", &fits, limits, 500, "no-response");
    let beyond = component(&memories(4, 33), "", run, "");
    siege.fails("four-do-not", &beyond, limits, 503, "memory-limit");
    // Each in turn grows by 16 pages until nobody may: together they have the 128 pages, and not one more.
    let parts = r#"
        (import "0" "grow" (func $grow0 (param i32) (result i32)))
        (import "1" "grow" (func $grow1 (param i32) (result i32)))
        (import "2" "grow" (func $grow2 (param i32) (result i32)))
        (import "3" "grow" (func $grow3 (param i32) (result i32)))
        (func $try (param $before i32) (result i32) (i32.ne (local.get $before) (i32.const -1)))
        (func (export "run") (result i32) (local $grown i32) (local $now i32)
            (loop $again
                (local.set $now (i32.add
                    (i32.add (call $try (call $grow0 (i32.const 16))) (call $try (call $grow1 (i32.const 16))))
                    (i32.add (call $try (call $grow2 (i32.const 16))) (call $try (call $grow3 (i32.const 16))))))
                (local.set $grown (i32.add (local.get $grown) (local.get $now)))
                (br_if $again (local.get $now)))
            (if (i32.ne (local.get $grown) (i32.const 8)) (then (loop $wrong (br $wrong))))
            (i32.const 0))"#;
    let arguments: String = (0..4)
        .map(|i| format!(r#"(with "{i}" (instance $m{i}))"#))
        .collect();
    let growing = component(&memories(4, 0), &arguments, parts, "");
    // It ends without an answer, having met the limit; a wrong count would never end.
    siege.fails("four-that-grow", &growing, limits, 503, "memory-limit");
    siege.refuses(
        &component(&memories(5, 1), "", run, ""),
        "wasm-limit",
        "`memories`",
    );
    siege.end();
}

/// G14
#[test]
fn a_table_grows_to_its_limit_and_no_further() {
    let siege = Siege::begin();
    let check = |app: &str, table: &str, start: &str| {
        let wasm = command("refused\n", table, &format!("{start} (call $say)"));
        siege.answers(app, &wasm, "", "refused\n");
    };
    let denied = |by: &str| {
        format!(
            "(if (i32.ne (table.grow $t (ref.null func) (i32.const {by})) (i32.const -1)) (then (unreachable)))"
        )
    };
    let table = "(table $t 1 funcref)";
    check("ten-million", table, &denied("10000000"));
    check("all-there-is", table, &denied("-2"));
    check("more-than-there-is", table, &denied("-1"));
    check("one-too-many", "(table $t 20000 funcref)", &denied("1"));
    let to_the_limit = "(if (i32.ne (table.grow $t (ref.null func) (i32.const 19999)) (i32.const 1)) (then (unreachable)))";
    check(
        "to-the-limit",
        table,
        &format!("{to_the_limit} {}", denied("1")),
    );
    let again =
        "(local $turn i32) (loop $again (drop (table.grow $t (ref.null func) (i32.const 1)))
        (local.set $turn (i32.add (local.get $turn) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $turn) (i32.const 100000))))
        (if (i32.ne (table.size $t) (i32.const 20000)) (then (unreachable)))";
    check("step-by-step", table, again);
    let declared = command("", "(table 10000000 funcref)", "");
    siege.refuses(&declared, "wasm-limit", "`table-elements`");
    let declared = command("", "(table 4294967295 funcref)", "");
    siege.refuses(&declared, "wasm-limit", "`table-elements`");
    siege.end();
}

/// G15
#[test]
fn a_thousand_instances_or_modules_are_refused_at_deploy() {
    let siege = Siege::begin();
    let run = r#"(func (export "run") (result i32) (i32.const 0))"#;
    let check = |imports: &str, limit: &str| {
        siege.refuses(&component(imports, "", run, ""), "wasm-limit", limit);
    };
    let instances = "(core instance (instantiate $m))".repeat(1_000);
    check(&format!("(core module $m) {instances}"), "`core-instances`");
    check(&"(core module)".repeat(1_000), "`wasm-modules`");
    siege.end();
}

/// G16
#[test]
fn handles_that_are_never_dropped_end_in_a_trap() {
    let siege = Siege::begin();
    let check = |app: &str, count: u32, status: u16, code: &str| {
        siege.fails(
            app,
            &own_handles(count),
            "[limits]\ncpu = '5s'",
            status,
            code,
        );
    };
    check("handles-within", 4_000, 500, "no-response");
    check("handles-beyond", 4_097, 500, "trap");
    check("handles-a-million", 1_000_000, 500, "trap");
    let check = |app: &str, count: u32, status: u16, code: &str| {
        siege.fails(
            app,
            &host_resources(count),
            "[limits]\ncpu = '5s'",
            status,
            code,
        );
    };
    check("resources-within", 1_000, 500, "no-response");
    check("resources-beyond", 1_025, 500, "trap");
    check("resources-a-million", 1_000_000, 500, "trap");
    siege.end();
}

/// Makes so many handles of a resource of its own.
fn own_handles(count: u32) -> Vec<u8> {
    component(
        "(type $own (resource (rep i32))) (core func $new (canon resource.new $own))",
        r#"(with "host" (instance (export "new" (func $new))))"#,
        &format!(
            r#"(import "host" "new" (func $new (param i32) (result i32))) {}"#,
            run_times(count, "(drop (call $new (local.get $turn)))")
        ),
        "",
    )
}

/// Takes so many of the host's resources.
fn host_resources(count: u32) -> Vec<u8> {
    component(
        r#"(import "wasi:http/types@0.2.3" (instance $http
            (export "fields" (type $fields (sub resource)))
            (export "[constructor]fields" (func (result (own $fields))))))
        (core func $new (canon lower (func $http "[constructor]fields")))"#,
        r#"(with "host" (instance (export "new" (func $new))))"#,
        &format!(
            r#"(import "host" "new" (func $new (result i32))) {}"#,
            run_times(count, "(drop (call $new))")
        ),
        "",
    )
}

/// A `run` that does `what` so many times; `$turn` counts from 0.
fn run_times(count: u32, what: &str) -> String {
    format!(
        r#"(func (export "run") (result i32) (local $turn i32)
            (loop $again {what}
                (local.set $turn (i32.add (local.get $turn) (i32.const 1)))
                (br_if $again (i32.lt_u (local.get $turn) (i32.const {count}))))
            (i32.const 0))"#
    )
}

/// G17
#[test]
fn a_borrow_passes_through_component_after_component() {
    let siege = Siege::begin();
    let limits = "[limits]\ncpu = '5s'";
    siege.fails(
        "through-one",
        &borrow_through(1),
        limits,
        500,
        "no-response",
    );
    siege.fails(
        "through-ten",
        &borrow_through(10),
        limits,
        500,
        "no-response",
    );
    siege.end();
}

/// A borrow of a host's resource that each of so many components hands to the one before, a thousand times.
fn borrow_through(components: usize) -> Vec<u8> {
    let mut chain = String::from(
        r#"(import "wasi:http/types@0.2.3" (instance $http
            (export "fields" (type $fields (sub resource)))
            (export "[constructor]fields" (func (result (own $fields))))))
        (alias export $http "fields" (type $fields))
        (component $keeper
            (import "fields" (type $f (sub resource)))
            (core func $drop (canon resource.drop $f))
            (core module $m
                (import "host" "drop" (func $drop (param i32)))
                (func (export "take") (param i32) (call $drop (local.get 0))))
            (core instance $m (instantiate $m (with "host" (instance (export "drop" (func $drop))))))
            (func (export "take") (param "self" (borrow $f)) (canon lift (core func $m "take"))))
        (component $link
            (import "fields" (type $f (sub resource)))
            (import "next" (func $next (param "self" (borrow $f))))
            (core func $drop (canon resource.drop $f))
            (core func $next (canon lower (func $next)))
            (core module $m
                (import "host" "drop" (func $drop (param i32)))
                (import "host" "next" (func $next (param i32)))
                (func (export "take") (param i32) (call $next (local.get 0)) (call $drop (local.get 0))))
            (core instance $m (instantiate $m (with "host" (instance (export "drop" (func $drop)) (export "next" (func $next))))))
            (func (export "take") (param "self" (borrow $f)) (canon lift (core func $m "take"))))
        (instance $c0 (instantiate $keeper (with "fields" (type $fields))))"#,
    );
    for i in 1..=components {
        let before = i - 1;
        chain.push_str(&format!(
            r#"(instance $c{i} (instantiate $link (with "fields" (type $fields)) (with "next" (func $c{before} "take"))))"#
        ));
    }
    // A component may not call what it holds itself: the caller is one more beside them.
    let parts = r#"(import "host" "new" (func $new (result i32)))
        (import "host" "take" (func $take (param i32)))
        (func (export "run") (result i32) (local $turn i32) (local $fields i32)
            (local.set $fields (call $new))
            (loop $again (call $take (local.get $fields))
                (local.set $turn (i32.add (local.get $turn) (i32.const 1)))
                (br_if $again (i32.lt_u (local.get $turn) (i32.const 1000))))
            (i32.const 0))"#;
    let wat = format!(
        r#"(component {chain}
            (component $caller
                (import "fields" (type $f (sub resource)))
                (import "new" (func $new (result (own $f))))
                (import "take" (func $take (param "self" (borrow $f))))
                (core func $new (canon lower (func $new)))
                (core func $take (canon lower (func $take)))
                (core module $main {parts})
                (core instance $main (instantiate $main
                    (with "host" (instance (export "new" (func $new)) (export "take" (func $take))))))
                (func (export "run") (result (result)) (canon lift (core func $main "run"))))
            (instance $caller (instantiate $caller
                (with "fields" (type $fields))
                (with "new" (func $http "[constructor]fields"))
                (with "take" (func $c{components} "take"))))
            (instance $run (export "run" (func $caller "run")))
            (export "wasi:cli/run@0.2.3" (instance $run)))"#
    );
    wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))
}

/// G18
#[test]
fn lists_that_are_handed_to_the_host_cost_it_no_more_than_it_may_copy() {
    let siege = Siege::begin();
    let (million, long) = (1_000_000, 64 << 10);
    let check = |app: &str, count: u32, length: u32, code: &str| {
        let limits = "[limits]\ncpu = '10s'\nmemory = '64MiB'";
        siege.fails(app, &header_list(count, length), limits, 500, code);
    };
    check("a-few", 10, 10, "no-response");
    check("many-empty", million, 0, "trap");
    check("many-short", million, 5, "trap");
    for worker in siege.platform.workers() {
        forget_peak(worker);
    }
    let before: Vec<u64> = siege.platform.workers().into_iter().map(peak).collect();
    check("many-long", 10_000, long, "trap");
    check("few-very-long", 4, 8 << 20, "trap");
    check("longer-than-memory", 1, u32::MAX, "trap");
    check("more-than-memory", u32::MAX, 1, "trap");
    check("more-bytes-than-addresses", 1 << 28, 1, "trap");
    // The guests themselves write no more than 1 MiB here.
    for (worker, before) in siege.platform.workers().into_iter().zip(before) {
        let more = peak(worker).saturating_sub(before);
        assert!(more < 8 << 20, "worker {worker} took {more} bytes more");
    }
    siege.end();
}

/// Hands the host a list of `count` headers, each with the same name and value of so many bytes.
fn header_list(count: u32, length: u32) -> Vec<u8> {
    let imports = r#"(import "wasi:http/types@0.2.3" (instance $http
            (export "fields" (type $fields (sub resource)))
            (type $e (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
            (export "header-error" (type $error (eq $e)))
            (export "[static]fields.from-list" (func
                (param "entries" (list (tuple string (list u8))))
                (result (result (own $fields) (error $error)))))))
        (core module $memory (memory (export "memory") 1024))
        (core instance $memory (instantiate $memory))
        (core func $list (canon lower (func $http "[static]fields.from-list") (memory (core memory $memory "memory"))))"#;
    // A list that is longer than memory is never read.
    let written = if count > 1_000_000 { 1 } else { count };
    let parts = format!(
        r#"(import "host" "list" (func $list (param i32 i32 i32)))
        (import "host" "memory" (memory 1024))
        (func (export "run") (result i32) (local $at i32)
            (memory.fill (i32.const 33554432) (i32.const 97) (i32.const 65536))
            (local.set $at (i32.const 1024))
            (loop $next
                (i32.store (local.get $at) (i32.const 33554432))
                (i32.store offset=4 (local.get $at) (i32.const {length}))
                (i32.store offset=8 (local.get $at) (i32.const 33554432))
                (i32.store offset=12 (local.get $at) (i32.const {length}))
                (local.set $at (i32.add (local.get $at) (i32.const 16)))
                (br_if $next (i32.lt_u (local.get $at) (i32.const {end}))))
            (call $list (i32.const 1024) (i32.const {count}) (i32.const 0))
            (i32.const 0))"#,
        end = 1024 + 16 * written,
        count = count as i32,
        length = length as i32,
    );
    let arguments = r#"(with "host" (instance (export "list" (func $list)) (export "memory" (memory $memory "memory"))))"#;
    component(imports, arguments, &parts, "")
}

/// The most memory that a process has held since it was made to forget.
fn peak(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.expect("a process has a peak") << 10
}

fn forget_peak(id: u32) {
    fs::write(format!("/proc/{id}/clear_refs"), "5").expect("a process of ours");
}

/// G19
#[test]
fn random_bytes_come_in_small_numbers() {
    let siege = Siege::begin();
    let check = |app: &str, length: u64, code: &str| {
        siege.fails(app, &random_bytes(length), "", 500, code);
    };
    check("some", 64 << 10, "no-response");
    check("one-too-many", (64 << 10) + 1, "trap");
    check("four-gib", 1 << 32, "trap");
    check("all-there-are", u64::MAX, "trap");

    let ask = |length: i32| format!("(drop (call $random (i32.const 2048) (i32.const {length})))");
    let within = command("random\n", "", &format!("{} (call $say)", ask(60_000)));
    siege.answers("command", &within, "", "random\n");
    for (app, length) in [("command-beyond", 1 << 20), ("command-all", -1)] {
        let start = format!("(drop (memory.grow (i32.const 100))) {}", ask(length));
        siege.fails(app, &command("", "", &start), "", 500, "trap");
    }
    siege.end();
}

/// Asks the host for so many random bytes.
fn random_bytes(length: u64) -> Vec<u8> {
    component(
        r#"(import "wasi:random/random@0.2.3" (instance $random
            (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
        (core module $memory
            (memory (export "memory") 2)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16)))
        (core instance $memory (instantiate $memory))
        (core func $bytes (canon lower (func $random "get-random-bytes")
            (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))"#,
        r#"(with "host" (instance (export "bytes" (func $bytes))))"#,
        &format!(
            r#"(import "host" "bytes" (func $bytes (param i64 i32)))
            (func (export "run") (result i32) (call $bytes (i64.const {}) (i32.const 0)) (i32.const 0))"#,
            length as i64
        ),
        "",
    )
}

/// G59
#[test]
fn an_upload_of_much_that_is_small_deploys_or_is_refused_by_name() {
    let siege = Siege::begin();
    let data = |count: usize| {
        let segments = r#"(data (i32.const 0) "")"#.repeat(count);
        command("deployed\n", &segments, "(call $say)")
    };
    // One more is the text that a command says.
    siege.answers("data-within", &data(99_999), "", "deployed\n");
    siege.refuses(&data(100_000), "wasm-limit", "`wasm-data-segments`");

    let plain = || command("deployed\n", "", "(call $say)");
    let mut custom = plain();
    section(
        &mut custom,
        0,
        &[b"\x04name".as_slice(), &vec![7; 20 << 20]].concat(),
    );
    siege.deploys_or_is_refused("custom-section", &custom);
    let mut many = plain();
    for _ in 0..100_000 {
        section(&mut many, 0, b"\x01x");
    }
    siege.deploys_or_is_refused("custom-sections", &many);

    let long = "n".repeat(1 << 20);
    let named = command(
        "deployed\n",
        &format!(r#"(func (export "{long}"))"#),
        "(call $say)",
    );
    siege.deploys_or_is_refused("long-name", &named);
    siege.deploys_or_is_refused("long-import", &long_import(&long));

    let exports: String = (0..1_000_000)
        .map(|i| format!(r#"(export "e{i}" (func $say))"#))
        .collect();
    siege.deploys_or_is_refused("exports", &command("deployed\n", &exports, "(call $say)"));
    siege.end();
}

fn long_import(name: &str) -> Vec<u8> {
    let wat = format!(r#"(module (import "{name}" "{name}" (func)) (func (export "_start")))"#);
    wat::parse_str(wat).unwrap()
}

/// Appends a section of a module.
fn section(wasm: &mut Vec<u8>, id: u8, contents: &[u8]) {
    wasm.push(id);
    let mut length = contents.len();
    while length >= 0x80 {
        wasm.push(length as u8 | 0x80);
        length >>= 7;
    }
    wasm.push(length as u8);
    wasm.extend_from_slice(contents);
}
