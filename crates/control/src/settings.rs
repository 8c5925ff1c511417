//! What the control plane is made with. Everything comes from outside: nothing here reads an environment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use capabilities::kv::Keeper;
use model::api::AppUsage;
use model::{AppLimits, BuildKey, Host, Route, Secrets, Size, TenantLimits, limits};
use tokio::sync::watch;

/// Milliseconds since 1970-01-01T00:00:00Z, from outside, so that a test can let time pass.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What an operator is told, in words.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// What the control plane is made with.
pub struct ControlSettings {
    /// The folder of `records.db` and `keys/`. One process uses it at a time: the caller sees to that.
    pub data: PathBuf,
    /// The platform's domain.
    pub domain: Host,
    /// The most any app may have.
    pub ceiling: AppLimits,
    /// [`limits::VERSIONS_KEPT`]
    pub versions_kept: u64,
    /// [`limits::WASM`]
    pub wasm_limit: Size,
    /// What starts a compile child: a program and its arguments.
    pub compile_command: Vec<OsString>,
    /// What every upload is compiled for; at least one.
    pub build: Vec<BuildKey>,
    pub public: PublicUrl,
    /// Whether `/metrics` answers without a token.
    pub open_metrics: bool,
    /// The node's own metrics, as text; shown after the control plane's.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// What the node's apps did and used.
    pub usage: Arc<dyn Fn() -> Vec<AppUsage> + Send + Sync>,
    /// The key-value stores of every app.
    pub kv: Arc<dyn Keeper>,
    /// Where nodes find every secret that is set.
    pub secrets: watch::Sender<Arc<Secrets>>,
    pub node_limits: NodeLimits,
    /// Where nodes find what tenants may have that have limits of their own.
    pub tenant_limits: watch::Sender<Arc<TenantLimits>>,
    pub notice: Notice,
}

/// What nodes hold tenants to that have no limits of their own, and the most that one may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLimits {
    /// [`limits::SLOTS`]
    pub slots: u64,
    /// [`limits::TENANT_SLOTS`]
    pub tenant_slots: u64,
    /// [`limits::KV_STORE`]
    pub kv_store: Size,
}

impl Default for NodeLimits {
    /// What holds where an operator says nothing.
    fn default() -> Self {
        Self {
            slots: limits::SLOTS.default,
            tenant_slots: limits::TENANT_SLOTS.default,
            kv_store: limits::KV_STORE.default,
        }
    }
}

/// Where apps answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// `http` or `https`.
    pub scheme: String,
    pub port: u16,
}

impl PublicUrl {
    /// The address of a route.
    pub fn of(&self, route: &Route) -> String {
        let Self { scheme, port } = self;
        let (host, path) = (&route.host, &route.path);
        match (scheme.as_str(), port) {
            ("http", 80) | ("https", 443) => format!("{scheme}://{host}{path}"),
            _ => format!("{scheme}://{host}:{port}{path}"),
        }
    }
}
