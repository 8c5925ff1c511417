//! The node: a supervisor that follows the catalog and keeps artifacts, and its workers that run guests.

pub mod pipe;
pub mod supervisor;
pub mod worker;
