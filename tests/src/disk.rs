//! Disks in trouble: one that fails where a test says so, a small one, one without write access; none needs root.

use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Settings, skip};

const LIBRARY: &str = include_str!("disk/failing.c");

/// What can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Reading, and opening to read.
    Read = 1,
    /// Writing and cutting what is open.
    Write = 2,
    /// `fsync` and `fdatasync`.
    Sync = 4,
    /// Opening to write, making, renaming, removing, changing modes.
    Change = 8,
}

/// A rule as the library has it.
#[repr(C)]
struct Rule {
    calls: u32,
    error: i32,
    inode: u64,
    met: u64,
    part: [u8; 104],
}

const RULES: usize = 8;

/// A disk that fails where it is told to, for the supervisor of a platform with [`Disk::settings`]: workers and compile
/// children open no files.
pub struct Disk {
    folder: TempDir,
    rules: File,
}

impl Disk {
    /// A disk on which nothing fails yet; none, and said so, on a machine without a C compiler.
    pub fn new(what: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = folder.path().join("failing.c");
        fs::write(&source, LIBRARY).expect("a file can be written");
        let made = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(folder.path().join("failing.so"))
            .arg(source)
            .output();
        match made {
            Err(_) => {
                skip(what, "this machine has no C compiler");
                return None;
            }
            Ok(made) => assert!(made.status.success(), "{made:?}"),
        }
        let rules = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.path().join("rules"))
            .expect("a file can be made");
        let disk = Self { folder, rules };
        fs::create_dir(disk.platter()).expect("a folder can be made");
        disk.heals();
        Some(disk)
    }

    /// What a platform is started with to have its files here.
    pub fn settings(&self) -> Settings {
        let text = |path: PathBuf| path.to_str().expect("a temporary folder's name").to_owned();
        let place = |name: &str| text(self.folder.path().join(name));
        Settings {
            config: "workers = 1".into(),
            environment: vec![
                ("LD_PRELOAD".into(), place("failing.so")),
                ("FAILING_DISK".into(), place("rules")),
                ("FAILING_DISK_PLATTER".into(), text(self.platter())),
            ],
            ..Settings::default()
        }
    }

    /// From now on these calls end with `error` on each path that contains `part`, or ends with it where it ends with `$`.
    pub fn fails(&self, calls: &[Call], error: i32, part: &str) {
        self.write(calls, error, part, 0);
    }

    /// As [`Self::fails`] for one file alone, whatever lies at its path later.
    pub fn fails_within(&self, calls: &[Call], error: i32, inode: u64) {
        self.write(calls, error, "", inode);
    }

    fn write(&self, calls: &[Call], error: i32, part: &str, inode: u64) {
        assert!(part.len() < 104, "a rule holds 104 bytes");
        let mut rule = Vec::with_capacity(size_of::<Rule>());
        rule.extend(error.to_ne_bytes());
        rule.extend(inode.to_ne_bytes());
        rule.extend(0u64.to_ne_bytes());
        rule.extend(part.bytes());
        rule.resize(size_of::<Rule>() - 4, 0);
        let free = (0..RULES as u64).find(|index| self.calls_of(*index) == 0);
        let at = free.expect("a disk has few rules") * size_of::<Rule>() as u64;
        // The calls last: with them the rule begins to hold.
        self.put(&rule, at + 4);
        let calls = calls.iter().fold(0, |all, call| all | *call as u32);
        self.put(&calls.to_ne_bytes(), at);
    }

    /// Nothing fails any more.
    pub fn heals(&self) {
        self.put(&[0; RULES * size_of::<Rule>()], 0);
    }

    /// How often something failed since the disk was well.
    pub fn met(&self) -> u64 {
        let met = |index| {
            let mut bytes = [0; 8];
            self.get(&mut bytes, index * size_of::<Rule>() as u64 + 16);
            u64::from_ne_bytes(bytes)
        };
        (0..RULES as u64).map(met).sum()
    }

    /// Leaves of the records in `data` what really reached the disk, as a loss of power does. The platform has ended.
    pub fn loses_power(&self, data: &Path) {
        for name in ["records.db", "records.db-wal", "records.db-shm"] {
            let _ = fs::remove_file(data.join(name));
            match fs::copy(self.platter().join(name), data.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => drop(copied.expect("a file can be copied")),
            }
        }
    }

    fn platter(&self) -> PathBuf {
        self.folder.path().join("platter")
    }

    fn calls_of(&self, index: u64) -> u32 {
        let mut bytes = [0; 4];
        self.get(&mut bytes, index * size_of::<Rule>() as u64);
        u32::from_ne_bytes(bytes)
    }

    fn put(&self, bytes: &[u8], at: u64) {
        let put = self.rules.write_all_at(bytes, at);
        put.expect("the rules can be written");
    }

    fn get(&self, bytes: &mut [u8], at: u64) {
        let got = self.rules.read_exact_at(bytes, at);
        got.expect("the rules can be read");
    }
}

/// Runs the test `name` of the calling program in a mount namespace of its own, with temporary files on a disk of its own
/// that is mounted with `options`; or says that it was skipped where there are no such namespaces.
pub fn apart(what: &str, name: &str, options: &str, test: impl FnOnce()) {
    const WITHIN: &str = "TEST_IS_APART";
    if std::env::var_os(WITHIN).is_some() {
        return test();
    }
    let script = r#"
        set -eu
        mount -t tmpfs -o "$2" tmpfs "$1"
        export TMPDIR="$1"
        shift 2
        exec "$@"
    "#;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let within = || {
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", script, "sh"]);
        command.arg(folder.path()).arg(options);
        command
    };
    let probe = within().arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return skip(what, "this machine makes no unprivileged mount namespaces");
    }
    let mut again = within();
    again.arg(std::env::current_exe().expect("a running program has a file"));
    again.args(["--exact", name, "--nocapture"]);
    again.env(WITHIN, "1");
    // SAFETY: `prctl` is safe to call between fork and exec.
    unsafe {
        again.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let output = again.output().expect("the test's program starts");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "`{name}` is no test: {said}");
}

/// Runs a test whose child processes are held to the modes of files, though this process may be root's.
pub fn held_to_modes(test: impl FnOnce() + Send) {
    let held = std::thread::scope(|scope| {
        let test = scope.spawn(|| {
            // CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: of this thread alone, and what it starts.
            for capability in [1, 2] {
                // SAFETY: it changes what programs may that this thread starts. Who may not ask for it has no need to.
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
            }
            test();
        });
        test.join()
    });
    if let Err(panic) = held {
        std::panic::resume_unwind(panic);
    }
}
