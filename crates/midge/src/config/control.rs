//! The settings of the control plane.

use model::{Size, limits};
use serde::Deserialize;

use super::limited;
use crate::failure::Failure;

/// `[control]` of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    versions_kept: Option<u64>,
    wasm: Option<Size>,
    open_metrics: Option<bool>,
}

/// The settings of the control plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Control {
    pub versions_kept: u64,
    /// The largest upload.
    pub wasm: Size,
    /// Whether `/metrics` needs no token.
    pub open_metrics: bool,
}

impl Control {
    /// What the file comes to.
    pub fn of(file: File) -> Result<Self, Failure> {
        Ok(Self {
            versions_kept: limited(&limits::VERSIONS_KEPT, file.versions_kept)?,
            wasm: limited(&limits::WASM, file.wasm)?,
            open_metrics: file.open_metrics.unwrap_or(false),
        })
    }
}
