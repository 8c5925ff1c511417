//! Small uploads that take a compiler long, or much memory: each deploys or is refused by name, and meanwhile a
//! neighbour deploys and is served.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use model::limits;
use tests::{bare, cpu_seconds, descendants, guest, variant};

use crate::siege::{Siege, component};

/// A name, the upload, and what comes of it: `deployed` or what it is refused for; either where that is a matter of how
/// fast the machine is.
type Bomb = (&'static str, Vec<u8>, &'static str);

/// A section of a module: its number and what is in it.
type Section = (u8, Vec<u8>);

#[test]
fn what_has_too_much_of_one_thing_is_refused_before_it_is_compiled() {
    throw(&[
        ("locals", functions(2_000, &locals(50_000)), "wasm-limit"),
        (
            "empty-functions",
            functions(500_000, &body(&[], &[])),
            "wasm-limit",
        ),
        (
            "nested-loops",
            functions(1, &nested_loops(200_000)),
            "wasm-limit",
        ),
        (
            "nested-blocks",
            functions(1, &nested_blocks(500_000)),
            "wasm-limit",
        ),
        (
            "long-function",
            functions(1, &constants(1_800_000)),
            "wasm-limit",
        ),
        (
            "globals",
            alike(6, 1_000_000, b"\x7f\x00\x41\x00\x0b"),
            "wasm-limit",
        ),
        ("types", alike(1, 900_000, b"\x60\x00\x00"), "wasm-limit"),
        (
            "imports",
            alike(2, 500_000, b"\x01m\x01f\x00\x00"),
            "wasm-limit",
        ),
        (
            "table",
            alike(4, 1, b"\x70\x00\x80\xad\xe2\x04"),
            "wasm-limit",
        ),
        ("types-of-types", types_of_types(60), "invalid-wasm"),
    ]);
}

#[test]
fn what_takes_a_compiler_long_is_compiled_within_its_limits_or_not_at_all() {
    throw(&[
        ("many-locals", functions(200, &locals(5_000)), "deployed"),
        (
            "live-locals-twice",
            functions(1, &live_locals(3_000, 2)),
            "deployed",
        ),
        (
            "live-locals",
            functions(1, &live_locals(3_000, 8)),
            "deployed or compile-cpu-limit",
        ),
        (
            "many-live-locals",
            functions(5, &live_locals(3_000, 8)),
            "compile-cpu-limit",
        ),
        (
            "empty-functions",
            functions(100_000, &body(&[], &[])),
            // Whichever a busy machine comes to first.
            "compile-output-limit or compile-cpu-limit",
        ),
        ("exports", exports(300_000), "deployed"),
        (
            "branches",
            functions(1, &branch_table(1_000, 65_000)),
            "deployed",
        ),
        (
            "more-branches",
            functions(1, &branch_table(1_000, 500_000)),
            "not-compilable",
        ),
        (
            "results",
            many_results(1_000, 30_000),
            "compile-memory-limit",
        ),
        (
            "instances",
            instances_of_instances(8, 10),
            "compile-memory-limit",
        ),
    ]);
}

/// What a compile child took at the most, as far as was seen.
#[derive(Default)]
struct Taken {
    cpu_seconds: f64,
    resident: u64,
}

/// Looks at the compile children of a platform until told to stop.
fn watch(platform: u32, stop: &AtomicBool) -> Taken {
    let mut most = Taken::default();
    while !stop.load(Ordering::Relaxed) {
        for child in descendants(platform) {
            let command = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if command
                .split(|byte| *byte == 0)
                .any(|word| word == b"compile-child")
            {
                most.cpu_seconds = most.cpu_seconds.max(cpu_seconds(child));
                most.resident = most.resident.max(most_resident(child));
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    most
}

/// The most memory that a process has had resident, in bytes.
fn most_resident(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// The CPU time that a compile of so large an upload may take, in seconds.
fn allowed(upload: usize) -> f64 {
    let mib = upload.div_ceil(1 << 20) as u64;
    let grown = limits::COMPILE_CPU.default.0 + mib * limits::COMPILE_CPU_PER_MIB.default.0;
    grown.min(limits::COMPILE_CPU_MOST.default.0) as f64 / 1e3
}

/// Throws one bomb after the other while a neighbour deploys another version each time.
fn throw(bombs: &[Bomb]) {
    let siege = Siege::begin();
    let hello = guest("hello");
    let neighbour = siege.platform.api.new_tenant("next-door");
    let mut slowest = Duration::ZERO;
    let mut most = Taken::default();
    for (turn, (name, bomb, expected)) in bombs.iter().enumerate() {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let siege = &siege;
            let watched = scope.spawn(|| watch(siege.platform.id(), &stop));
            let thrown = scope.spawn(move || siege.deploys_or_is_refused(name, bomb));
            let version = variant(&hello, turn as u32);
            let began = Instant::now();
            neighbour.deploy(&bare("neighbour"), &version);
            slowest = slowest.max(began.elapsed());
            // What takes a compiler seconds keeps nobody waiting for it.
            assert!(
                *expected != "compile-cpu-limit" || !thrown.is_finished(),
                "the neighbour waited for `{name}`"
            );
            let reply = siege.platform.get("neighbour.next-door", "/").is(200);
            assert_eq!(reply.text(), "Hello, Midge!\n");
            let came = thrown.join().unwrap();
            stop.store(true, Ordering::Relaxed);
            let taken = watched.join().unwrap();
            assert!(
                taken.cpu_seconds <= allowed(bomb.len()) + 1.0,
                "`{name}` took {} s of CPU time",
                taken.cpu_seconds
            );
            assert!(
                taken.resident < limits::COMPILE_MEMORY.default.bytes(),
                "`{name}` took {} bytes",
                taken.resident
            );
            most.cpu_seconds = most.cpu_seconds.max(taken.cpu_seconds);
            most.resident = most.resident.max(taken.resident);
            let mut allowed = expected.split(" or ");
            assert!(
                allowed.any(|one| one == came),
                "{name}: {came}, not {expected}"
            );
        });
    }
    siege.end();
    println!(
        "compile bombs: {} thrown; the slowest of a neighbour's deployments took {} ms; a compile took {:.1} s of CPU time and {} MiB at the most",
        bombs.len(),
        slowest.as_millis(),
        most.cpu_seconds,
        most.resident >> 20
    );
}

/// A command of these sections. Function 0 is its `_start`; what a command needs and is not given is added.
fn module(mut sections: Vec<Section>) -> Vec<u8> {
    let answer = body(&[], &[]);
    let answer = [leb(1), leb(answer.len()), answer].concat();
    for (number, contents) in [
        (1, b"\x01\x60\x00\x00".to_vec()),
        (3, b"\x01\x00".to_vec()),
        (5, b"\x01\x00\x01".to_vec()),
        (7, b"\x01\x06_start\x00\x00".to_vec()),
        (10, answer),
    ] {
        if sections.iter().all(|(other, _)| *other != number) {
            sections.push((number, contents));
        }
    }
    sections.sort_by_key(|(number, _)| *number);
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    for (number, contents) in sections {
        wasm.push(number);
        wasm.extend(leb(contents.len()));
        wasm.extend(contents);
    }
    wasm
}

/// A module with `count` times the same in one section.
fn alike(section: u8, count: usize, one: &[u8]) -> Vec<u8> {
    module(vec![(section, [leb(count), one.repeat(count)].concat())])
}

/// A module with `count` functions of one body, which take and return nothing.
fn functions(count: usize, body: &[u8]) -> Vec<u8> {
    let code = [leb(body.len()), body.to_vec()].concat().repeat(count);
    module(vec![
        (3, [leb(count), vec![0; count]].concat()),
        (10, [leb(count), code].concat()),
    ])
}

/// A function's body: groups of locals, each a count and a type, and instructions.
fn body(locals: &[(usize, u8)], code: &[u8]) -> Vec<u8> {
    let groups = locals
        .iter()
        .flat_map(|(count, ty)| [leb(*count), vec![*ty]].concat());
    let groups: Vec<u8> = groups.collect();
    [leb(locals.len()), groups, code.to_vec(), vec![END]].concat()
}

const END: u8 = 0x0b;
const I32: u8 = 0x7f;
const NO_RESULT: u8 = 0x40;

fn locals(count: usize) -> Vec<u8> {
    body(&[(count, I32)], &[])
}

/// Loads each local, sets each to the sum of itself and another one `turns` times over, and traps if the sum of all is
/// not zero: all are live all the time.
fn live_locals(count: usize, turns: usize) -> Vec<u8> {
    let load = |i: usize| [&[0x41, 0x00, 0x28, 0x02][..], &leb(4 * i), &[0x21], &leb(i)].concat();
    let sum = |i: usize| {
        let (this, other) = (leb(i % count), leb((i * 7 + 1) % count));
        [&[0x20], &this[..], &[0x20], &other, &[0x6a, 0x21], &this].concat()
    };
    let add = |i: usize| [&[0x20], &leb(i)[..], &[0x6a]].concat();
    let code: [Vec<u8>; 5] = [
        (0..count).flat_map(load).collect(),
        (0..count * turns).flat_map(sum).collect(),
        vec![0x41, 0x00],
        (0..count).flat_map(add).collect(),
        vec![0x04, NO_RESULT, 0x00, END],
    ];
    body(&[(count, I32)], &code.concat())
}

fn nested_blocks(depth: usize) -> Vec<u8> {
    let code = [[0x02, NO_RESULT].repeat(depth), vec![END; depth]].concat();
    body(&[], &code)
}

/// Each loop may go on from its end.
fn nested_loops(depth: usize) -> Vec<u8> {
    let begin = [0x03, NO_RESULT].repeat(depth);
    let end = [0x41, 0x00, 0x0d, 0x00, END].repeat(depth);
    body(&[], &[begin, end].concat())
}

/// Puts a constant on the stack and takes it off again, so many times.
fn constants(count: usize) -> Vec<u8> {
    body(&[], &[0x41, 0x00, 0x1a].repeat(count))
}

/// A branch to `targets` places, which are the ends of `depth` blocks.
fn branch_table(depth: usize, targets: usize) -> Vec<u8> {
    let begin = [0x02, NO_RESULT].repeat(depth);
    let places = (0..=targets).flat_map(|i| leb(i % depth));
    let places: Vec<u8> = places.collect();
    let table = [vec![0x41, 0x00, 0x0e], leb(targets), places].concat();
    body(&[], &[begin, table, vec![END; depth]].concat())
}

/// A module whose `_start` has so many names besides.
fn exports(count: usize) -> Vec<u8> {
    let named = |name: String| [leb(name.len()), name.into_bytes(), vec![0, 0]].concat();
    let others = (0..count).flat_map(|i| named(format!("e{i}")));
    let all = [leb(count + 1), named("_start".into()), others.collect()].concat();
    module(vec![(7, all)])
}

/// Calls a function of so many results so many times, and drops none of them.
fn many_results(results: usize, calls: usize) -> Vec<u8> {
    let types = [
        &b"\x02\x60\x00\x00\x60\x00"[..],
        &leb(results),
        &vec![I32; results],
    ]
    .concat();
    let start = body(&[], &[[0x10, 0x01].repeat(calls), vec![0x00]].concat());
    let returned = body(&[], &[0x41, 0x00].repeat(results));
    let code = [start, returned]
        .map(|body| [leb(body.len()), body].concat())
        .concat();
    module(vec![
        (1, types),
        (3, b"\x02\x00\x01".to_vec()),
        (10, [leb(2), code].concat()),
    ])
}

/// A component with a type that is a pair of a type that is a pair, and so on.
fn types_of_types(depth: usize) -> Vec<u8> {
    let pairs: String = (1..=depth)
        .map(|i| format!("(type $t{i} (tuple $t{before} $t{before}))", before = i - 1))
        .collect();
    let imports = format!(
        r#"(type $t0 (tuple u8 u8)) {pairs}
        (import "wasi:io/error@0.2.3" (instance (alias outer 1 $t{depth} (type $t)) (export "t" (type (eq $t)))))"#
    );
    run(&imports)
}

/// A component that makes some instances of a component that makes as many of another, and so on.
fn instances_of_instances(depth: usize, each: usize) -> Vec<u8> {
    let mut all = "(core module $m) (core instance (instantiate $m))".to_owned();
    for _ in 0..depth - 1 {
        all = format!(
            "(component $c {all}) {}",
            "(instance (instantiate $c))".repeat(each)
        );
    }
    run(&all)
}

/// A component that is run, with these parts before.
fn run(parts: &str) -> Vec<u8> {
    component(
        parts,
        "",
        r#"(func (export "run") (result i32) (i32.const 0))"#,
        "",
    )
}

/// A number as Wasm writes it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
