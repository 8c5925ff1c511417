//! The compile child: a process of its own for one upload, under limits that its parent set.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, FromRawFd, RawFd};
use std::process::ExitCode;

use model::limits;
use model::pipe::CompileReport;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::{CompileError, fence};

/// Where the parent takes the native code from.
const NATIVE: RawFd = 3;

/// Reads Wasm from standard input, writes native code to descriptor 3 and one [`CompileReport`] to standard output.
///
/// A refused upload is a success too; only a failure of the platform is not.
pub fn child() -> ExitCode {
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn answer() -> Result<(), String> {
    // One child is not to write into another, whose native code is signed.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("while closing this process to others: {error}"))?;
    let mut native = claim_native()?;
    // All that it needs is open. What follows reads what a stranger wrote.
    fence::shut().map_err(|error| format!("while fencing this process in: {error}"))?;
    let mut wasm = Vec::new();
    // One byte more than is allowed, so that too much is seen as too much.
    io::stdin()
        .take(limits::WASM.ceiling.bytes() + 1)
        .read_to_end(&mut wasm)
        .map_err(|error| format!("while reading the upload: {error}"))?;
    let report = match super::compile(&wasm) {
        Ok((inspection, build, code)) => {
            native
                .write_all(&code)
                .map_err(|error| format!("while writing the native code: {error}"))?;
            CompileReport::Compiled {
                inspection,
                build,
                native_bytes: code.len() as u64,
            }
        }
        Err(CompileError::Refused(refusal)) => CompileReport::Refused {
            code: refusal.code.into(),
            text: refusal.text,
        },
        Err(CompileError::Engine(error)) => return Err(error.to_string()),
    };
    serde_json::to_writer(io::stdout().lock(), &report)
        .map_err(|error| format!("while writing the report: {error}"))
}

fn claim_native() -> Result<File, String> {
    // SAFETY: it is only asked whether the descriptor is open.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(NATIVE) })
        .map_err(|_| "descriptor 3 is not open; only the control process starts a compile child")?;
    // SAFETY: it is open, this process has opened nothing itself yet, and nothing else uses it.
    Ok(unsafe { File::from_raw_fd(NATIVE) })
}
