//! What is asked of the machine and of the settings, before anything is judged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};

use crate::config::Settings;

/// How long the monotonic clock is watched.
pub const NAP: Duration = Duration::from_millis(2);

/// What was found out about the machine, and what the settings need of it.
pub struct Facts {
    /// As `uname -r` says it.
    pub kernel: String,
    /// The most descriptors a process may open.
    pub descriptors: Bound,
    /// The most address space a process may have.
    pub address_space: Bound,
    /// `vm.max_map_count`; none if it cannot be read.
    pub mappings: Option<u64>,
    /// `vm.overcommit_memory`.
    pub overcommit: Option<u64>,
    pub pagemap_scan: bool,
    /// Why a sealed file in memory cannot be made, if so.
    pub memory_file: Option<String>,
    /// Why `/proc/self/fd` cannot be read, if so.
    pub proc_folder: Option<String>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: u64,
    /// How far the monotonic clock moved over a sleep of [`NAP`].
    pub nap: Duration,
    pub data: PathBuf,
    /// Bytes free where the data folder is or will be, or why that is not known.
    pub free: Result<u64, String>,
    /// Why the data folder cannot be written, if so.
    pub unwritable: Option<String>,
    pub slots: u64,
    pub resident_apps: u64,
    pub connections: u64,
}

/// A resource limit; `None` is none.
pub type Bound = Option<u64>;

/// Asks.
pub fn gather(settings: &Settings) -> Facts {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    let existing = nearest_existing(&settings.data);
    let before = Instant::now();
    std::thread::sleep(NAP);
    Facts {
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        descriptors: getrlimit(Resource::Nofile).maximum,
        address_space: getrlimit(Resource::As).current,
        mappings: number("/proc/sys/vm/max_map_count"),
        overcommit: number("/proc/sys/vm/overcommit_memory"),
        pagemap_scan: runtime::pagemap_scan_available(),
        memory_file: sealed_memory_file().err().map(|error| error.to_string()),
        proc_folder: fs::read_dir("/proc/self/fd")
            .err()
            .map(|error| error.to_string()),
        now_ms: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64),
        nap: before.elapsed(),
        free: rustix::fs::statvfs(&existing)
            .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
            .map_err(|error| error.to_string()),
        unwritable: rustix::fs::access(
            &existing,
            rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        )
        .err()
        .map(|error| format!("`{}`: {error}", existing.display())),
        data: settings.data.clone(),
        slots: settings.node.slots,
        resident_apps: settings.node.resident_apps,
        connections: settings.node.connections,
    }
}

fn nearest_existing(path: &Path) -> PathBuf {
    let mut ancestors = path.ancestors();
    let found = ancestors.find(|ancestor| ancestor.exists());
    found.unwrap_or(Path::new("/")).to_owned()
}

fn sealed_memory_file() -> io::Result<()> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let file = memfd_create("midge-doctor", MemfdFlags::ALLOW_SEALING)?;
    Ok(fcntl_add_seals(file, SealFlags::WRITE)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Flags};

    #[test]
    fn facts_can_be_gathered_here() {
        let settings = config::load(Flags {
            data: Some("/nonexistent/deep/folder".into()),
            ..Flags::default()
        });
        let facts = gather(&settings.unwrap());
        assert!(facts.mappings.is_some() && facts.proc_folder.is_none());
        assert!(
            facts.free.is_ok(),
            "the nearest folder that exists is asked"
        );
    }
}
