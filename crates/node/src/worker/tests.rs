//! A worker as its supervisor and its clients see it: a real pipe, a real socket, a real guest.

use std::io::{Seek, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;

use capabilities::kv::embedded::{self, Clock, StoresError};
use model::pipe::{EgressSettings, Ending, ToSupervisor, ToWorker, WorkerMetrics, WorkerSettings};
use model::{
    AppLimits, Change, Digest, Entry, Granted, GuestKind, LogRecord, LogStream, Millis, Outcome,
    PathPrefix, Replies, Route, Size, VersionNumber,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::pipe::{self, Frame, PipeError, Reader, Writer};

/// The test is the supervisor.
struct Supervised {
    reader: Reader,
    writer: Writer,
    address: SocketAddr,
    /// A supervisor keeps its sockets open.
    _socket: std::net::TcpListener,
    /// Where its stores lie, and their keeper's end of the way to them.
    _stores: (tempfile::TempDir, OwnedFd),
    thread: JoinHandle<ExitCode>,
    generation: u64,
    logs: Vec<LogRecord>,
    metrics: WorkerMetrics,
}

/// A folder with stores that hold nothing, which nobody has open.
fn stores() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let clock = || -> Clock { Arc::new(|| 0) };
    drop(embedded::Stores::open(folder.path(), Size::mib(1), clock()).unwrap());
    // Their writer lets go of them in a moment.
    while let Err(error) = embedded::Reader::open(folder.path(), clock()) {
        assert!(matches!(error, StoresError::InUse), "{error}");
        std::thread::yield_now();
    }
    folder
}

impl Supervised {
    async fn start() -> Self {
        let (ours, theirs) = pipe::pair().unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (reader, mut writer) = pipe::open(ours).unwrap();
        let settings = WorkerSettings {
            slot: 0,
            core: None,
            domain: "localhost".parse().unwrap(),
            memory_ceiling: Size::mib(16),
            slots: 8,
            tenant_slots: 8,
            resident: 2,
            connections: 100,
            trust_forwarded: false,
            egress: EgressSettings::default(),
            default_host: None,
            proxy_protocol: false,
            tls: 0,
            traces: None,
        };
        let start = ToWorker::Start(settings);
        writer.send(&start, &[socket.as_fd()]).await.unwrap();
        let stores = stores();
        let (kept, lent) = pipe::pair().unwrap();
        let message = ToWorker::Stores(stores.path().to_string_lossy().into_owned());
        writer.send(&message, &[lent.as_fd()]).await.unwrap();
        let mut supervised = Self {
            reader,
            writer,
            address: socket.local_addr().unwrap(),
            _socket: socket,
            _stores: (stores, kept),
            thread: std::thread::spawn(move || super::worker(theirs)),
            generation: 0,
            logs: Vec::new(),
            metrics: WorkerMetrics::default(),
        };
        let ready = supervised.hear().await.unwrap();
        assert!(matches!(ready, ToSupervisor::Ready), "{ready:?}");
        supervised
    }

    /// The next message but metrics, which are kept, as log lines are.
    async fn hear(&mut self) -> Result<ToSupervisor, PipeError> {
        loop {
            match self.reader.receive().await? {
                Frame::Message {
                    message: ToSupervisor::Metrics(metrics),
                    ..
                } => self.metrics = *metrics,
                Frame::Message { message, .. } => return Ok(message),
                Frame::Logs(lines) => {
                    let lines = std::str::from_utf8(&lines).unwrap().lines();
                    let json = lines.map(|line| line.split_once('\t').unwrap().1);
                    self.logs
                        .extend(json.map(|json| serde_json::from_str::<LogRecord>(json).unwrap()));
                }
            }
        }
    }

    /// It says that no connection takes another request, then that all are done.
    async fn is_drained(&mut self) {
        let heard = [self.hear().await.unwrap(), self.hear().await.unwrap()];
        assert!(
            matches!(heard, [ToSupervisor::Settled, ToSupervisor::Drained]),
            "{heard:?}"
        );
    }

    async fn apply(&mut self, changes: Vec<Change>) {
        self.generation += 1;
        // In two messages: the first half of a generation is not seen.
        let (first, rest) = changes.split_at(changes.len() / 2);
        for (changes, complete) in [(first, false), (rest, true)] {
            let apply = ToWorker::Apply {
                generation: self.generation,
                changes: changes.to_vec(),
                complete,
            };
            self.writer.send(&apply, &[]).await.unwrap();
        }
        match self.hear().await.unwrap() {
            ToSupervisor::Applied { generation } => assert_eq!(generation, self.generation),
            other => panic!("{other:?}"),
        }
    }

    /// Answers the worker's wish for native code.
    async fn give(&mut self, native: Result<OwnedFd, &str>) {
        let ToSupervisor::WantNative { wasm, setting } = self.hear().await.unwrap() else {
            panic!("nothing is wanted");
        };
        let answer = ToWorker::Native {
            wasm,
            setting,
            refused: native.as_ref().err().map(|refusal| (*refusal).to_owned()),
        };
        let carried: Vec<_> = native.iter().map(AsFd::as_fd).collect();
        self.writer.send(&answer, &carried).await.unwrap();
    }

    /// Everything logged so far: what was said before a `Pong` and a moment after it.
    async fn logs(&mut self, count: usize) -> Vec<LogRecord> {
        let mut number = 0;
        while self.logs.len() < count {
            number += 1;
            self.writer
                .send(&ToWorker::Ping(number), &[])
                .await
                .unwrap();
            let pong = self.hear().await.unwrap();
            assert!(
                matches!(pong, ToSupervisor::Pong(n) if n == number),
                "{pong:?}"
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        std::mem::take(&mut self.logs)
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What one connection answers to `request`, to its end.
    async fn ask(&self, request: &str) -> String {
        let mut client = self.client().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        // A reset after the reply is the end too.
        let _ = client.read_to_string(&mut reply).await;
        reply
    }

    async fn ends(mut self) -> (ExitCode, Vec<LogRecord>, WorkerMetrics) {
        while self.hear().await.is_ok() {}
        (self.thread.join().unwrap(), self.logs, self.metrics)
    }
}

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
}

fn put(app: &str, version: u32, wasm: &str) -> Change {
    Change::Put(Arc::new(Entry {
        id: format!("alice/{app}").parse().unwrap(),
        incarnations: Default::default(),
        version: VersionNumber::new(version).unwrap(),
        revision: version.into(),
        kind: GuestKind::CommandModule,
        wasm: Digest::of(wasm.as_bytes()),
        routes: vec![Route {
            host: format!("{app}.test").parse().unwrap(),
            path: PathPrefix::root(),
        }],
        grant: Granted::default(),
        limits: AppLimits {
            cpu: Millis::secs(30),
            ..AppLimits::default()
        },
        reply: Replies::default(),
        reuse: None,
    }))
}

/// Native code of a command that runs for as long as it may.
fn runs_on() -> Result<OwnedFd, &'static str> {
    compiled(r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#)
}

/// Native code of a command that prints `text` and does nothing else.
fn prints(text: &str) -> Result<OwnedFd, &'static str> {
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let wat = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{escaped}")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const {}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
        text.len()
    );
    compiled(&wat)
}

fn compiled(wat: &str) -> Result<OwnedFd, &'static str> {
    let (_, _, native) = runtime::compile::compile(&wat::parse_str(wat).unwrap()).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&native).unwrap();
    file.rewind().unwrap();
    Ok(file.into())
}

fn status(reply: &str) -> &str {
    reply.lines().next().unwrap_or("").get(9..12).unwrap_or("")
}

#[tokio::test]
async fn an_app_answers_from_its_own_code_and_leaves_a_line() {
    let mut worker = Supervised::start().await;
    worker
        .apply(vec![
            put("shop", 1, "one"),
            put("other", 1, "one"),
            put("broken", 1, "none"),
        ])
        .await;

    let request = get("Shop.test:80", "/a?secret=1");
    let mut client = worker.client().await;
    client.write_all(request.as_bytes()).await.unwrap();
    worker
        .give(prints("content-type: text/plain\n\nhello"))
        .await;
    let mut reply = String::new();
    client.read_to_string(&mut reply).await.unwrap();
    assert_eq!(status(&reply), "200", "{reply}");
    assert!(reply.contains("hello"), "{reply}");
    let id = reply.split("midge-request-id: ").nth(1).unwrap();

    let line = worker.logs(1).await.remove(0);
    assert_eq!(line.request, id[..26]);
    let done = line.done.unwrap();
    assert_eq!(
        (done.method.as_str(), done.host.as_str(), done.path.as_str()),
        ("GET", "shop.test", "/a")
    );
    assert_eq!(
        (done.status, done.outcome, done.cold),
        (200, Outcome::Ok, true)
    );
    assert_eq!(
        (done.client.as_str(), done.usage.bytes_out),
        ("127.0.0.1", 5)
    );
    assert!(done.usage.wall_us >= done.usage.cpu_us && done.usage.cpu_us > 0);

    // Another app of the same upload finds it loaded.
    let reply = worker.ask(&get("other.test", "/")).await;
    assert!(reply.contains("hello"), "{reply}");
    assert!(!worker.logs(1).await[0].done.as_ref().unwrap().cold);

    let mut client = worker.client().await;
    client
        .write_all(get("broken.test", "/").as_bytes())
        .await
        .unwrap();
    worker.give(Err("its signature is another's")).await;
    let mut reply = String::new();
    client.read_to_string(&mut reply).await.unwrap();
    assert_eq!(status(&reply), "503");
    assert!(reply.contains("midge-error: unavailable"), "{reply}");
    let lines = worker.logs(2).await;
    assert_eq!(lines[0].stream, LogStream::Platform);
    assert_eq!(
        lines[0].text,
        "`broken` version 1 cannot run: the native code was refused: its signature is another's"
    );
    assert_eq!(
        lines[1].done.as_ref().unwrap().outcome,
        Outcome::Unavailable
    );
}

#[tokio::test]
async fn what_is_sent_after_applied_meets_the_new_version_on_an_old_connection_too() {
    let mut worker = Supervised::start().await;
    worker.apply(vec![put("shop", 1, "one")]).await;
    let mut client = worker.client().await;
    let request = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";
    for (version, wasm) in [(1, "one"), (2, "two"), (3, "one"), (4, "two")] {
        worker.apply(vec![put("shop", version, wasm)]).await;
        client.write_all(request.as_bytes()).await.unwrap();
        if version <= 2 {
            worker.give(prints(&format!("\n{wasm}"))).await;
        }
        let mut reply = vec![0; 4096];
        let mut length = 0;
        while !String::from_utf8_lossy(&reply[..length]).contains(wasm) {
            let read = client.read(&mut reply[length..]).await.unwrap();
            assert!(read > 0);
            length += read;
        }
        if reply[..length].windows(7).any(|w| w == b"chunked") {
            while !reply[..length].ends_with(b"0\r\n\r\n") {
                length += client.read(&mut reply[length..]).await.unwrap();
            }
        }
        let line = worker.logs(1).await.remove(0);
        assert_eq!(line.version.as_u32(), version);
    }
}

#[tokio::test]
async fn what_is_no_request_gets_one_reply_and_no_guest() {
    let mut worker = Supervised::start().await;
    worker.apply(vec![put("shop", 1, "one")]).await;
    let many: String = (0..100).map(|i| format!("x-{i}: 1\r\n")).collect();
    let cases = [
        (
            "GET / HTTP/1.1\r\nhost: nobody.test\r\nconnection: close\r\n\r\n",
            "404",
            "not-found",
        ),
        ("GET / HTTP/1.1\r\n\r\nGET /smuggled", "400", "bad-request"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
            "400",
            "bad-request",
        ),
        (
            "GET http://u@shop.test/ HTTP/1.1\r\nhost: shop.test\r\n\r\n",
            "400",
            "bad-request",
        ),
        (
            "CONNECT shop.test:80 HTTP/1.1\r\nhost: shop.test\r\n\r\n",
            "400",
            "bad-request",
        ),
        (
            "POST / HTTP/1.1\r\nhost: shop.test\r\nexpect: cake\r\n\r\n",
            "417",
            "expectation-failed",
        ),
        (
            "POST / HTTP/1.1\r\nhost: shop.test\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "400",
            "bad-request",
        ),
        // These hyper refuses.
        (
            "GET / HTTP/1.1\r\nhost : shop.test\r\n\r\n",
            "400",
            "bad-request",
        ),
        (
            "GET / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: +5\r\n\r\n12345",
            "400",
            "bad-request",
        ),
        (
            &format!("GET / HTTP/1.1\r\nhost: shop.test\r\n{many}\r\n"),
            "431",
            "headers-too-large",
        ),
        (
            &format!(
                "GET / HTTP/1.1\r\nhost: shop.test\r\nx: {}\r\n\r\n",
                "x".repeat(66_000)
            ),
            "431",
            "headers-too-large",
        ),
        (
            &format!(
                "GET /{} HTTP/1.1\r\nhost: shop.test\r\n\r\n",
                "x".repeat(20_000)
            ),
            "414",
            "target-too-long",
        ),
    ];
    for (request, expected, code) in cases {
        let reply = worker.ask(request).await;
        let begin: String = request.chars().take(60).collect();
        assert_eq!(status(&reply), expected, "{begin} → {reply}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{begin} → {reply}");
        assert!(
            reply.contains(&format!("midge-error: {code}")),
            "{begin} → {reply}"
        );
        assert!(reply.contains("midge-request-id: "), "{begin} → {reply}");
    }
    worker
        .writer
        .send(
            &ToWorker::Drain {
                grace: Millis::secs(5),
                ending: Ending::Close,
            },
            &[],
        )
        .await
        .unwrap();
    worker.is_drained().await;
    let (code, logs, metrics) = worker.ends().await;
    assert_eq!(code, ExitCode::SUCCESS);
    assert!(logs.is_empty());
    let counted = |outcome| {
        metrics
            .unrouted
            .iter()
            .find(|(o, _)| *o == outcome)
            .map(|(_, n)| *n)
    };
    assert_eq!(counted(Outcome::NotFound), Some(1));
    assert_eq!(counted(Outcome::BadRequest), Some(7));
    assert_eq!(counted(Outcome::HeadersTooLarge), Some(2));
    assert_eq!(metrics.connections, 0);
}

#[tokio::test]
async fn a_worker_ends_with_its_supervisor() {
    let worker = Supervised::start().await;
    let Supervised {
        reader,
        writer,
        thread,
        ..
    } = worker;
    drop((reader, writer));
    let code = tokio::task::spawn_blocking(|| thread.join().unwrap());
    assert_eq!(code.await.unwrap(), ExitCode::SUCCESS);
}

#[tokio::test]
async fn draining_finishes_what_is_in_flight_and_leaves_the_queue_alone() {
    let mut worker = Supervised::start().await;
    worker.apply(vec![put("shop", 1, "one")]).await;
    let mut idle = worker.client().await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: nobody.test\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    let mut client = worker.client().await;
    client
        .write_all(get("shop.test", "/").as_bytes())
        .await
        .unwrap();
    let ToSupervisor::WantNative { wasm, setting } = worker.hear().await.unwrap() else {
        panic!("nothing is wanted");
    };
    worker
        .writer
        .send(
            &ToWorker::Drain {
                grace: Millis::secs(5),
                ending: Ending::Close,
            },
            &[],
        )
        .await
        .unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();

    // Nobody accepts this one here, and nobody refuses it: it waits in the socket that the supervisor keeps.
    let late = worker.client().await;
    let native = prints("\nlast").unwrap();
    let answer = ToWorker::Native {
        wasm,
        setting,
        refused: None,
    };
    worker
        .writer
        .send(&answer, &[native.as_fd()])
        .await
        .unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).await.unwrap();
    assert!(status(&reply) == "200" && reply.contains("last"), "{reply}");
    worker.is_drained().await;
    let (accepted, _) = worker._socket.accept().unwrap();
    assert_eq!(accepted.peer_addr().unwrap(), late.local_addr().unwrap());
    let (code, logs, _) = worker.ends().await;
    assert_eq!((code, logs.len()), (ExitCode::SUCCESS, 1));
}

#[tokio::test]
async fn a_client_that_goes_takes_its_guest_along() {
    let mut worker = Supervised::start().await;
    worker.apply(vec![put("busy", 1, "busy")]).await;
    let mut client = worker.client().await;
    client
        .write_all(get("busy.test", "/").as_bytes())
        .await
        .unwrap();
    worker.give(runs_on()).await;
    // A busy guest stops no other: this one is answered meanwhile.
    let reply = worker.ask(&get("nobody.test", "/")).await;
    assert_eq!(status(&reply), "404");
    drop(client);
    let line = worker.logs(1).await.remove(0).done.unwrap();
    assert_eq!((line.outcome, line.status), (Outcome::ClientGone, 0));
    assert!(line.usage.cpu_us > 0 && line.usage.wall_us < 5_000_000);
}
