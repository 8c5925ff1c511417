//! One invocation from its request to its reply, its outcome and its owner's log.

use super::*;
use std::io::{Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use http_body_util::BodyExt as _;
use model::{
    AppLimits, Digest, EngineSetting, Granted, GuestKind, Millis, Replies, Size, VersionNumber,
};

use crate::{Pool, PoolSettings};

#[derive(Default)]
struct Notes {
    lines: Arc<Said>,
    ended: Mutex<Option<Ended>>,
}

#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl LineSink for Said {
    fn line(&self, _: LogStream, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Observer for Notes {
    fn lines(&self) -> Arc<dyn LineSink> {
        self.lines.clone()
    }
    fn ended(&self, ended: Ended) {
        assert!(
            self.ended.lock().unwrap().replace(ended).is_none(),
            "an end is told once"
        );
    }
    fn overhead(&self) -> Arc<dyn Overhead> {
        unreachable!("none of these instances is reused")
    }
}

fn native(wat: &str) -> OwnedFd {
    let compiler = crate::engine::compiling(EngineSetting::A).unwrap();
    let native = compiler
        .precompile_module(&wat::parse_str(wat).unwrap())
        .unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&native).unwrap();
    file.rewind().unwrap();
    file.into()
}

/// A command whose `_start` has the body `start`, with `text` at address 64 and helpers to print and exit.
fn command(text: &str, start: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{text}")
            (func $print
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
            (func (export "_start") {start}))"#,
        length = text.replace("\\n", "n").len(),
    )
}

async fn trial(wat: &str, limits: AppLimits) -> (Result<String, Outcome>, Ended, Vec<String>) {
    let (_folder, backends) = crate::engine::empty_backends();
    let pool = PoolSettings {
        slots: 4,
        memory: Size::mib(16),
    };
    let engine = Engine::for_worker(pool, backends).unwrap();
    // SAFETY: the code was made right here.
    let code = unsafe { Code::load(&engine, GuestKind::CommandModule, native(wat)) }.unwrap();
    let pool = Pool::new(1, 1);
    let notes = Arc::new(Notes::default());
    let entry = Entry {
        id: "alice/shop".parse().unwrap(),
        incarnations: Default::default(),
        version: VersionNumber::new(1).unwrap(),
        revision: 1,
        kind: GuestKind::CommandModule,
        wasm: Digest::of(b""),
        routes: Vec::new(),
        grant: Granted::default(),
        limits,
        reply: Replies::default(),
        reuse: None,
    };
    let local = tokio::task::LocalSet::new();
    let reply = local
        .run_until(async {
            let invocation = Invocation {
                slot: pool.acquire(&entry.id.tenant).await.unwrap(),
                entry: Arc::new(entry),
                code: Arc::new(code),
                request: http::Request::new(None),
                facts: Facts {
                    hops: 0,
                    request_id: "0".repeat(26),
                    scheme: "http",
                    authority: "shop.localhost:8080".into(),
                    client: "127.0.0.1:1".parse().unwrap(),
                    server: "127.0.0.1:2".parse().unwrap(),
                },
                observer: notes.clone(),
                tracer: None,
                began: Instant::now(),
            };
            let response = run(&engine, &Instances::default(), invocation).await?;
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|Truncated(outcome)| outcome)?;
            Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
        })
        .await;
    local.await;
    assert_eq!(pool.live(), 0, "the slot is back");
    let ended = notes
        .ended
        .lock()
        .unwrap()
        .take()
        .expect("the end was told");
    let lines = std::mem::take(&mut *notes.lines.0.lock().unwrap());
    (reply, ended, lines)
}

const HELLO: &str = "content-type: text/plain\\n\\nhello";

#[tokio::test]
async fn a_command_answers_with_what_it_prints() {
    let (reply, ended, _) = trial(&command(HELLO, "(call $print)"), AppLimits::default()).await;
    assert_eq!(reply, Ok("hello".into()));
    assert_eq!(ended.outcome, Outcome::Ok);
    assert_eq!(ended.usage.memory_bytes, 65536);
    let (reply, ..) = trial(
        &command(HELLO, "(call $print) (call $exit (i32.const 0))"),
        AppLimits::default(),
    )
    .await;
    assert_eq!(reply, Ok("hello".into()));
}

#[tokio::test]
async fn every_failure_has_its_outcome_and_a_line_for_the_owner() {
    let check = async |text: &str, start: &str, expected: Outcome, part: &str| {
        let (reply, ended, lines) = trial(&command(text, start), AppLimits::default()).await;
        assert_eq!(reply, Err(expected), "{start}");
        assert_eq!(ended.outcome, expected, "{start}");
        assert!(
            lines.iter().any(|line| line.contains(part)),
            "{start}: {lines:?}"
        );
    };
    check("", "", Outcome::NoResponse, "wrote nothing").await;
    check("hello", "(call $print)", Outcome::BadResponse, "blank line").await;
    check(
        "hello\\n\\n",
        "(call $print)",
        Outcome::BadResponse,
        "hello",
    )
    .await;
    check("", "unreachable", Outcome::Trap, "unreachable").await;
    check("", "(call $exit (i32.const 3))", Outcome::Trap, "status 3").await;
    check("", "(loop (br 0))", Outcome::CpuLimit, "limits.cpu").await;
    check(
        HELLO,
        "(call $print) (loop (br 0))",
        Outcome::CpuLimit,
        "limits.cpu",
    )
    .await;
    check(
        HELLO,
        "(call $print) unreachable",
        Outcome::Trap,
        "unreachable",
    )
    .await;
}

/// Calls functions of preview 1 and prints `errno` digits of what they return: the same whichever host serves them.
#[tokio::test]
async fn preview_1_is_the_same_before_and_after_the_stock_host_is_made() {
    let calls = |first: &str, then: &str| {
        format!(
            r#"(module
                (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
                (memory (export "memory") 1)
                (data (i32.const 64) "a: b\0a\0a")
                (data (i32.const 128) "00 ")
                (func $print (param $at i32) (param $length i32)
                    (i32.store (i32.const 0) (local.get $at))
                    (i32.store (i32.const 4) (local.get $length))
                    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
                    (if (i32.ne (i32.load (i32.const 8)) (local.get $length)) (then unreachable)))
                (func $say (param $number i32)
                    (i32.store8 (i32.const 128) (i32.add (i32.const 48) (i32.div_u (local.get $number) (i32.const 10))))
                    (i32.store8 (i32.const 129) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
                    (call $print (i32.const 128) (i32.const 3)))
                (func (export "_start")
                    {first}
                    (call $print (i32.const 64) (i32.const 6))
                    {then}
                    (call $say (call $fd_write (i32.const 9) (i32.const 0) (i32.const 1) (i32.const 8)))
                    (call $say (call $fd_prestat_get (i32.const 3) (i32.const 8)))
                    (call $say (call $sizes (i32.const 32) (i32.const 36)))
                    (call $say (call $environ (i32.const 1024) (i32.const 2048)))
                    ;; The first variable begins with `G`, and there are fewer than a hundred.
                    (call $say (i32.sub (i32.load8_u (i32.load (i32.const 1024))) (i32.const 71)))
                    (call $say (i32.lt_u (i32.load (i32.const 32)) (i32.const 100)))))"#
        )
    };
    let stock_first = "(drop (call $fd_fdstat_get (i32.const 1) (i32.const 256)))";
    let outside = [
        "(drop (call $fd_write (i32.const 1) (i32.const -4) (i32.const 1) (i32.const 8)))",
        "(i32.store (i32.const 16) (i32.const 65530)) (i32.store (i32.const 20) (i32.const 100))
         (drop (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))",
        "(drop (call $sizes (i32.const 65534) (i32.const 36)))",
        "(drop (call $environ (i32.const 1024) (i32.const 65500)))",
    ];
    for first in ["", stock_first] {
        let (reply, ended, lines) = trial(&calls(first, ""), AppLimits::default()).await;
        let expected = "08 08 00 00 00 01 ";
        assert_eq!(reply.as_deref(), Ok(expected), "{first} {lines:?}");
        assert_eq!(ended.outcome, Outcome::Ok);
        for then in outside {
            let (_, ended, lines) = trial(&calls(first, then), AppLimits::default()).await;
            assert_eq!(ended.outcome, Outcome::Trap, "{first} {then} {lines:?}");
        }
    }
}

#[tokio::test]
async fn the_whole_budget_may_be_used() {
    let limits = AppLimits {
        cpu: Millis(20),
        ..AppLimits::default()
    };
    let (_, ended, _) = trial(&command("", "(loop (br 0))"), limits).await;
    assert!(ended.usage.cpu_us >= 20_000, "{}", ended.usage.cpu_us);
}

#[tokio::test]
async fn memory_ends_at_the_limit() {
    let limits = AppLimits {
        memory: Size::mib(2),
        ..AppLimits::default()
    };
    let grow = "(if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then unreachable))";
    let (reply, ended, lines) = trial(&command("", grow), limits).await;
    assert_eq!(reply, Err(Outcome::MemoryLimit));
    assert_eq!(ended.usage.memory_bytes, 65536);
    assert!(lines[0].contains("limits.memory"), "{lines:?}");
}
