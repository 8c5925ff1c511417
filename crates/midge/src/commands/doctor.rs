//! `midge doctor`: whether this machine can run the platform well, and what to do where it cannot.
//!
//! Facts are gathered first; each check is a function of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use model::{Size, limits};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::args::Form;
use crate::config::{self, Flags, Settings};
use crate::failure::Failure;
use crate::screen;

/// Check whether this machine can run the platform, and say what to do where it cannot
///
/// Takes the flags and the configuration file of `midge up`, and checks what those settings need. `ok` is well, `note`
/// works with less, `failed` must be put right: then the exit code is 1. With `--json`: an array of objects with
/// `check`, `verdict`, `what` and `to_do`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge doctor
  midge doctor --config /etc/midge/midge.config.toml --json")]
pub struct Options {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    flags: Flags,
}

/// What was found out about the machine, and what the settings need of it.
struct Facts {
    /// As `uname -r` says it.
    kernel: String,
    /// The most descriptors a process may open.
    descriptors: Bound,
    /// The most address space a process may have.
    address_space: Bound,
    /// `vm.max_map_count`; none if it cannot be read.
    mappings: Option<u64>,
    /// `vm.overcommit_memory`.
    overcommit: Option<u64>,
    pagemap_scan: bool,
    /// Why a sealed file in memory cannot be made, if so.
    memory_file: Option<String>,
    /// Why `/proc/self/fd` cannot be read, if so.
    proc_folder: Option<String>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    now_ms: u64,
    /// How far the monotonic clock moved over a sleep of [`NAP`].
    nap: Duration,
    data: PathBuf,
    /// Bytes free where the data folder is or will be, or why that is not known.
    free: Result<u64, String>,
    /// Why the data folder cannot be written, if so.
    unwritable: Option<String>,
    slots: u64,
    resident_apps: u64,
    connections: u64,
}

/// A resource limit; `None` is none.
type Bound = Option<u64>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Ok(String),
    /// The platform runs, with less.
    Note {
        what: String,
        to_do: String,
    },
    Failed {
        what: String,
        to_do: String,
    },
}

type Check = (&'static str, fn(&Facts) -> Verdict);

const CHECKS: [Check; 10] = [
    ("kernel", kernel),
    ("open files", open_files),
    ("memory mappings", mappings),
    ("address space", address_space),
    ("overcommit", overcommit),
    ("page reset (PAGEMAP_SCAN)", pagemap_scan),
    ("files in memory", memory_file),
    ("/proc", proc_folder),
    ("clock", clock),
    ("data folder", data_folder),
];

/// The oldest kernel line that is maintained and has everything Midge insists on.
const KERNEL: (u64, u64) = (5, 10);

const NAP: Duration = Duration::from_millis(2);

/// 2026-01-01T00:00:00Z: before this there was no Midge.
const BEGINNING_MS: u64 = 1_767_225_600_000;
/// 2100-01-01T00:00:00Z.
const FAR_FUTURE_MS: u64 = 4_102_444_800_000;

/// Descriptors of a worker beside connections and resident apps: its pipe, its listeners, what it logs.
const SPARE_DESCRIPTORS: u64 = 256;
/// Mappings of a worker before it has any instance: libraries, heaps, the pool's own.
const SPARE_MAPPINGS: u64 = 1_024;
/// What the kernel counts for each live instance and each resident app.
const MAPPINGS_OF_A_SLOT: u64 = 6;
const MAPPINGS_OF_AN_APP: u64 = 3;

pub fn run(options: Options) -> Result<(), Failure> {
    let settings = config::load(options.flags)?;
    let facts = gather(&settings);
    let verdicts: Vec<_> = CHECKS
        .iter()
        .map(|(name, check)| (*name, check(&facts)))
        .collect();
    if options.form.json {
        let lines: Vec<_> = verdicts
            .iter()
            .map(|(name, verdict)| Line::new(name, verdict))
            .collect();
        screen::json(&lines)?;
    } else {
        for (name, verdict) in &verdicts {
            screen::line(for_people(name, verdict))?;
        }
    }
    let failed = |verdict: &Verdict| matches!(verdict, Verdict::Failed { .. });
    match verdicts.iter().filter(|(_, v)| failed(v)).count() {
        0 => Ok(()),
        count => Err(Failure::failed(format!(
            "{count} of {} checks failed; what to do is said above",
            CHECKS.len()
        ))),
    }
}

/// A verdict for scripts.
#[derive(Serialize)]
struct Line<'a> {
    check: &'a str,
    verdict: &'static str,
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_do: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn new(check: &'a str, verdict: &'a Verdict) -> Self {
        let (verdict, what, to_do) = match verdict {
            Verdict::Ok(what) => ("ok", what, None),
            Verdict::Note { what, to_do } => ("note", what, Some(to_do.as_str())),
            Verdict::Failed { what, to_do } => ("failed", what, Some(to_do.as_str())),
        };
        Self {
            check,
            verdict,
            what,
            to_do,
        }
    }
}

fn for_people(name: &str, verdict: &Verdict) -> String {
    let line = Line::new(name, verdict);
    let mut text = format!("{:6}  {name}: {}", line.verdict, line.what);
    if let Some(to_do) = line.to_do {
        text.push_str("\n        → ");
        text.push_str(to_do);
    }
    text
}

fn gather(settings: &Settings) -> Facts {
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

fn ok(what: impl Into<String>) -> Verdict {
    Verdict::Ok(what.into())
}

fn note(what: impl Into<String>, to_do: impl Into<String>) -> Verdict {
    Verdict::Note {
        what: what.into(),
        to_do: to_do.into(),
    }
}

fn failed(what: impl Into<String>, to_do: impl Into<String>) -> Verdict {
    Verdict::Failed {
        what: what.into(),
        to_do: to_do.into(),
    }
}

fn kernel(facts: &Facts) -> Verdict {
    let release = &facts.kernel;
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut part = || parts.next().and_then(|part| part.parse().ok());
    let (major, minor) = KERNEL;
    match (part(), part()) {
        (Some(found), Some(at)) if (found, at) >= KERNEL => ok(format!("Linux {release}")),
        _ => failed(
            format!("Linux {release}; Midge needs {major}.{minor} or newer"),
            "run a newer kernel; 6.7 or newer makes instances cheapest",
        ),
    }
}

fn open_files(facts: &Facts) -> Verdict {
    let needed = facts.connections + facts.resident_apps + SPARE_DESCRIPTORS;
    match facts.descriptors {
        None => ok("no limit"),
        Some(limit) if limit >= needed => ok(format!(
            "a worker may open {limit}; these settings need {needed}"
        )),
        Some(limit) => failed(
            format!("a worker may open {limit}; these settings need {needed}"),
            format!(
                "raise the hard limit (`LimitNOFILE={needed}` in a systemd unit, `ulimit -Hn` in a shell), or lower `connections` and `resident-apps` below `[node]` in midge.config.toml"
            ),
        ),
    }
}

fn mappings(facts: &Facts) -> Verdict {
    // The pool is an eighth larger than what admission lets in.
    let slots = facts.slots + facts.slots / 8 + 16;
    let needed =
        slots * MAPPINGS_OF_A_SLOT + facts.resident_apps * MAPPINGS_OF_AN_APP + SPARE_MAPPINGS;
    match facts.mappings {
        Some(limit) if limit >= needed => ok(format!(
            "vm.max_map_count is {limit}; these settings need {needed}"
        )),
        Some(limit) => failed(
            format!("vm.max_map_count is {limit}; these settings need {needed}"),
            format!(
                "`sysctl -w vm.max_map_count={}`, or lower `slots` and `resident-apps` below `[node]` in midge.config.toml",
                needed.next_power_of_two()
            ),
        ),
        None => note(
            "vm.max_map_count cannot be read",
            format!("make sure that it is {needed} or more"),
        ),
    }
}

fn address_space(facts: &Facts) -> Verdict {
    match facts.address_space {
        None => ok("no limit"),
        Some(limit) => failed(
            format!(
                "a process may have {} of addresses; each instance reserves 4 GiB of them, though not of memory",
                screen::size(limit)
            ),
            "lift the limit: `ulimit -v unlimited`, or `LimitAS=infinity` in a systemd unit",
        ),
    }
}

fn overcommit(facts: &Facts) -> Verdict {
    match facts.overcommit {
        Some(2) => note(
            "vm.overcommit_memory is 2: memory that instances may use counts as used",
            "`sysctl -w vm.overcommit_memory=0`, or lower `slots` below `[node]` in midge.config.toml",
        ),
        Some(mode) => ok(format!("vm.overcommit_memory is {mode}")),
        None => note(
            "vm.overcommit_memory cannot be read",
            "make sure that it is 0 or 1",
        ),
    }
}

fn pagemap_scan(facts: &Facts) -> Verdict {
    if facts.pagemap_scan {
        ok("the kernel says which pages an instance wrote to")
    } else {
        note(
            "the kernel does not say which pages an instance wrote to: making one costs about twice as much",
            "run Linux 6.7 or newer",
        )
    }
}

fn memory_file(facts: &Facts) -> Verdict {
    match &facts.memory_file {
        None => ok("can be made and sealed"),
        Some(error) => failed(
            format!("cannot be made and sealed: {error}"),
            "allow `memfd_create` in the sandbox or container that Midge runs in; compiling needs it",
        ),
    }
}

fn proc_folder(facts: &Facts) -> Verdict {
    match &facts.proc_folder {
        None => ok("/proc/self/fd can be read"),
        Some(error) => failed(
            format!("/proc/self/fd cannot be read: {error}"),
            "mount /proc: workers load native code through it",
        ),
    }
}

fn clock(facts: &Facts) -> Verdict {
    let now = screen::moment(facts.now_ms);
    if facts.now_ms < BEGINNING_MS || facts.now_ms > FAR_FUTURE_MS {
        return failed(
            format!("it is {now} here, which cannot be"),
            "set the clock and keep it right with NTP; tokens expire and logs are ordered by it",
        );
    }
    if facts.nap < NAP || facts.nap > NAP * 500 {
        return failed(
            format!(
                "a sleep of {NAP:?} took {:?} on the monotonic clock",
                facts.nap
            ),
            "check the machine's clock source (`/sys/devices/system/clocksource`) and its load; every time limit is measured with it",
        );
    }
    ok(format!("it is {now}, and time passes evenly"))
}

fn data_folder(facts: &Facts) -> Verdict {
    let data = facts.data.display();
    if let Some(error) = &facts.unwritable {
        return failed(
            format!("`{data}` cannot be written ({error})"),
            "give it to the user that runs Midge, or name another with `--data DIR`",
        );
    }
    // One deployment writes an upload and its native code.
    let needed = Size(limits::WASM.ceiling.bytes() + limits::NATIVE.ceiling.bytes());
    match &facts.free {
        Ok(free) if *free >= needed.bytes() => {
            ok(format!("`{data}` has {} free", screen::size(*free)))
        }
        Ok(free) => failed(
            format!(
                "`{data}` has {} free; one large deployment needs {needed}",
                screen::size(*free)
            ),
            "make room, or name another folder with `--data DIR`",
        ),
        Err(error) => note(
            format!("how much room `{data}` has cannot be told: {error}"),
            format!("make sure that there is {needed}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            kernel: "6.12.1-amd64".into(),
            descriptors: Some(1 << 20),
            address_space: None,
            mappings: Some(65_530),
            overcommit: Some(0),
            pagemap_scan: true,
            memory_file: None,
            proc_folder: None,
            now_ms: 1_795_503_903_000,
            nap: NAP,
            data: "/srv/midge".into(),
            free: Ok(1 << 40),
            unwritable: None,
            slots: limits::SLOTS.default,
            resident_apps: limits::RESIDENT.default,
            connections: limits::CONNECTIONS.default,
        }
    }

    #[test]
    fn a_good_machine_passes_every_check() {
        for (name, check) in CHECKS {
            let verdict = check(&good());
            assert!(matches!(verdict, Verdict::Ok(_)), "{name}: {verdict:?}");
        }
    }

    #[test]
    fn each_check_can_fail_and_says_what_to_do() {
        let check = |name: &str, spoil: &dyn Fn(&mut Facts), word: &str, part: &str| {
            let mut facts = good();
            spoil(&mut facts);
            for (this, check) in CHECKS {
                let verdict = check(&facts);
                let line = Line::new(this, &verdict);
                if this != name {
                    assert_eq!(line.verdict, "ok", "{name} spoils {this}");
                    continue;
                }
                assert_eq!(line.verdict, word, "{name}: {}", line.what);
                let text = for_people(name, &verdict);
                assert!(text.contains(part), "{text}");
                assert!(!line.to_do.unwrap().is_empty());
            }
        };
        let mut spoiled = std::collections::BTreeSet::new();
        let mut fails = |name: &'static str, spoil: &dyn Fn(&mut Facts), word, part| {
            check(name, spoil, word, part);
            spoiled.insert(name);
        };
        fails("kernel", &|f| f.kernel = "4.19.0".into(), "failed", "5.10");
        fails("kernel", &|f| f.kernel = "5.9".into(), "failed", "5.10");
        fails("kernel", &|f| f.kernel = "?".into(), "failed", "newer");
        fails(
            "open files",
            &|f| f.descriptors = Some(1024),
            "failed",
            "LimitNOFILE=14256",
        );
        fails(
            "memory mappings",
            &|f| f.mappings = Some(10_000),
            "failed",
            "sysctl -w vm.max_map_count=32768",
        );
        fails("memory mappings", &|f| f.mappings = None, "note", "19870");
        fails(
            "address space",
            &|f| f.address_space = Some(1 << 33),
            "failed",
            "8.0 GiB",
        );
        fails("overcommit", &|f| f.overcommit = Some(2), "note", "sysctl");
        fails("overcommit", &|f| f.overcommit = None, "note", "0 or 1");
        fails(
            "page reset (PAGEMAP_SCAN)",
            &|f| f.pagemap_scan = false,
            "note",
            "6.7",
        );
        fails(
            "files in memory",
            &|f| f.memory_file = Some("not permitted".into()),
            "failed",
            "memfd_create",
        );
        fails(
            "/proc",
            &|f| f.proc_folder = Some("no such folder".into()),
            "failed",
            "mount /proc",
        );
        fails("clock", &|f| f.now_ms = 0, "failed", "1970-01-01");
        fails("clock", &|f| f.now_ms = u64::MAX, "failed", "NTP");
        fails("clock", &|f| f.nap = Duration::ZERO, "failed", "source");
        fails(
            "data folder",
            &|f| f.free = Ok(1 << 20),
            "failed",
            "1.0 MiB free; one large deployment needs 356MiB",
        );
        fails("data folder", &|f| f.free = Err("?".into()), "note", "room");
        fails(
            "data folder",
            &|f| f.unwritable = Some("`/srv`: not permitted".into()),
            "failed",
            "--data",
        );
        assert_eq!(spoiled.len(), CHECKS.len(), "every check was made to fail");
    }

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
