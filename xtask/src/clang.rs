//! C to WebAssembly, by the compiler from `.tools`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian;

/// The compiler, if it is installed.
pub fn find() -> Option<PathBuf> {
    let libraries = std::fs::read_dir(debian::tree().join("usr/lib")).ok()?;
    let mut compilers: Vec<_> = libraries
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/clang")))
        .filter(|clang| clang.exists())
        .collect();
    compilers.sort();
    compilers.pop()
}

/// Compiles and links `sources` for preview 1.
pub fn compile(clang: &Path, sources: &[PathBuf], to: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(clang);
    command
        .args([
            "--target=wasm32-wasi",
            "-Os",
            "-Wall",
            "-Werror",
            "-Wl,--strip-debug",
        ])
        .arg(format!(
            "--sysroot={}",
            debian::tree().join("usr").display()
        ))
        .args(more)
        .args(sources)
        .arg("-o")
        .arg(to);
    // The linker is found by the search path.
    command.env("PATH", debian::path());
    debian::lend_libraries(&mut command);
    command
}
