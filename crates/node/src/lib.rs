//! The node: a supervisor that follows the catalog and keeps artifacts, and its workers that run guests.

mod memory;
pub mod pipe;
mod store_pipe;
mod supervisor;
mod worker;

pub use memory::{Allocator, give_back as give_back_memory};
pub use supervisor::{
    BindError, Listeners, LogOutputs, NodeSettings, Notice, OtlpSettings, StartError, Supervisor,
};
pub use worker::worker;
