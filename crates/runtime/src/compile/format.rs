//! What kind of file an upload is, by its first bytes; and whether all of it is there.

use model::{Size, limits};

use super::Refusal;

const MAGIC: &[u8; 4] = b"\0asm";

/// Files that are mistaken for Wasm: how they begin, the code, what they are and what to do.
const OTHERS: &[(&[u8], &str, &str, &str)] = &[
    (
        b"MZ",
        "native-code",
        "native code (a Windows program)",
        "upload the `.wasm` that your compiler made",
    ),
    (
        b"\xcf\xfa\xed\xfe",
        "native-code",
        "native code (Mach-O)",
        "upload the `.wasm` that your compiler made",
    ),
    (
        b"\xca\xfe\xba\xbe",
        "native-code",
        "native code (Mach-O) or a Java class",
        "upload the `.wasm` that your compiler made",
    ),
    (
        b"BC\xc0\xde",
        "not-wasm",
        "LLVM bitcode",
        "link it first and upload the `.wasm`",
    ),
    (
        b"!<arch>\n",
        "not-wasm",
        "a static library",
        "link it into a program or component first and upload the `.wasm`",
    ),
    (
        b"PK\x03\x04",
        "not-wasm",
        "a zip archive",
        "unpack it and upload the `.wasm` inside",
    ),
    (
        b"\x1f\x8b",
        "not-wasm",
        "compressed with gzip",
        "unpack it (`gunzip`) and upload the `.wasm` inside",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "not-wasm",
        "compressed with zstd",
        "unpack it (`unzstd`) and upload the `.wasm` inside",
    ),
    (
        b"\xfd7zXZ\0",
        "not-wasm",
        "compressed with xz",
        "unpack it (`unxz`) and upload the `.wasm` inside",
    ),
    (
        b"BZh",
        "not-wasm",
        "compressed with bzip2",
        "unpack it (`bunzip2`) and upload the `.wasm` inside",
    ),
];

/// Whether `file` is Wasm, whole, and not too large.
pub fn check(file: &[u8]) -> Result<(), Refusal> {
    let limit = limits::WASM.ceiling;
    if file.len() as u64 > limit.bytes() {
        let size = Size(file.len() as u64);
        return Err(Refusal {
            code: "too-large",
            text: format!(
                "it has {size}; an upload may have {limit} (`{}`): leave out debug information (`strip`) or data that can be fetched",
                limits::WASM.name
            ),
        });
    }
    if file.is_empty() {
        return Err(Refusal {
            code: "empty-file",
            text: "the file is empty; did the build fail? build again and upload its `.wasm`"
                .into(),
        });
    }
    if !file.starts_with(&MAGIC[..file.len().min(MAGIC.len())]) {
        return Err(name(file));
    }
    if file.len() < 8 {
        return Err(truncated(file.len(), "its 8-byte header"));
    }
    match file[4..8] {
        [1, 0, 0, 0] | [0x0d, 0, 1, 0] => find_end(file),
        [version, other, layer, _] => Err(Refusal {
            code: "invalid-wasm",
            text: format!(
                "its header says version {} of layer {layer}; this platform knows core modules of version 1 and components of version 13: build it with tools of the present",
                u16::from_le_bytes([version, other])
            ),
        }),
        _ => unreachable!("a slice of four bytes"),
    }
}

/// Says what a file is that is not Wasm.
fn name(file: &[u8]) -> Refusal {
    if file.starts_with(b"\x7fELF") {
        // The engine's own files are ELF with an `EI_OSABI` of their own.
        let kind = if file.get(7) == Some(&200) {
            "ELF, a `.cwasm` that Wasmtime compiled"
        } else {
            "ELF"
        };
        return Refusal {
            code: "native-code",
            text: format!(
                "this is native code ({kind}), not Wasm; upload the `.wasm` your compiler made, the platform compiles it itself"
            ),
        };
    }
    if let Some((_, code, what, todo)) = OTHERS.iter().find(|(head, ..)| file.starts_with(head)) {
        let code = *code;
        let text = format!("this is {what}, not Wasm; {todo}");
        return Refusal { code, text };
    }
    let head = &file[..file.len().min(1024)];
    let text = String::from_utf8_lossy(head);
    let is_text = !text
        .chars()
        .any(|c| c == '\0' || (c == '\u{fffd}' && head.len() < 1021));
    let first = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with(";;"));
    let text = match first {
        Some(line) if line.starts_with("(module") || line.starts_with("(component") => {
            "this is Wasm in its text format; upload the binary that `wasm-tools parse` or `wat2wasm` makes of it".into()
        }
        Some(_) if is_text => {
            "this is text, not Wasm; upload the `.wasm` your compiler made".into()
        }
        _ => {
            let start: String = head.iter().take(4).map(|b| format!("{b:02x} ")).collect();
            format!(
                "this is not Wasm: it begins with the bytes {}and Wasm begins with 00 61 73 6d; upload the `.wasm` your compiler made",
                start
            )
        }
    };
    Refusal {
        code: "not-wasm",
        text,
    }
}

/// Whether the outermost sections end where the file ends.
fn find_end(file: &[u8]) -> Result<(), Refusal> {
    let mut at = 8;
    while at < file.len() {
        let id = file[at];
        let Some((length, digits)) = read_length(&file[at + 1..]) else {
            return Err(truncated(file.len(), "the length of a section"));
        };
        let end = at + 1 + digits + length as usize;
        if end > file.len() {
            let what = format!("section {id}, which should reach to byte {end}");
            return Err(truncated(file.len(), &what));
        }
        at = end;
    }
    Ok(())
}

/// An unsigned LEB128 of at most 32 bits and how many bytes it took. What is none has length 0: the parser will say.
fn read_length(bytes: &[u8]) -> Option<(u32, usize)> {
    let mut length = 0u64;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(length).unwrap_or(u32::MAX), i + 1));
        }
    }
    if bytes.len() < 5 { None } else { Some((0, 5)) }
}

fn truncated(size: usize, within: &str) -> Refusal {
    Refusal {
        code: "truncated",
        text: format!(
            "the file is cut off: it ends after {size} bytes within {within}; copy or upload it again"
        ),
    }
}
