//! The compile child alone: `tests/child.rs` starts it as control does.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::compile::child()
}
