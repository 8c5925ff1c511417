//! What a compile child leaves itself before it reads a byte of an upload: memory, and the descriptors it was given.
//!
//! No path is named any more, no process but itself, no socket. Its parent's filter, which is on before the program is
//! loaded, cannot go so far: loading needs files.

use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// All that the kernel still does for it. A compiler computes: what is not here it does without.
const ALLOWED: [libc::c_long; 27] = [
    // The upload, the native code, the report and last words.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_close,
    // Memory, up to what its parent allows.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_madvise,
    // What native code that is linked on trial needs: the engine's handlers, and processors that see new code.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_membarrier,
    // Time, chance and locks.
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Its end.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Refuses this thread, and what it starts, everything else with `EPERM` from now on. It cannot be taken back.
pub(super) fn shut() -> io::Result<()> {
    let filter = filter().map_err(io::Error::other)?;
    // Sets `no_new_privs` as well.
    seccompiler::apply_filter(&filter).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    // How a process aborts; nobody else is signalled.
    let itself = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        std::process::id().into(),
    )?;
    let abort = (libc::SYS_tgkill, vec![SeccompRule::new(vec![itself])?]);
    let rules = ALLOWED.map(|call| (call, Vec::new()));
    SeccompFilter::new(
        rules.into_iter().chain([abort]).collect(),
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::*;

    /// What `reach` comes to in a thread that has shut itself in.
    fn check<T: Send>(what: &str, reach: impl FnOnce() -> io::Result<T> + Send) {
        let reached = std::thread::scope(|scope| {
            let shut_in = scope.spawn(|| {
                shut().unwrap();
                reach()
            });
            shut_in.join().unwrap()
        });
        let error = reached.err().unwrap_or_else(|| panic!("{what} is allowed"));
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{what}: {error}");
    }

    #[test]
    fn who_is_shut_in_reaches_no_file_no_program_and_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "secret").unwrap();
        check("reading", || File::open(&file));
        check("writing", || File::create(folder.path().join("new")));
        check("looking", || fs::metadata(&file));
        check("listing", || fs::read_dir(folder.path()));
        check("removing", || fs::remove_file(&file));
        check("renaming", || {
            fs::rename(&file, folder.path().join("other"))
        });
        check("linking", || {
            fs::hard_link(&file, folder.path().join("other"))
        });
        check("running", || Command::new("/bin/true").spawn());
        check("a socket", UnixStream::pair);
        let parent = std::os::unix::process::parent_id() as i32;
        // SAFETY: signal 0 only asks whether one could be sent.
        check("signalling", || match unsafe { libc::kill(parent, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
        assert_eq!(fs::read(&file).unwrap(), b"secret");
    }

    #[test]
    fn what_is_open_stays_so() {
        let mut file = tempfile::tempfile().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        let copied = std::thread::spawn(move || {
            shut()?;
            let mut upload = Vec::new();
            reader.read_to_end(&mut upload)?;
            file.write_all(&upload)?;
            file.rewind()?;
            io::Result::Ok(file)
        });
        writer.write_all(b"an upload").unwrap();
        drop(writer);
        let mut text = String::new();
        let mut file = copied.join().unwrap().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "an upload");
    }
}
