//! One event in, one outcome out: the only crate, with the capabilities' `host.rs` files, that names the engine.

pub mod compile;

mod cgi;
mod clock;
mod code;
mod context;
mod engine;
mod metered;
mod outcome;
mod pool;
mod preview1;
mod reply;
mod reuse;
mod run;
mod service;
mod ticker;
mod turns;
mod vitals;

pub use capabilities::logs::LineSink;
pub use code::{Code, LoadError};
pub use engine::{Backends, Engine, EngineError, PoolSettings, build_key, pagemap_scan_available};
pub use pool::{Overloaded, Pool, Slot};
pub use reply::ReplyBody;
pub use reuse::Instances;
pub use run::{BodyError, Ended, Facts, Invocation, Observer, RequestBody, Truncated, run};
pub use vitals::{Overhead, Tracer};
