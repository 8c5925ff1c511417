//! The file that is to be uploaded: is it there, is it Wasm, is it whole, and what is it called?
//!
//! The platform checks all of this again and more; here the answer comes at once and names the file.

use std::io;
use std::path::Path;

use bytes::Bytes;
use model::{AppName, MAX_NAME_BYTES, limits};

use crate::failure::Failure;
use crate::screen;
use crate::whole_file;

/// The bytes of a Wasm file, plausible and whole.
pub fn read(path: &Path) -> Result<Bytes, Failure> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| missing(path, &error))?;
    if metadata.is_dir() {
        return Err(
            Failure::failed(format!("`{shown}` is a folder, not a Wasm file")).hint(
                "name the `.wasm` in it, or run `midge deploy` in a folder with a `midge.toml`",
            ),
        );
    }
    let limit = limits::WASM.ceiling;
    if metadata.len() > limit.bytes() {
        let size = screen::size(metadata.len());
        return Err(
            Failure::failed(format!("`{shown}` has {size}; one upload may have {limit}"))
                .hint("build it for release and strip it: `wasm-tools strip` takes the debug information out"),
        );
    }
    // Its metadata says nothing of how much a pipe or a device gives.
    let bytes = whole_file::read(path, &limits::WASM)
        .map_err(|error| Failure::failed(format!("`{shown}` {error}")))?;
    match flaw(&bytes) {
        None => Ok(bytes.into()),
        Some(flaw) => {
            Err(Failure::failed(format!("`{shown}` {}", flaw.what)).hint(flaw.what_to_do))
        }
    }
}

fn missing(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::failed(format!("there is no file `{shown}`"))
            .hint("check its name; in an app's folder, `midge build` makes what `component` in `midge.toml` names"),
        _ => Failure::failed(format!("while looking at `{shown}`: {error}")),
    }
}

/// Why some bytes are not a Wasm file; `what` reads on after the file's name.
#[derive(Debug, PartialEq, Eq)]
struct Flaw {
    what: String,
    what_to_do: &'static str,
}

/// What `\0asm` is followed by: a module's version, or a component's and its layer.
const MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

fn flaw(bytes: &[u8]) -> Option<Flaw> {
    let flaw = |what: &str, what_to_do| {
        let what = what.to_owned();
        Some(Flaw { what, what_to_do })
    };
    if bytes.is_empty() {
        return flaw("is empty", "build it again; the last build may have failed");
    }
    if bytes.starts_with(b"\x7fELF") {
        // Ahead-of-time compilers of Wasm write their native code into ELF files, with sections of this name.
        let compiled = bytes.windows(9).any(|window| window == b".wasmtime");
        return if compiled {
            flaw(
                "is native code compiled ahead of time, not Wasm",
                "upload the `.wasm` it was made from; the platform compiles it itself",
            )
        } else {
            flaw(
                "is a program for this machine (ELF), not Wasm",
                "build for Wasm: `cargo build --release --target wasm32-wasip2`",
            )
        };
    }
    if let Some(packing) = packed(bytes) {
        return Some(Flaw {
            what: format!("is {packing}, not Wasm"),
            what_to_do: "unpack it and upload the `.wasm` inside",
        });
    }
    if !bytes.starts_with(b"\0asm") {
        let text = std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'));
        return match (text, bytes.trim_ascii_start().starts_with(b"(")) {
            (true, true) => flaw(
                "is Wasm in its text form",
                "turn it into the binary form with `wasm-tools parse FILE.wat -o FILE.wasm`",
            ),
            (true, false) => flaw("is a text file, not Wasm", "name the built `.wasm`"),
            (false, _) => flaw(
                "is not Wasm: it does not begin with the bytes `\\0asm`",
                "name the built `.wasm`",
            ),
        };
    }
    let again = "build or download it again";
    match bytes.get(4..8) {
        None => return flaw("is cut off: a Wasm file has at least 8 bytes", again),
        Some(version) if version == MODULE || version == COMPONENT => {}
        Some(version) => {
            return Some(Flaw {
                what: format!("is Wasm of an unknown version ({version:02x?})"),
                what_to_do: "build it with a current toolchain; Midge takes version 1 modules and 0.2 components",
            });
        }
    }
    let missing = missing_bytes(bytes)?;
    Some(Flaw {
        what: format!("is cut off: its last section says it has {missing} more bytes"),
        what_to_do: again,
    })
}

fn packed(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "a gzip file"),
        (b"PK\x03\x04", "a zip file"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"BC\xc0\xde", "LLVM bitcode"),
        (b"!<arch>", "a library archive"),
    ];
    let found = kinds.iter().find(|(magic, _)| bytes.starts_with(magic));
    found.map(|(_, name)| *name)
}

/// How many bytes the outermost sections promise beyond the end of the file; none if it is whole. A length that
/// cannot be read is the validator's to report.
fn missing_bytes(bytes: &[u8]) -> Option<u64> {
    let mut at = 8;
    while at < bytes.len() {
        let (length, digits) = leb128(&bytes[at + 1..])?;
        let end = (at + 1 + digits) as u64 + u64::from(length);
        if end > bytes.len() as u64 {
            return Some(end - bytes.len() as u64);
        }
        at = usize::try_from(end).ok()?;
    }
    None
}

/// An unsigned LEB128 number of 32 bits and how many bytes it takes. One that is cut off counts what it would need at
/// least.
fn leb128(bytes: &[u8]) -> Option<(u32, usize)> {
    let mut number: u32 = 0;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        number |= u32::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((number, i + 1));
        }
    }
    (bytes.len() < 5).then_some((1, bytes.len()))
}

/// The name of an app that is deployed from a bare file: the file's own, as far as a name allows.
pub fn name_of(path: &Path) -> Result<AppName, Failure> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = String::new();
    for character in stem.chars() {
        match character.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => name.push(c),
            _ if name.is_empty() || name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    name.truncate(MAX_NAME_BYTES);
    name.trim_end_matches('-').parse().map_err(|_| {
        Failure::usage(format!("no name can be made of `{}`", path.display()))
            .hint("give one with `--name NAME`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with one custom section of `length` bytes of which `present` are there.
    fn module(length: u8, present: usize) -> Vec<u8> {
        let mut bytes = b"\0asm\x01\0\0\0\0".to_vec();
        bytes.push(length);
        bytes.extend(std::iter::repeat_n(0, present));
        bytes
    }

    #[test]
    fn what_is_no_wasm_is_named_for_what_it_is() {
        let check = |bytes: &[u8], part: &str| {
            let flaw = flaw(bytes).unwrap_or_else(|| panic!("{part}: it was taken"));
            assert!(flaw.what.contains(part), "{}", flaw.what);
        };
        check(b"", "empty");
        check(b"\x7fELF\x02\x01", "program for this machine");
        check(b"\x7fELF....\0.wasmtime.engine\0", "native code");
        check(b"hello\n", "text file");
        check(b"  (module)", "text form");
        check(b"\x1f\x8b\x08", "gzip");
        check(b"PK\x03\x04", "zip");
        check(b"\xff\xfe\x00", "does not begin");
        check(b"\0asm", "cut off");
        check(b"\0asm\x02\0\0\0", "unknown version");
        check(&module(10, 4), "6 more bytes");
        check(&module(10, 4)[..9], "1 more");
    }

    #[test]
    fn whole_modules_and_components_pass() {
        for bytes in [
            b"\0asm\x01\0\0\0".to_vec(),
            b"\0asm\x0d\0\x01\0".to_vec(),
            module(10, 10),
            module(0, 0),
        ] {
            assert_eq!(flaw(&bytes), None);
        }
    }

    #[test]
    fn a_module_cut_anywhere_inside_a_section_is_not_whole() {
        let whole = module(40, 40);
        for end in 9..whole.len() {
            assert!(flaw(&whole[..end]).is_some(), "{end}");
        }
    }

    #[test]
    fn a_missing_file_and_a_folder_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let gone = read(&folder.path().join("gone.wasm")).unwrap_err();
        assert!(gone.what.contains("there is no file"), "{}", gone.what);
        let endless = read(Path::new("/dev/zero")).unwrap_err();
        assert!(
            endless.what.contains("larger than 100MiB"),
            "{}",
            endless.what
        );
        let folder = read(folder.path()).unwrap_err();
        assert!(folder.what.contains("is a folder"), "{}", folder.what);
    }

    #[test]
    fn a_files_name_becomes_an_apps_name() {
        let check = |file: &str, name: &str| {
            assert_eq!(name_of(Path::new(file)).unwrap().as_str(), name);
        };
        check("shop.wasm", "shop");
        check("target/wasm32-wasip2/release/my_shop.wasm", "my-shop");
        check("Shop.v2.wasm", "shop-v2");
        check("_-shop-_.wasm", "shop");
        check("a  b.wasm", "a-b");
        check(&format!("{}.wasm", "x".repeat(80)), &"x".repeat(63));
        check("xn--a.wasm", "xn-a");
        for bad in ["ß.wasm", "_.wasm", "/"] {
            assert!(name_of(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
