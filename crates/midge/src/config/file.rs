//! `midge.config.toml` as it is written; each section's keys stand with what is made of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use model::{Host, Millis, Size, limits};
use serde::Deserialize;

use super::{control, egress, node, telemetry, tls};
use crate::failure::Failure;
use crate::whole_file;

/// The file that is read when none is named and it lies in the current folder.
pub const FILE_NAME: &str = "midge.config.toml";

/// `midge.config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    pub data: Option<PathBuf>,
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
    pub api: Option<SocketAddr>,
    pub domain: Option<Host>,
    pub workers: Option<u32>,
    pub grace: Option<Millis>,
    #[serde(default)]
    pub ceiling: Ceiling,
    #[serde(default)]
    pub node: node::File,
    #[serde(default)]
    pub tls: tls::File,
    #[serde(default)]
    pub egress: egress::File,
    #[serde(default)]
    pub control: control::File,
    #[serde(default)]
    pub telemetry: telemetry::File,
}

/// The most that any app may have.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ceiling {
    pub cpu: Option<Millis>,
    pub wall: Option<Millis>,
    pub memory: Option<Size>,
}

impl File {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = whole_file::read_text(path, &limits::CONFIG_FILE).map_err(|error| {
            error
                .of(&format!("the configuration `{}`", path.display()))
                .hint("name another file with `--config`")
        })?;
        let mut file = Self::read(&text, path)?;
        // A relative folder is meant from where it is written.
        let folder = path.parent().unwrap_or(Path::new(""));
        file.data = file.data.map(|data| folder.join(data));
        file.tls.lie_in(folder);
        file.egress.lie_in(folder);
        Ok(file)
    }

    /// What `text`, which stands in the file at `path`, says.
    pub fn read(text: &str, path: &Path) -> Result<Self, Failure> {
        toml::from_str(text).map_err(|error| {
            let error = error.to_string();
            Failure::usage(format!(
                "the configuration `{}` cannot be used: {}",
                path.display(),
                error.trim_end()
            ))
            .hint("`midge up --help` lists every key")
        })
    }
}
