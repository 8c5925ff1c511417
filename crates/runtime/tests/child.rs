//! The compile child as a process of its own, under exactly the limits that control sets.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use model::limits;
use model::pipe::CompileReport;
use rustix::process::{Resource, Rlimit};

#[test]
fn a_command_is_compiled_within_the_limits() {
    let wasm = wat::parse_str(r#"(module (memory 1) (func (export "_start")))"#).unwrap();
    let (status, report, native) = run(&wasm);
    assert!(status.success(), "{status}");
    let CompileReport::Compiled { native_bytes, .. } = report.unwrap() else {
        panic!("it is compiled");
    };
    assert_eq!(native_bytes, native.len() as u64);
    assert!(native.starts_with(b"\x7fELF"));
}

#[test]
fn a_large_function_is_compiled_within_the_limits() {
    let body = "(drop (i32.load (i32.const 4)))".repeat(100_000);
    let wat = format!(r#"(module (memory 1) (func (export "_start") {body}))"#);
    let (status, report, _) = run(&wat::parse_str(wat).unwrap());
    assert!(status.success(), "{status}");
    assert!(
        matches!(report, Some(CompileReport::Compiled { .. })),
        "{report:?}"
    );
}

#[test]
fn a_refused_upload_is_a_success() {
    let (status, report, native) = run(b"(module)");
    assert!(status.success(), "{status}");
    let Some(CompileReport::Refused { code, text }) = report else {
        panic!("it is refused");
    };
    assert_eq!(code, "not-wasm");
    assert!(text.contains("text format"), "{text}");
    assert!(native.is_empty());
}

#[test]
fn a_child_has_shut_itself_in_before_it_reads() {
    let native = tempfile::tempfile().unwrap();
    let mut command = Command::new(program());
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    place(&mut command, native.as_raw_fd());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let deadline = Instant::now() + Duration::from_secs(60);
    // A filter, and this test has put none on it.
    while !std::fs::read_to_string(&status)
        .unwrap()
        .contains("\nSeccomp:\t2\n")
    {
        assert!(
            Instant::now() < deadline,
            "it waits for its upload unfenced"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn without_a_place_for_the_code_the_child_fails() {
    let mut child = Command::new(program());
    // SAFETY: `close` is safe to call between fork and exec. Whoever runs the tests may have left something there.
    unsafe {
        child.pre_exec(|| {
            libc::close(3);
            Ok(())
        });
    }
    let child = child.stdin(Stdio::null()).output().unwrap();
    assert_eq!(child.status.code(), Some(1));
    let text = String::from_utf8(child.stderr).unwrap();
    assert!(text.contains("descriptor 3"), "{text}");
}

/// `examples/compile-child.rs`, which `cargo test` builds beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().unwrap().parent().unwrap();
    built.join("examples/compile-child")
}

/// Runs a child over `wasm`: how it ended, what it says and what it wrote.
fn run(wasm: &[u8]) -> (ExitStatus, Option<CompileReport>, Vec<u8>) {
    let mut upload = tempfile::tempfile().unwrap();
    upload.write_all(wasm).unwrap();
    upload.rewind().unwrap();
    let mut native: File = tempfile::tempfile().unwrap();
    let mib = (wasm.len() as u64).div_ceil(1 << 20);
    let cpu = (limits::COMPILE_CPU.default.0 + mib * limits::COMPILE_CPU_PER_MIB.default.0) / 1000;
    let bounds = [
        (Resource::As, limits::COMPILE_MEMORY.default.bytes()),
        (Resource::Cpu, cpu),
        (Resource::Fsize, limits::NATIVE.default.bytes()),
        (Resource::Core, 0),
        (Resource::Nofile, 64),
    ];
    let mut command = Command::new(program());
    command.env_clear().stdin(upload);
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            for (resource, most) in bounds {
                let limit = Rlimit {
                    current: Some(most),
                    maximum: Some(most),
                };
                rustix::process::setrlimit(resource, limit)?;
            }
            Ok(())
        });
    }
    place(&mut command, native.as_raw_fd());
    let child = command.output().unwrap();
    let mut code = Vec::new();
    native.rewind().unwrap();
    native.read_to_end(&mut code).unwrap();
    (
        child.status,
        serde_json::from_slice(&child.stdout).ok(),
        code,
    )
}

/// Gives the child `native` as the place for its native code.
fn place(command: &mut Command, native: RawFd) {
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            // Where it is there already, it would be closed with the others.
            let placed = match native {
                3 => libc::fcntl(3, libc::F_SETFD, 0) == 0,
                _ => libc::dup2(native, 3) == 3,
            };
            placed
                .then_some(())
                .ok_or_else(std::io::Error::last_os_error)
        });
    }
}
