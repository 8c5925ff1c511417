//! The API through its front door: a real server on a port, real records, a real distribution in a temporary folder.
//!
//! Compile children are shell scripts, told by the first line of an upload how to behave: what makes native code is
//! not this crate's matter, and the whole-platform tests have the real one.

mod artifacts;
mod certificates;
mod changes;
mod deployments;
mod description;
mod operators;
mod requests;
mod secrets;
mod stores;
mod tenant_limits;
mod tenants;
mod tokens;

use std::sync::atomic::{AtomicU64, Ordering};

use capabilities::kv::embedded::{Stores, StoresError};
use distribution::embedded::Embedded;
use distribution::{Distribution, NodeReport};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use model::api::{CreatedToken, Deployed, NodeStatus, Problem};
use model::{AppLimits, BuildKey, CpuClass, Digest, EngineSetting, limits};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::control::Control;
use crate::settings::{ControlSettings, PublicUrl};

/// What an upload's first line makes the child do; else it hands the rest back as native code.
const CHILD: &str = r#"
read -r first
case "$first" in
refuse) printf '{"refused":{"code":"not-wasm","text":"it is not wasm"}}'; exit 0;;
spin) kill -XCPU $$;;
slow) sleep 0.3;;
denied) imports='{"standing":"denied","name":"wasi:sockets/tcp@0.2.0"}';;
esac
cat >&3
printf '{"compiled":{"inspection":{"kind":"http-component","componentized":false,"imports":[%s],"exports":[]},' "$imports"
printf '"build":{"engine":"test","setting":"a","cpu":"x86-64-v2"},"native_bytes":%d}}' "$(wc -c </proc/self/fd/3)"
"#;

/// A platform of this test's own.
struct Api {
    folder: TempDir,
    clock: Arc<AtomicU64>,
    control: Control,
    distribution: Arc<Embedded>,
    address: std::net::SocketAddr,
    admin: String,
    shutdown: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
}

/// A reply, read to its end.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn json<T: DeserializeOwned>(&self) -> T {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn ok<T: DeserializeOwned>(&self) -> T {
        let text = String::from_utf8_lossy(&self.body);
        assert!((200..300).contains(&self.status), "{}: {text}", self.status);
        self.json()
    }

    /// The code of a problem, with all that belongs to one.
    #[track_caller]
    fn problem(&self, status: u16, code: &str) -> String {
        let problem: Problem = self.json();
        assert_eq!(
            (self.status, problem.code.as_str()),
            (status, code),
            "{problem:?}"
        );
        assert_eq!(problem.status, status);
        assert_eq!(problem.kind, format!("urn:midge:problem:{code}"));
        assert_eq!(self.headers["content-type"], "application/problem+json");
        problem.detail
    }
}

fn settings(data: &std::path::Path) -> ControlSettings {
    ControlSettings {
        data: data.to_owned(),
        domain: "localhost".parse().unwrap(),
        ceiling: AppLimits::CEILING,
        versions_kept: 3,
        wasm_limit: model::Size::mib(1),
        compile_command: ["/bin/sh", "-c", CHILD].map(Into::into).to_vec(),
        build: vec![BuildKey {
            engine: "test".into(),
            setting: EngineSetting::A,
            cpu: CpuClass::X86_64V2,
        }],
        public: PublicUrl {
            scheme: "http".into(),
            port: 8080,
        },
        open_metrics: false,
        metrics: Arc::new(|| "node_metric 1\n".into()),
        usage: Arc::new(|| {
            vec![
                used("default", "shop"),
                used("default", "blog"),
                used("bob", "shop"),
            ]
        }),
        kv: stores(&data.join("stores")),
        secrets: tokio::sync::watch::Sender::default(),
        node_limits: crate::settings::NodeLimits::default(),
        tenant_limits: tokio::sync::watch::Sender::default(),
        notice: Arc::new(|_| ()),
    }
}

/// The stores in a folder, once whoever had them open has let go of them.
fn stores(folder: &std::path::Path) -> Arc<Stores> {
    loop {
        match Stores::open(folder, model::Size::mib(1), Arc::new(crate::system_time)) {
            Ok(stores) => return Arc::new(stores),
            Err(StoresError::InUse) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What an app did and used, as a node says it.
fn used(tenant: &str, app: &str) -> model::api::AppUsage {
    model::api::AppUsage {
        tenant: tenant.parse().unwrap(),
        app: app.parse().unwrap(),
        requests: 3,
        app_errors: 2,
        platform_errors: 1,
        cpu_us: 4,
        memory_peak_bytes: 5,
        bytes_in: 6,
        bytes_out: 7,
        latency: vec![0, 3],
        latency_sum_us: 50,
        latency_max_us: 30,
    }
}

impl Api {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(folder: TempDir) -> Self {
        Self::start_with(folder, |_| ()).await
    }

    async fn start_with(folder: TempDir, change: impl FnOnce(&mut ControlSettings)) -> Self {
        let mut settings = settings(&folder.path().join("data"));
        change(&mut settings);
        let distribution = Arc::new(Embedded::new(folder.path().join("artifacts")).unwrap());
        let clock = Arc::new(AtomicU64::new(1_800_000_000_000));
        let ticks = clock.clone();
        let now = Arc::new(move || ticks.load(Ordering::Relaxed));
        let control = Control::open_at(settings, distribution.clone(), now)
            .await
            .unwrap();
        let file = folder.path().join("admin.token");
        control.admin_token(&file).await.unwrap();
        let admin = std::fs::read_to_string(file).unwrap().trim().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, stopped) = oneshot::channel();
        let serving = control.clone();
        let served = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serving.serve(listener, stopped).await;
        });
        Self {
            folder,
            clock,
            control,
            distribution,
            address,
            admin,
            shutdown: Some(shutdown),
            served: Some(served),
        }
    }

    /// Stops it in order, and gives back the folder.
    async fn stop(mut self) -> TempDir {
        drop(self.shutdown.take());
        self.served.take().unwrap().await.unwrap();
        self.control.close().await;
        self.folder
    }

    fn platform(&self) -> &Arc<Platform> {
        self.control.platform()
    }

    fn pass(&self, time: model::Millis) {
        self.clock.fetch_add(time.0, Ordering::Relaxed);
    }

    async fn send(&self, request: http::Request<Full<bytes::Bytes>>) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes().to_vec(),
        }
    }

    /// A request as `headers` (`name: value` lines) and body say, with nothing added but the host.
    async fn raw(&self, line: &str, headers: &[&str], body: impl Into<Vec<u8>>) -> Reply {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = http::Request::builder().method(method).uri(path);
        request = request.header("host", "api");
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let body = Full::new(bytes::Bytes::from(body.into()));
        self.send(request.body(body).unwrap()).await
    }

    async fn get(&self, path: &str) -> Reply {
        let admin = bearer(&self.admin);
        self.raw(&format!("GET {path}"), &[&admin], "").await
    }

    async fn delete(&self, path: &str) -> Reply {
        let admin = bearer(&self.admin);
        self.raw(&format!("DELETE {path}"), &[&admin], "").await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.post_as(&self.admin, path, body).await
    }

    async fn post_as(&self, token: &str, path: &str, body: Value) -> Reply {
        let headers = [&bearer(token)[..], "content-type: application/json"];
        self.raw(&format!("POST {path}"), &headers, body.to_string())
            .await
    }

    async fn upload(&self, content: &str) -> Digest {
        let digest = Digest::of(content.as_bytes());
        let line = format!("PUT /v1/tenants/default/artifacts/{digest}");
        let headers = [&bearer(&self.admin)[..], "content-type: application/wasm"];
        let reply = self.raw(&line, &headers, content).await;
        assert_eq!(reply.status, 204, "{reply:?}");
        digest
    }

    /// Uploads and makes a version; its number.
    async fn version(&self, app: &str, content: &str) -> u64 {
        let manifest = json!({ "name": app });
        let reply = self.try_version(app, content, manifest).await;
        reply.ok::<Value>()["number"].as_u64().unwrap()
    }

    async fn try_version(&self, app: &str, content: &str, manifest: Value) -> Reply {
        let wasm = self.upload(content).await;
        let path = format!("/v1/tenants/default/apps/{app}/versions");
        self.post(&path, json!({ "manifest": manifest, "wasm": wasm }))
            .await
    }

    async fn try_deploy(&self, app: &str, body: Value) -> Reply {
        let path = format!("/v1/tenants/default/apps/{app}/deployments");
        self.post(&path, body).await
    }

    async fn deploy(&self, app: &str, version: u64) -> Deployed {
        let body = json!({ "version": version, "cause": "deploy", "wait": "0ms" });
        self.try_deploy(app, body).await.ok()
    }

    async fn token(&self, scope: Value) -> CreatedToken {
        let body = json!({ "label": "test", "scope": scope });
        self.post("/v1/tokens", body).await.ok()
    }

    async fn tenant(&self, name: &str) {
        let made = self.post("/v1/tenants", json!({ "name": name })).await;
        assert_eq!(made.status, 201, "{made:?}");
    }

    fn report(&self, generation: u64, refusals: &[&str]) {
        self.distribution.report(NodeReport {
            status: NodeStatus {
                name: "a".into(),
                generation,
                secrets: generation,
                limits: generation,
                workers: 1,
                worker_restarts: 0,
                listen: "127.0.0.1:8080".into(),
            },
            refusals: refusals.iter().map(|text| text.to_string()).collect(),
        });
    }
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

/// The names in a folder.
fn names(folder: &std::path::Path) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
