//! The checks: each a function of the facts, that says what to do where it does not end well.

use model::{Size, limits};

use super::facts::{Facts, NAP};
use crate::screen;

/// How one check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
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

/// A check's name, and what it makes of the facts.
pub type Check = (&'static str, fn(&Facts) -> Verdict);

pub const CHECKS: [Check; 10] = [
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
    use std::time::Duration;

    use super::super::{Line, for_people};
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
}
