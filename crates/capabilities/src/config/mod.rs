//! Configuration values: what a manifest's `[grant] config` lists, for the app to read.

pub mod host;

use std::collections::BTreeMap;

/// The values that one app was granted, by name.
pub type Values = BTreeMap<String, String>;
