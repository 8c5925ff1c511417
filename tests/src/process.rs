//! What the operating system says of processes: children, CPU time, memory; and staying on a core.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The direct children of a process.
pub fn children(parent_id: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc can be read");
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter(|id| parent(*id) == Some(parent_id)).collect()
}

/// The parent of a process that lives.
pub fn parent(id: u32) -> Option<u32> {
    let (state, fields) = stat(id)?;
    if state == 'Z' {
        return None;
    }
    fields.get(1)?.parse().ok()
}

/// The children of a process, their children, and so on.
pub fn descendants(id: u32) -> Vec<u32> {
    let mut found = children(id);
    let mut at = 0;
    while let Some(next) = found.get(at) {
        found.extend(children(*next));
        at += 1;
    }
    found
}

/// Whether a process is there, be it stopped.
pub fn lives(id: u32) -> bool {
    fs::read_link(format!("/proc/{id}/exe")).is_ok()
}

/// Whether a process is stopped (SIGSTOP).
pub fn is_stopped(id: u32) -> bool {
    stat(id).is_some_and(|(state, _)| state == 'T')
}

/// Whether a thread of a process is within a system call (`SYS_…`).
pub fn is_within(id: u32, call: libc::c_long) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).expect("the process lives");
    let number = call.to_string();
    threads.flatten().any(|thread| {
        let text = fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
        text.split(' ').next() == Some(number.as_str())
    })
}

/// Whether a process catches a signal.
pub fn catches(id: u32, signal: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// The worker processes of a supervisor, in the order of their ids.
pub fn workers(supervisor: u32) -> Vec<u32> {
    let is_worker = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"worker")
    };
    let mut workers: Vec<u32> = children(supervisor).into_iter().filter(is_worker).collect();
    workers.sort_unstable();
    workers
}

/// CPU time of a process and everything in it, in seconds.
pub fn cpu_seconds(id: u32) -> f64 {
    let ticks = |fields: &[String], index: usize| fields.get(index)?.parse::<u64>().ok();
    let used = stat(id).and_then(|(_, fields)| Some(ticks(&fields, 11)? + ticks(&fields, 12)?));
    // SAFETY: `sysconf` reads a constant.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    used.unwrap_or(0) as f64 / per_second as f64
}

/// The memory of a process, pages that it shares counted in part (PSS), in bytes.
pub fn private_bytes(id: u32) -> u64 {
    rollup(id, "Pss:")
}

/// A number of bytes that the kernel has summed over a process's mappings.
fn rollup(id: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) << 10
}

/// The part of [`private_bytes`] that no file backs: what a process holds for others. Programs that begin and end beside
/// it do not change it, as they do its share of the code.
pub fn anonymous_bytes(id: u32) -> u64 {
    rollup(id, "Pss_Anon:")
}

/// How many descriptors a process has.
pub fn descriptors(id: u32) -> usize {
    let open = fs::read_dir(format!("/proc/{id}/fd"));
    open.expect("the process lives").count()
}

/// Lets this process, and what it starts, open `wanted` descriptors, or as many as it ever may; says how many those are.
pub fn raise_descriptors(wanted: u64) -> usize {
    let mut bound = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the bound outlives each call.
    unsafe {
        let asked = libc::getrlimit(libc::RLIMIT_NOFILE, &mut bound);
        assert_eq!(asked, 0, "the bound on descriptors is known");
        let most = libc::rlimit {
            rlim_cur: wanted,
            rlim_max: wanted.max(bound.rlim_max),
        };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &most) != 0 {
            // That takes a privilege.
            bound.rlim_cur = bound.rlim_max.min(wanted);
            let done = libc::setrlimit(libc::RLIMIT_NOFILE, &bound);
            assert_eq!(done, 0, "the bound on descriptors cannot be raised");
            return bound.rlim_cur as usize;
        }
    }
    wanted as usize
}

/// Keeps the calling thread, and what it starts, on one core.
pub fn pin(core: usize) {
    // SAFETY: the set is made here and outlives the call.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    assert_eq!(done, 0, "this thread cannot be kept on core {core}");
}

/// The state of a process, and the fields after it of its `stat` file (proc(5)).
fn stat(id: u32) -> Option<(char, Vec<String>)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before may hold anything, parentheses as well.
    let (_, after) = text.rsplit_once(") ")?;
    let fields: Vec<String> = after.split(' ').map(str::to_owned).collect();
    Some((fields.first()?.chars().next()?, fields))
}

/// Whether a process holds the other end of this connection, which lies on this machine.
pub fn serves(id: u32, connection: &crate::Connection) -> bool {
    clients(id).contains(&connection.address().port())
}

/// The ports of those whose connections a process holds: accepted ones alone, not what waits in a backlog.
pub fn clients(id: u32) -> BTreeSet<u16> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{id}/fd")) else {
        return BTreeSet::new();
    };
    let held: BTreeSet<PathBuf> = descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc can be read");
    // Of each line: number, local address, remote address, …, the socket's inode as the tenth.
    let client = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let socket = format!("socket:[{}]", fields.get(9)?);
        let (_, port) = fields.get(2)?.split_once(':')?;
        held.contains(Path::new(&socket))
            .then(|| u16::from_str_radix(port, 16).ok())?
    };
    table.lines().filter_map(client).collect()
}
