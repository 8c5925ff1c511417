//! The client against the real control plane, and against things that are none.

use std::sync::Arc;

use capabilities::kv::embedded::Stores;
use control::{Control, ControlSettings, PublicUrl};
use distribution::embedded::Embedded;
use model::api::{AppSummary, CreatedToken, Missing, NewToken, Scope, Status, Verb};
use model::{AppLimits, Digest, EngineSetting, Size, limits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A control plane in a temporary folder, and its admin's token.
struct Plane {
    api: String,
    token: String,
    _folder: tempfile::TempDir,
}

impl Plane {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let settings = ControlSettings {
            data: data.clone(),
            domain: "localhost".parse().unwrap(),
            ceiling: AppLimits::CEILING,
            versions_kept: limits::VERSIONS_KEPT.default,
            wasm_limit: limits::WASM.default,
            compile_command: vec!["false".into()],
            build: EngineSetting::ALL.map(runtime::build_key).to_vec(),
            public: PublicUrl {
                scheme: "http".into(),
                port: 8080,
            },
            open_metrics: false,
            usage: Arc::new(Vec::new),
            metrics: Arc::new(String::new),
            kv: {
                let clock = Arc::new(control::system_time);
                Arc::new(Stores::open(&data.join("stores"), Size::mib(1), clock).unwrap())
            },
            secrets: tokio::sync::watch::Sender::default(),
            node_limits: control::NodeLimits::default(),
            tenant_limits: tokio::sync::watch::Sender::default(),
            notice: Arc::new(|_| ()),
        };
        let distribution = Arc::new(Embedded::new(data.join("artifacts")).unwrap());
        let control = Control::open(settings, distribution).await.unwrap();
        let token_file = data.join("admin.token");
        control.admin_token(&token_file).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { control.serve(listener, std::future::pending()).await });
        Self {
            api,
            token: std::fs::read_to_string(token_file)
                .unwrap()
                .trim()
                .to_owned(),
            _folder: folder,
        }
    }

    fn client(&self, token: &str) -> Client {
        client(&self.api, token)
    }
}

fn client(api: &str, token: &str) -> Client {
    let access = Access {
        api: api.to_owned(),
        token: token.to_owned(),
    };
    Client::with(access, TenantName::default_tenant())
}

/// A server that answers every connection with `answer`.
async fn stranger(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    api
}

#[tokio::test]
async fn what_the_platform_says_arrives() {
    let plane = Plane::start().await;
    let client = plane.client(&plane.token);
    let status: Status = client.get("/v1/status").await.unwrap();
    assert_eq!(status.apps, 0);
    let apps: Vec<AppSummary> = client.get(&client.tenant_path("/apps")).await.unwrap();
    assert_eq!(apps, []);

    let bytes = Bytes::from_static(b"\0asm\x0d\0\x01\0");
    let asked = Missing {
        digests: vec![Digest::of(&bytes)],
    };
    let missing_path = client.tenant_path("/artifacts/missing");
    let missing: Missing = client.post(&missing_path, &asked).await.unwrap();
    assert_eq!(missing, asked);
    let path = client.tenant_path(&format!("/artifacts/{}", asked.digests[0]));
    let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = sent.clone();
    client
        .upload(&path, bytes, move |bytes| {
            count.store(bytes, std::sync::atomic::Ordering::Relaxed);
        })
        .await
        .unwrap();
    assert_eq!(sent.load(std::sync::atomic::Ordering::Relaxed), 8);
    let missing: Missing = client.post(&missing_path, &asked).await.unwrap();
    assert_eq!(missing.digests, []);
}

#[tokio::test]
async fn a_token_that_was_made_works_until_it_is_revoked() {
    let plane = Plane::start().await;
    let admin = plane.client(&plane.token);
    let wanted = NewToken {
        label: "ci".into(),
        scope: Scope {
            tenant: Some(TenantName::default_tenant()),
            app: None,
            verb: Verb::Read,
        },
        expires_in: None,
    };
    let made: CreatedToken = admin.post("/v1/tokens", &wanted).await.unwrap();
    let reader = plane.client(&made.token);
    let path = reader.tenant_path("/apps");
    let seen: Vec<AppSummary> = reader.get(&path).await.unwrap();
    assert_eq!(seen, []);
    let denied = reader.post::<CreatedToken>("/v1/tokens", &wanted).await;
    assert_eq!(denied.unwrap_err().exit, Exit::Refused);

    let path_of_token = format!("/v1/tokens/{}", made.summary.id);
    admin.delete(&path_of_token, Duration::ZERO).await.unwrap();
    let refused = reader.get::<Vec<AppSummary>>(&path).await.unwrap_err();
    assert_eq!(refused.exit, Exit::Refused);
    assert!(refused.hint.unwrap().contains("--token"));
}

#[tokio::test]
async fn a_refusal_names_what_is_not_there_and_says_what_to_do() {
    let plane = Plane::start().await;
    let client = plane.client(&plane.token);
    let app = "nobody".parse().unwrap();
    let failure = client
        .get::<AppSummary>(&client.app_path(&app, ""))
        .await
        .unwrap_err();
    assert_eq!(failure.exit, Exit::Refused);
    assert!(failure.what.contains("nobody"), "{}", failure.what);
    assert!(failure.hint.unwrap().contains("midge apps"));
}

#[tokio::test]
async fn a_platform_that_is_not_there_and_a_server_that_is_none_are_told_apart() {
    let check = async |api: String, part: &str| {
        let asked = client(&api, "t").get::<Status>("/v1/status").await;
        let failure = asked.unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.what.contains(part), "{}", failure.what);
        assert!(failure.what.contains(&api), "{}", failure.what);
    };
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    check(nobody, "cannot be reached").await;
    let page = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>";
    check(stranger(page).await, "does not answer as").await;
    let page = "HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\n<html>";
    check(stranger(page).await, "404").await;
    check(stranger("HTTP/1.1 200").await, "cannot be reached").await;
}

#[tokio::test]
async fn a_backup_that_breaks_off_is_an_error() {
    let cut = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let api = stranger(cut).await;
    let client = client(&api, "t");
    let mut pieces = client.download("/v1/backup").await.unwrap();
    assert_eq!(pieces.next().await.unwrap().as_deref(), Some(&b"abc"[..]));
    assert_eq!(pieces.next().await.unwrap_err().exit, Exit::Unreachable);
}
