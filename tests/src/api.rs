//! The control API as a script would use it: bodies from `model::api`, everything else plain HTTP.

use std::io;
use std::net::SocketAddr;

use model::api::{Deployed, Missing, NewDeployment, NewVersion};
use model::{DeploymentCause, Digest, Manifest, Revision, TenantName, Version, VersionNumber};
use serde_json::{Value, json};

use crate::{Connection, Reply};

/// The API of a platform, with a token, for one tenant.
#[derive(Debug, Clone)]
pub struct Api {
    pub address: SocketAddr,
    pub token: String,
    /// Whose uploads, versions and deployments are meant.
    pub tenant: TenantName,
}

/// A reply of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    pub reply: Reply,
    pub json: Value,
}

impl Answer {
    /// Asserts the status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.reply.status(), status, "{}", self.reply.text());
        self
    }

    /// Asserts that it is a problem with this code, and that its detail holds `part`.
    #[track_caller]
    pub fn refuses(self, status: u16, code: &str, part: &str) -> Self {
        let answer = self.is(status);
        assert_eq!(
            answer.reply.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(answer.json["code"], code, "{}", answer.json);
        assert_eq!(answer.json["type"], format!("urn:midge:problem:{code}"));
        let detail = answer.json["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(part), "`{part}` is not in: {detail}");
        answer
    }

    /// The body as `T`.
    #[track_caller]
    pub fn body<T: serde_json_owned::Owned>(&self) -> T {
        serde_json::from_value(self.json.clone())
            .unwrap_or_else(|error| panic!("{error}: {}", self.json))
    }
}

/// What can be read from JSON without borrowing from it.
mod serde_json_owned {
    pub trait Owned: for<'a> serde::Deserialize<'a> {}
    impl<T: for<'a> serde::Deserialize<'a>> Owned for T {}
}

impl Api {
    /// The same API with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// The same API and token for another tenant, who must be there.
    pub fn of(&self, tenant: &str) -> Self {
        Self {
            tenant: tenant.parse().expect("a test names tenants well"),
            ..self.clone()
        }
    }

    /// The API for a tenant that is made now, with a token that reaches this tenant alone.
    #[track_caller]
    pub fn new_tenant(&self, name: &str) -> Self {
        self.ask("POST", "tenants", Some(json!({ "name": name })))
            .is(201);
        let scope = json!({ "scope": { "tenant": name, "verb": "admin" } });
        let made = self.ask("POST", "tokens", Some(scope)).is(201);
        let token = made.json["token"].as_str().expect("a token is text");
        self.with_token(token).of(name)
    }

    /// A path below the tenant's.
    pub fn path(&self, rest: &str) -> String {
        format!("tenants/{}/{rest}", self.tenant)
    }

    /// Sends a JSON body, or none, to a path below `/v1` (or to any path that begins with `/`).
    pub fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let bytes = body
            .map(|body| body.to_string().into_bytes())
            .unwrap_or_default();
        self.send(method, path, "content-type: application/json\r\n", &bytes)
    }

    /// Sends bytes with header lines.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends bytes with header lines to a platform that may end meanwhile.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut connection = Connection::open(self.address, &self.address.to_string())?;
        let path = match path.strip_prefix('/') {
            Some(_) => path.to_owned(),
            None => format!("/v1/{path}"),
        };
        let authorization = match self.token.as_str() {
            "" => String::new(),
            token => format!("authorization: Bearer {token}\r\n"),
        };
        let headers = format!("{authorization}{headers}");
        let reply = connection.request(method, &path, &headers, body)?;
        let json = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
        Ok(Answer { reply, json })
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None)
    }

    /// Uploads an artifact.
    pub fn upload(&self, wasm: &[u8]) -> Answer {
        let path = self.path(&format!("artifacts/{}", Digest::of(wasm)));
        self.send("PUT", &path, "content-type: application/wasm\r\n", wasm)
    }

    /// Which of these uploads would have to be sent.
    #[track_caller]
    pub fn missing(&self, digests: &[Digest]) -> Vec<Digest> {
        let asked = json!({ "digests": digests });
        let answer = self.ask("POST", &self.path("artifacts/missing"), Some(asked));
        answer.is(200).body::<Missing>().digests
    }

    /// Makes a version of what was uploaded.
    pub fn new_version(&self, manifest: &Manifest, wasm: Digest) -> Answer {
        let path = self.path(&format!("apps/{}/versions", manifest.name));
        let new = NewVersion {
            manifest: manifest.clone(),
            wasm,
            strict: false,
        };
        self.ask(
            "POST",
            &path,
            Some(serde_json::to_value(new).expect("a body has a JSON form")),
        )
    }

    /// Moves the pointer.
    pub fn move_to(
        &self,
        app: &str,
        version: Option<VersionNumber>,
        cause: DeploymentCause,
        expect: Option<Revision>,
    ) -> Answer {
        let path = self.path(&format!("apps/{app}/deployments"));
        let new = NewDeployment {
            version,
            cause,
            expect,
            wait: None,
        };
        self.ask(
            "POST",
            &path,
            Some(serde_json::to_value(new).expect("a body has a JSON form")),
        )
    }

    /// Uploads and makes a version; the first of the two answers that refuses, else the last.
    pub fn publish_or_refuse(&self, manifest: &Manifest, wasm: &[u8]) -> Answer {
        let uploaded = self.upload(wasm);
        if uploaded.reply.status() >= 300 {
            return uploaded;
        }
        self.new_version(manifest, Digest::of(wasm))
    }

    /// Uploads, makes a version and returns it.
    #[track_caller]
    pub fn publish(&self, manifest: &Manifest, wasm: &[u8]) -> Version {
        self.upload(wasm);
        let answer = self.new_version(manifest, Digest::of(wasm));
        assert!(
            matches!(answer.reply.status(), 200 | 201),
            "{}",
            answer.reply.text()
        );
        answer.body()
    }

    /// Uploads, makes a version, deploys it and waits until it is live everywhere.
    #[track_caller]
    pub fn deploy(&self, manifest: &Manifest, wasm: &[u8]) -> Deployed {
        let version = self.publish(manifest, wasm);
        self.serve(
            manifest.name.as_str(),
            version.number,
            DeploymentCause::Deploy,
        )
    }

    /// Makes a version the one that is served, and waits until it is live everywhere.
    #[track_caller]
    pub fn serve(&self, app: &str, version: VersionNumber, cause: DeploymentCause) -> Deployed {
        let answer = self.move_to(app, Some(version), cause, None);
        assert!(
            matches!(answer.reply.status(), 200 | 201),
            "{}",
            answer.reply.text()
        );
        let deployed: Deployed = answer.body();
        assert_eq!(
            deployed.live.nodes, deployed.live.of,
            "{:?}",
            deployed.live.refusals
        );
        deployed
    }
}
