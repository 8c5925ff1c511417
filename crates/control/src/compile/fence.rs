//! What a compile child may not ask of the kernel from its first moment on: whatever reaches another machine or process.
//!
//! Files it needs to be loaded, and shuts itself off from before it reads its upload.

use std::io;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Sockets, and the calls that make them or borrow another process's, however indirectly.
const REFUSED: [libc::c_long; 9] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_io_uring_setup,
    libc::SYS_pidfd_getfd,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
];

/// What x86-64 kernels that know the x32 ABI add to a call's number (`__X32_SYSCALL_BIT`, asm/unistd.h).
const X32: i64 = 0x4000_0000;

/// `ptrace`, `process_vm_readv` and `process_vm_writev` have other numbers there (asm/unistd_x32.h), which some kernels
/// take without the bit.
const REFUSED_X32: [libc::c_long; 3] = [521, 539, 540];

/// A filter that answers each of them with `EACCES`. A process cannot put it off, nor can what it starts.
pub(super) fn fence() -> io::Result<BpfProgram> {
    let others = REFUSED_X32
        .into_iter()
        .filter(|_| cfg!(target_arch = "x86_64"));
    let calls = REFUSED.into_iter().chain(others);
    let calls = calls.flat_map(|call| [call, call | X32]);
    let rules = calls.map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EACCES as u32);
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(io::Error::other)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)
        .and_then(TryInto::try_into)
        .map_err(io::Error::other)
}
