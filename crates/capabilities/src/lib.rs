//! What a guest may do, one folder each: the trait in our words, and a `host.rs` that serves every version of its
//! interface over it. A capability knows neither the runtime nor its siblings.

pub mod calls;
pub mod config;
pub mod http;
pub mod interfaces;
pub mod kv;
pub mod logs;
