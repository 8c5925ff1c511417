//! A platform under attack: a neighbour is served all the while, and what must hold afterwards is looked at.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::{DeploymentCause, Version};
use serde_json::Value;
use tests::load::Always;
use tests::{Load, Platform, bare, guest};

/// What an upload may be refused for that asks for too much: docs/guide/errors.md.
const REFUSALS: [&str; 7] = [
    "wasm-limit",
    "invalid-wasm",
    "unknown-import",
    "not-compilable",
    "compile-cpu-limit",
    "compile-memory-limit",
    "compile-output-limit",
];

pub struct Siege {
    pub platform: Platform,
    neighbour: Load,
    workers: Vec<u32>,
}

impl Siege {
    pub fn begin() -> Self {
        Self::configured("")
    }

    /// With lines of `midge.config.toml`.
    pub fn configured(config: &str) -> Self {
        let platform = Platform::configured(config);
        platform.deploy("hello", &guest("hello"));
        let host = platform.host("hello");
        let pause = Duration::from_millis(2);
        let always = Arc::new(Always("Hello, Midge!\n"));
        let neighbour = Load::start(platform.listen, &host, "/", 2, pause, always);
        tests::eventually("the neighbour is served", || {
            (neighbour.requests() > 20).then_some(())
        });
        let workers = platform.workers();
        Self {
            platform,
            neighbour,
            workers,
        }
    }

    /// Deploys a guest and asks it three times: each time it fails with `code`, which its metric counts and its log
    /// explains; nothing that it opened stays open.
    #[track_caller]
    pub fn fails(&self, app: &str, wasm: &[u8], limits: &str, status: u16, code: &str) {
        let platform = &self.platform;
        let open = self.descriptors();
        platform.deploy_with(app, wasm, limits);
        for _ in 0..3 {
            let reply = platform.get(app, "/");
            assert_eq!(
                (reply.status(), reply.header("midge-error")),
                (status, Some(code)),
                "{app}: {}\n{}",
                reply.text(),
                self.log(app)
            );
        }
        // A worker that has loaded an app keeps its file open.
        let open = open + self.workers.len();
        tests::eventually("descriptors are closed", || {
            (self.descriptors() <= open).then_some(())
        });
        self.told(app, code, 3);
    }

    /// Deploys a guest and asks it three times: each time it answers `text`.
    #[track_caller]
    pub fn answers(&self, app: &str, wasm: &[u8], limits: &str, text: &str) {
        self.platform.deploy_with(app, wasm, limits);
        for _ in 0..3 {
            let reply = self.platform.get(app, "/");
            let got = (reply.status(), reply.text());
            assert_eq!(got, (200, text.to_owned()), "{app}:\n{}", self.log(app));
        }
        self.told(app, "ok", 3);
    }

    /// Uploads what is refused with `code` and a detail that holds `part`.
    #[track_caller]
    pub fn refuses(&self, wasm: &[u8], code: &str, part: &str) {
        let answer = self.platform.api.publish_or_refuse(&bare("refused"), wasm);
        answer.refuses(422, code, part);
    }

    /// Uploads what is either refused with one of the codes there are for it, or is deployed and served without trouble.
    #[track_caller]
    pub fn deploys_or_is_refused(&self, app: &str, wasm: &[u8]) -> String {
        let answer = self.platform.api.publish_or_refuse(&bare(app), wasm);
        let code = answer.json["code"]
            .as_str()
            .unwrap_or("deployed")
            .to_owned();
        match answer.reply.status() {
            200 | 201 => {
                let version = answer.body::<Version>().number;
                let deploy = DeploymentCause::Deploy;
                self.platform.api.serve(app, version, deploy);
                let reply = self.platform.get(app, "/");
                assert!(
                    matches!(reply.header("midge-error"), None | Some("no-response")),
                    "{app}: {}",
                    reply.text()
                );
            }
            _ => assert!(
                REFUSALS.contains(&code.as_str()),
                "{app}: {}",
                answer.reply.text()
            ),
        }
        code
    }

    /// Waits until an app's metric has counted `count` requests that ended with `code`, and its log has told of one.
    #[track_caller]
    pub fn told(&self, app: &str, code: &str, count: usize) {
        tests::eventually(&format!("the log of `{app}` says `{code}`"), || {
            let ends = self.ends(app);
            ends.iter().any(|end| end["outcome"] == code).then_some(())
        });
        let labels = format!("tenant=\"default\",app=\"{app}\",outcome=\"{code}\"");
        let series = format!("midge_requests_total{{{labels}}}");
        tests::eventually(&series, || {
            (self.platform.metric(&series) == count as f64).then_some(())
        });
    }

    /// How the newest requests of an app ended, as its log says.
    pub fn ends(&self, app: &str) -> Vec<Value> {
        let records = self.records(app, "request");
        records
            .iter()
            .map(|record| record["done"].clone())
            .collect()
    }

    /// What the platform told an app's owner.
    pub fn reasons(&self, app: &str) -> String {
        let records = self.records(app, "platform");
        let texts = records.iter().filter_map(|record| record["text"].as_str());
        texts.map(|text| format!("{text}\n")).collect()
    }

    fn records(&self, app: &str, stream: &str) -> Vec<Value> {
        let path = format!("tenants/default/apps/{app}/logs?stream={stream}");
        let text = self.platform.api.get(&path).reply.text();
        let records = text.lines().map(serde_json::from_str);
        records
            .collect::<Result<_, _>>()
            .expect("a log is JSON lines")
    }

    /// An app's whole log.
    pub fn log(&self, app: &str) -> String {
        let path = format!("tenants/default/apps/{app}/logs");
        self.platform.api.get(&path).reply.text()
    }

    fn descriptors(&self) -> usize {
        let open = |worker: &u32| Path::new(&format!("/proc/{worker}/fd")).read_dir();
        let counts = self
            .workers
            .iter()
            .map(|worker| open(worker).map_or(0, Iterator::count));
        counts.sum()
    }

    /// The neighbour met no failure, the workers are the same as before, and every slot is free.
    #[track_caller]
    pub fn end(self) {
        self.neighbour.stop().is_clean();
        assert_eq!(self.platform.workers(), self.workers, "a worker died");
        assert_eq!(self.platform.metric("midge_worker_restarts_total"), 0.0);
        tests::eventually("every slot is free", || {
            (self.platform.metric("midge_live_instances") == 0.0).then_some(())
        });
    }
}

/// A command: `parts` of a module, and the body of its `_start`. `$say` answers `text`, and `$host` calls the host.
pub fn command(text: &str, parts: &str, start: &str) -> Vec<u8> {
    let answer = format!("Content-Type: text/plain\n\n{text}");
    let wat = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 1024) "{answer}")
            (func $say
                (i32.store (i32.const 0) (i32.const 1024))
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
            {parts}
            (func (export "_start") {start}))"#,
        length = answer.len(),
        answer = answer.replace('\n', "\\n"),
    );
    wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))
}

/// A `wasi:cli/run` component whose core module has these `parts`; `imports` come before it, `arguments` are what it is
/// instantiated with. Its function `run` takes nothing and returns whether it failed, as a number.
pub fn component(imports: &str, arguments: &str, parts: &str, lift: &str) -> Vec<u8> {
    let wat = format!(
        r#"(component
            {imports}
            (core module $main {parts})
            (core instance $main (instantiate $main {arguments}))
            (func $run (result (result)) (canon lift (core func $main "run") {lift}))
            (instance $run (export "run" (func $run)))
            (export "wasi:cli/run@0.2.3" (instance $run)))"#
    );
    wat::parse_str(&wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))
}
