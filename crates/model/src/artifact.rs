//! Artifacts: bytes known by their SHA-256, and the native code made from them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The SHA-256 of some bytes, written as 64 hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// A text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits in lower case (a SHA-256); `{0}` is not")]
pub struct DigestError(String);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first twelve digits: enough to tell artifacts apart in a log line.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 64];
        for (i, byte) in self.0.iter().enumerate() {
            text[2 * i] = DIGITS[usize::from(byte >> 4)];
            text[2 * i + 1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let wrong = || {
            DigestError(
                text.chars()
                    .take(80)
                    .collect::<String>()
                    .escape_default()
                    .to_string(),
            )
        };
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let text_bytes: &[u8; 64] = text.as_bytes().try_into().map_err(|_| wrong())?;
        let mut bytes = [0; 32];
        for (i, pair) in text_bytes.chunks_exact(2).enumerate() {
            let high = digit(pair[0]).ok_or_else(wrong)?;
            let low = digit(pair[1]).ok_or_else(wrong)?;
            bytes[i] = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// Digests bytes that arrive in pieces.
#[derive(Default, Clone)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// One of the engine's settings sets; native code fits exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineSetting {
    /// `wasi:http` 0.2 components and commands: no component-async.
    A,
    /// `wasi:http` 0.3 components: component-async.
    B,
}

/// The instructions native code may use. Never "whatever the compiling machine has".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CpuClass {
    #[serde(rename = "x86-64-v2")]
    X86_64V2,
    #[serde(rename = "x86-64-v3")]
    X86_64V3,
    #[serde(rename = "aarch64")]
    Aarch64,
}

impl CpuClass {
    pub const ALL: [Self; 3] = [Self::X86_64V2, Self::X86_64V3, Self::Aarch64];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64V2 => "x86-64-v2",
            Self::X86_64V3 => "x86-64-v3",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// What native code was built by and for; two builds of one component differ in nothing else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildKey {
    /// The engine's exact version and our own revision of its settings, such as `48.0.8-1`.
    pub engine: String,
    pub setting: EngineSetting,
    pub cpu: CpuClass,
}

impl EngineSetting {
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl fmt::Display for BuildKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (setting, cpu) = (self.setting.as_str(), self.cpu.as_str());
        write!(f, "{}-{setting}-{cpu}", self.engine)
    }
}

/// A text that is not an artifact's file name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of an artifact")]
pub struct ArtifactKeyError(String);

impl FromStr for BuildKey {
    type Err = ArtifactKeyError;
    fn from_str(text: &str) -> Result<Self, ArtifactKeyError> {
        let ends = EngineSetting::ALL
            .into_iter()
            .flat_map(|setting| CpuClass::ALL.map(|cpu| (setting, cpu)));
        for (setting, cpu) in ends {
            let end = format!("-{}-{}", setting.as_str(), cpu.as_str());
            if let Some(engine) = text.strip_suffix(&end) {
                return Ok(Self {
                    engine: engine.to_owned(),
                    setting,
                    cpu,
                });
            }
        }
        Err(ArtifactKeyError(text.escape_default().to_string()))
    }
}

/// What an artifact store keeps bytes under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKey {
    /// What was uploaded: Wasm, named by its own digest.
    Wasm(Digest),
    /// Native code made from the upload with that digest.
    Native(Digest, BuildKey),
    /// What the platform signed about that native code: a `Signed<NativeHeader>` as JSON.
    NativeHeader(Digest, BuildKey),
}

impl fmt::Display for ArtifactKey {
    /// The artifact's file name: no separators, no dots at the start, nothing a tenant chose.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wasm(digest) => write!(f, "{digest}.wasm"),
            Self::Native(digest, build) => write!(f, "{digest}.{build}.native"),
            Self::NativeHeader(digest, build) => write!(f, "{digest}.{build}.header"),
        }
    }
}

impl FromStr for ArtifactKey {
    type Err = ArtifactKeyError;
    fn from_str(text: &str) -> Result<Self, ArtifactKeyError> {
        let wrong = || ArtifactKeyError(text.escape_default().to_string());
        let (digest, rest) = text.split_once('.').ok_or_else(wrong)?;
        let digest = digest.parse().map_err(|_| wrong())?;
        if rest == "wasm" {
            return Ok(Self::Wasm(digest));
        }
        match rest.rsplit_once('.').ok_or_else(wrong)? {
            (build, "native") => Ok(Self::Native(digest, build.parse()?)),
            (build, "header") => Ok(Self::NativeHeader(digest, build.parse()?)),
            _ => Err(wrong()),
        }
    }
}

/// What the platform signs about native code. A node loads a body only if a header signed with the
/// compile key names exactly this upload, this build and the body's own digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativeHeader {
    /// The upload this was made from.
    pub wasm: Digest,
    pub build: BuildKey,
    /// The SHA-256 of the native code itself.
    pub body: Digest,
    /// Its length in bytes.
    pub body_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_as_it_is_written() {
        // FIPS 180-4's example for the message "abc".
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_string(), abc);
        assert_eq!(abc.parse::<Digest>().unwrap(), Digest::of(b"abc"));
        for bad in [
            "",
            "ab",
            &abc.to_uppercase(),
            &abc[..63],
            "../../etc/passwd",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_artifacts_file_name_names_it() {
        let digest = Digest::of(b"abc");
        let build = |cpu| BuildKey {
            engine: "48.0.8-1".into(),
            setting: EngineSetting::A,
            cpu,
        };
        let mut keys = vec![ArtifactKey::Wasm(digest)];
        for cpu in CpuClass::ALL {
            keys.push(ArtifactKey::Native(digest, build(cpu)));
            keys.push(ArtifactKey::NativeHeader(digest, build(cpu)));
        }
        for key in keys {
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        for bad in [
            "",
            "x.wasm",
            &digest.to_string(),
            &format!("{digest}.48-a-mips.native"),
        ] {
            assert!(bad.parse::<ArtifactKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pieces_digest_as_the_whole_does() {
        let mut hasher = Hasher::new();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), Digest::of(b"abc"));
    }
}
