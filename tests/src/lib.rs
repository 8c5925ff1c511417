//! The harness of the whole-platform tests: the real binary in a temporary folder, spoken to as anyone would.
//!
//! Nothing here knows the platform's inside. Every wait has a condition and a deadline, none is a mere pause.

mod api;
mod client;
pub mod collector;
mod command_line;
mod dev;
pub mod disk;
mod guest;
pub mod http2;
pub mod load;
pub mod names;
pub mod origin;
pub mod platform;
mod process;
mod pty;
pub mod reference;
pub mod tls;
pub mod trials;
mod wait;

pub use api::{Answer, Api};
pub use client::{Connection, Head, Reply, raw};
pub use command_line::{Ran, run};
pub use dev::Dev;
pub use guest::{Guest, each_version, guest, variant};
pub use http2::Http2;
pub use load::{Load, Report};
pub use platform::{Platform, Settings, bare, binary, manifest_of};
pub use process::{
    anonymous_bytes, catches, children, clients, cpu_seconds, descendants, descriptors, is_stopped,
    is_within, lives, parent, pin, private_bytes, raise_descriptors, serves, workers,
};
pub use pty::Pty;
pub use wait::{eventually, skip};
