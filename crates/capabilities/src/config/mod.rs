//! Configuration values and secrets, for the app to read by name.
//!
//! Values are what a manifest's `[grant] config` lists. Secrets are its tenant's; the manifest names those that it may read.

pub mod host;
mod secrets;

use std::collections::BTreeMap;

pub use secrets::Secrets;

/// The values that one app was granted, by name.
pub type Values = BTreeMap<String, String>;
