//! The compile child, from outside: a process of its own per upload, with limits that the kernel keeps.
//!
//! What comes back is bytes and a report about them. Nothing of either is interpreted here beyond its size and form.

mod fence;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use model::pipe::{CompileReport, Inspection};
use model::{BuildKey, Digest, Hasher, Millis, Size, limits};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Resource, Rlimit, Signal};
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::temporary;

/// Native code as the child made it, in a temporary file.
pub(crate) struct Compiled {
    pub inspection: Inspection,
    pub build: BuildKey,
    pub body: Digest,
    pub body_bytes: u64,
    pub file: NamedTempFile,
}

/// Why there is no native code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    /// The child read the upload and says what is wrong with it.
    #[error("{text}")]
    Refused { code: String, text: String },
    #[error(
        "compiling took more than {0} of CPU time, which is what an upload of this size may take; make its functions smaller"
    )]
    CpuLimit(Millis),
    #[error("compiling took longer than {0}; the machine may be overloaded: try again")]
    TimeLimit(Millis),
    #[error("compiling took more than {0} of memory; make the upload or its functions smaller")]
    MemoryLimit(Size),
    #[error("compiling made more than {0} of native code; make the upload smaller")]
    OutputLimit(Size),
    #[error("the compiler failed on this upload ({how}){}", said(.stderr))]
    Failed { how: String, stderr: String },
    #[error("while {doing}: {error}")]
    Io {
        doing: &'static str,
        error: io::Error,
    },
}

/// What one child may use.
struct Allowance {
    cpu: Millis,
    wall: Millis,
    output: Size,
}

impl Allowance {
    fn of(upload: Size) -> Self {
        let mib = upload.bytes().div_ceil(1 << 20);
        let grown = limits::COMPILE_CPU.default.0 + mib * limits::COMPILE_CPU_PER_MIB.default.0;
        let cpu = Millis(grown.min(limits::COMPILE_CPU_MOST.default.0));
        let ratio = Size(upload.bytes() * 20 + (1 << 20));
        Self {
            cpu,
            wall: Millis(3 * cpu.0 + 5_000),
            output: ratio.min(limits::NATIVE.default),
        }
    }
}

/// Makes native code of the upload at `wasm` with the child that `command` starts. The result is put in `folder`.
pub(crate) async fn compile(
    command: &[OsString],
    wasm: &Path,
    folder: &Path,
) -> Result<Compiled, CompileError> {
    let upload = File::open(wasm).map_err(io("opening the upload"))?;
    let bytes = upload.metadata().map_err(io("opening the upload"))?.len();
    let allowance = Allowance::of(Size(bytes));
    let code = rustix::fs::memfd_create("native", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(|error| CompileError::Io {
            doing: "making a place for the native code",
            error: error.into(),
        })?;
    let mut child = spawn(command, upload, &code, &allowance)?;
    let ended = watch(&mut child, &allowance).await;
    end(&mut child).await;
    let (status, report, stderr) = ended?;
    let (inspection, build, promised) = match judge(status, &report, stderr, &allowance)? {
        CompileReport::Refused { code, text } => return Err(CompileError::Refused { code, text }),
        CompileReport::Compiled {
            inspection,
            build,
            native_bytes,
        } => (inspection, build, native_bytes),
    };
    let folder = folder.to_owned();
    let kept = tokio::task::spawn_blocking(move || keep(code, promised, &allowance, &folder));
    let (body, file) = kept.await.expect("copying a file does not panic")?;
    Ok(Compiled {
        inspection,
        build,
        body,
        body_bytes: promised,
        file,
    })
}

fn spawn(
    command: &[OsString],
    upload: File,
    code: &OwnedFd,
    allowance: &Allowance,
) -> Result<Child, CompileError> {
    let (program, arguments) = command
        .split_first()
        .expect("the compile command has at least a program");
    let native = code.as_raw_fd();
    let cpu = allowance.cpu.0.div_ceil(1000);
    let bounds = [
        (Resource::As, limits::COMPILE_MEMORY.default.bytes()),
        (Resource::Cpu, cpu),
        (Resource::Fsize, allowance.output.bytes()),
        (Resource::Core, 0),
        (Resource::Nofile, 64),
    ];
    let fence = fence::fence().map_err(io("fencing the compile child in"))?;
    let mut child = Command::new(program);
    child
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(upload)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: between fork and exec only system calls are made; nothing allocates and no lock is taken.
    unsafe {
        child.pre_exec(move || {
            for (resource, most) in bounds {
                // The kernel's signal for CPU time comes at the soft limit; a second later it kills.
                let hard = most + u64::from(matches!(resource, Resource::Cpu));
                let limit = Rlimit {
                    current: Some(most),
                    maximum: Some(hard),
                };
                rustix::process::setrlimit(resource, limit)?;
            }
            // Sets `no_new_privs` as well.
            seccompiler::apply_filter(&fence).map_err(|_| io::Error::last_os_error())?;
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // Who serves comes first on a busy machine.
            libc::setpriority(libc::PRIO_PROCESS, 0, 5);
            let placed = if native == 3 {
                libc::fcntl(3, libc::F_SETFD, 0)
            } else {
                libc::dup2(native, 3)
            };
            if placed < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    child.spawn().map_err(io("starting the compile child"))
}

/// Waits for the child and what it says, within its wall time.
async fn watch(
    child: &mut Child,
    allowance: &Allowance,
) -> Result<(ExitStatus, Vec<u8>, String), CompileError> {
    let most = limits::COMPILE_REPORT.default.bytes();
    let stdout = child.stdout.take().expect("its standard output is piped");
    let stderr = child.stderr.take().expect("its standard error is piped");
    let all = async {
        let (report, stderr) = tokio::join!(head(stdout, most + 1), tail(stderr));
        let report = report.map_err(io("reading what the compile child says"))?;
        if report.len() as u64 > most {
            let how = format!("it says more than {} about it", Size(most));
            return Err(CompileError::Failed { how, stderr });
        }
        let status = child.wait().await;
        let status = status.map_err(io("waiting for the compile child"))?;
        Ok((status, report, stderr))
    };
    match tokio::time::timeout(allowance.wall.duration(), all).await {
        Ok(ended) => ended,
        Err(_) => Err(CompileError::TimeLimit(allowance.wall)),
    }
}

/// The first `most` bytes; the rest is not read.
async fn head(from: impl AsyncRead + Unpin, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// The last few KiB, with control characters escaped.
async fn tail(mut from: impl AsyncRead + Unpin) -> String {
    const KEPT: usize = 4 << 10;
    let (mut kept, mut piece) = (Vec::new(), [0; 4 << 10]);
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        kept.extend_from_slice(&piece[..count]);
        kept.drain(..kept.len().saturating_sub(KEPT));
    }
    let text = String::from_utf8_lossy(&kept);
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(plain).collect()
}

/// Ends the child and whatever it may have started.
async fn end(child: &mut Child) {
    if let Some(id) = child.id() {
        let group = rustix::process::Pid::from_raw(id as i32);
        if let Some(group) = group {
            // It may have ended meanwhile, which is what is wanted.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let _ = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
    }
}

/// What the child's end and its report mean together.
fn judge(
    status: ExitStatus,
    report: &[u8],
    stderr: String,
    allowance: &Allowance,
) -> Result<CompileReport, CompileError> {
    if let Some(signal) = status.signal() {
        return Err(match signal {
            libc::SIGXCPU => CompileError::CpuLimit(allowance.cpu),
            libc::SIGXFSZ => CompileError::OutputLimit(allowance.output),
            // Only the kernel kills it before its time is over: for want of memory.
            libc::SIGKILL => CompileError::MemoryLimit(limits::COMPILE_MEMORY.default),
            libc::SIGABRT if stderr.contains("memory allocation of") => {
                CompileError::MemoryLimit(limits::COMPILE_MEMORY.default)
            }
            other => {
                let how = format!("signal {other}");
                CompileError::Failed { how, stderr }
            }
        });
    }
    match serde_json::from_slice(report) {
        Ok(report @ CompileReport::Refused { .. }) => Ok(report),
        Ok(report) if status.success() => Ok(report),
        Ok(_) => {
            let how = format!("exit status {}", status.code().unwrap_or(-1));
            Err(CompileError::Failed { how, stderr })
        }
        Err(error) => {
            let how = format!(
                "exit status {}, and its report cannot be read: {error}",
                status.code().unwrap_or(-1)
            );
            Err(CompileError::Failed { how, stderr })
        }
    }
}

/// Takes the native code out of the child's hands: sealed, measured, digested and copied to a file of our own.
fn keep(
    code: OwnedFd,
    promised: u64,
    allowance: &Allowance,
    folder: &Path,
) -> Result<(Digest, NamedTempFile), CompileError> {
    let failed = |how: String| CompileError::Failed {
        how,
        stderr: String::new(),
    };
    rustix::fs::fcntl_add_seals(
        &code,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )
    .map_err(|_| failed("something still writes its native code".into()))?;
    let mut code = File::from(code);
    let found = code
        .metadata()
        .map_err(io("reading the native code"))?
        .len();
    if found > allowance.output.bytes() {
        return Err(CompileError::OutputLimit(allowance.output));
    }
    if found != promised || found == 0 {
        let text = format!("it left {found} bytes of native code and says {promised}");
        return Err(failed(text));
    }
    code.rewind().map_err(io("reading the native code"))?;
    let mut file = temporary::file_in(folder).map_err(io("keeping the native code"))?;
    let (mut hasher, mut piece) = (Hasher::new(), vec![0; 256 << 10]);
    loop {
        let count = code
            .read(&mut piece)
            .map_err(io("reading the native code"))?;
        if count == 0 {
            break;
        }
        hasher.update(&piece[..count]);
        file.write_all(&piece[..count])
            .map_err(io("keeping the native code"))?;
    }
    Ok((hasher.finish(), file))
}

fn io(doing: &'static str) -> impl FnOnce(io::Error) -> CompileError {
    move |error| CompileError::Io { doing, error }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(": {stderr}")
    }
}

#[cfg(test)]
mod tests;
