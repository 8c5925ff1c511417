//! What a guest's store holds: its capabilities and its limits, and nothing of anyone else's.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use capabilities::config::host::{ConfigData, ConfigView};
use capabilities::http::client::{Outbound, Sender};
use capabilities::http::host::{HttpContext, HttpData, HttpView};
use capabilities::kv::host::{KvContext, KvData, KvView};
use capabilities::logs::{LineSink, Lines};
use http::HeaderMap;
use model::{Entry, LogStream, Size, limits};
use tokio::sync::oneshot;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
};
use wasmtime_wasi_io::IoView;

use crate::Engine;
use crate::cgi::{Command, Stdout};
use crate::run::Facts;
use crate::vitals::{MemoryLimiter, Vitals};

/// A store's data.
pub struct Context {
    entry: Arc<Entry>,
    table: ResourceTable,
    /// Made when a guest first asks for it: many never do, and it costs about a microsecond.
    wasi: Option<WasiCtx>,
    /// The same, for a command module.
    preview1: Option<WasiP1Ctx>,
    /// What a command is started with; none for a handler.
    command: Option<Command>,
    pub http: HttpContext,
    pub memory: MemoryLimiter,
    pub vitals: Arc<Vitals>,
    sink: Arc<dyn LineSink>,
    output: Option<[Lines; 2]>,
    environment: Option<Vec<String>>,
    engine: Engine,
    /// Made when a guest first asks for a store.
    kv: Option<KvContext>,
}

impl Context {
    pub fn new(
        engine: Engine,
        entry: Arc<Entry>,
        http: HttpContext,
        vitals: Arc<Vitals>,
        sink: Arc<dyn LineSink>,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::RESOURCES.default as usize);
        Self {
            memory: MemoryLimiter::new(&entry.limits, vitals.clone()),
            entry,
            table,
            wasi: None,
            preview1: None,
            command: None,
            http,
            vitals,
            sink,
            output: None,
            environment: None,
            engine,
            kv: None,
        }
    }

    /// The store's data of a command.
    pub fn for_command(
        engine: Engine,
        entry: Arc<Entry>,
        command: Command,
        vitals: Arc<Vitals>,
        sink: Arc<dyn LineSink>,
    ) -> Self {
        // Commands answer on standard output: nobody listens to the other place.
        let http = HttpContext::new(
            oneshot::channel().0,
            outbound(&entry, &command.facts, &command.parts.headers),
        );
        let mut context = Self::new(engine, entry, http, vitals, sink);
        context.command = Some(command);
        context
    }

    /// The most that one call of the guest's copies to the host: a value for a store may be large.
    pub fn host_call_copy(&self) -> Size {
        let copy = limits::HOST_CALL_COPY.default;
        if self.entry.grant.kv.is_empty() {
            copy
        } else {
            Size(copy.0 + limits::KV_BATCH.default.0)
        }
    }

    /// WASI as every guest has it: its granted environment, coarse clocks, bounded randomness, its output to its log;
    /// no files, no sockets. A command has its request and its reply besides.
    fn wasi_builder(&mut self) -> WasiCtxBuilder {
        let [stdout, stderr] = self.output();
        let mut builder = WasiCtxBuilder::new();
        builder
            .stdout(stdout)
            .stderr(stderr)
            .max_random_size(limits::RANDOM.default.bytes())
            .wall_clock(CoarseClock::new())
            .monotonic_clock(CoarseClock::new())
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        if let Some(command) = &self.command {
            let (stdin, stdout) = (command.stdin(), command.stdout.clone());
            builder.arg("app").stdin(stdin).stdout(stdout);
        }
        for variable in self.environment() {
            let (name, value) = variable.split_once('=').expect("a variable has a name");
            builder.env(name, value);
        }
        builder
    }

    /// The guest's environment variables, each as `NAME=value`.
    pub fn environment(&mut self) -> &[String] {
        let granted = &self.entry.grant.env;
        let command = &self.command;
        self.environment.get_or_insert_with(|| {
            let granted = granted
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            granted
                .chain(command.iter().flat_map(Command::environment))
                .collect()
        })
    }

    /// The stock host of preview 1, made when it is first asked for.
    pub fn preview1(&mut self) -> &mut WasiP1Ctx {
        if self.preview1.is_none() {
            self.preview1 = Some(self.wasi_builder().build_p1());
        }
        self.preview1.as_mut().expect("it was made above")
    }

    pub fn has_preview1(&self) -> bool {
        self.preview1.is_some()
    }

    /// Where a command writes its reply.
    pub fn stdout(&self) -> Stdout {
        let command = self.command.as_ref();
        command
            .expect("only commands are linked with preview 1")
            .stdout
            .clone()
    }

    pub fn stderr(&mut self) -> Lines {
        let [_, stderr] = self.output();
        stderr
    }

    fn output(&mut self) -> [Lines; 2] {
        let sink = &self.sink;
        let streams = [LogStream::Stdout, LogStream::Stderr];
        self.output
            .get_or_insert_with(|| streams.map(|stream| Lines::new(sink.clone(), stream)))
            .clone()
    }
}

/// What an invocation that answers such a request may send.
pub fn outbound(entry: &Entry, facts: &Facts, headers: &HeaderMap) -> Outbound {
    if entry.grant.http.is_empty() {
        Outbound::default()
    } else {
        Outbound::caused_by(facts.hops, headers)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.output.iter().flatten().for_each(Lines::finish);
    }
}

impl IoView for Context {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        if self.wasi.is_none() {
            self.wasi = Some(self.wasi_builder().build());
        }
        let ctx = self.wasi.as_mut().expect("it was made above");
        WasiCtxView {
            ctx,
            table: &mut self.table,
        }
    }
}

impl HttpData for Context {
    fn http(&mut self) -> HttpView<'_> {
        HttpView {
            context: &mut self.http,
            table: &mut self.table,
            sender: Sender {
                app: &self.entry,
                client: &self.engine.backends().http,
                calls: self.vitals.calls(),
                lines: &self.sink,
            },
        }
    }
}

impl ConfigData for Context {
    fn config(&mut self) -> ConfigView<'_> {
        ConfigView {
            app: &self.entry,
            secrets: &self.engine.backends().secrets,
            calls: self.vitals.calls().map(|calls| &**calls),
        }
    }
}

impl KvData for Context {
    fn kv(&mut self) -> KvView<'_> {
        let reuse = self.entry.reuse.as_ref();
        let requests = reuse.map_or(1, |reuse| reuse.requests);
        let stores = &self.engine.backends().kv;
        let context = self
            .kv
            .get_or_insert_with(|| KvContext::new(stores.clone(), requests));
        KvView {
            context,
            table: &mut self.table,
            app: &self.entry,
            calls: self.vitals.calls().map(|calls| &**calls),
        }
    }
}

/// Clocks in steps of a millisecond: finer ones measure what a neighbour does.
struct CoarseClock(Instant);

const STEP: Duration = Duration::from_millis(1);

impl CoarseClock {
    fn new() -> Self {
        Self(Instant::now())
    }
}

impl HostWallClock for CoarseClock {
    fn resolution(&self) -> Duration {
        STEP
    }

    fn now(&self) -> Duration {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Duration::from_millis(now.as_millis() as u64)
    }
}

impl HostMonotonicClock for CoarseClock {
    fn resolution(&self) -> u64 {
        STEP.as_nanos() as u64
    }

    fn now(&self) -> u64 {
        self.0.elapsed().as_millis() as u64 * STEP.as_nanos() as u64
    }
}
