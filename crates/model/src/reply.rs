//! What the platform does to an app's replies on their way out, where the manifest asks for it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The manifest's table `[reply]`. Left out, replies leave as the guest wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replies {
    /// How replies may be compressed, the app's favourite first; each once. None: not at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compress: Vec<Coding>,
}

impl Replies {
    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        self.compress.is_empty()
    }

    /// The coding that is named twice, if one is.
    pub fn twice(&self) -> Option<Coding> {
        let named = self.compress.iter().enumerate();
        let mut again = named.filter(|(i, coding)| self.compress[..*i].contains(coding));
        again.next().map(|(_, coding)| *coding)
    }
}

/// A way to compress a reply, by its name in HTTP (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coding {
    #[serde(rename = "br")]
    Brotli,
    #[serde(rename = "zstd")]
    Zstd,
    #[serde(rename = "gzip")]
    Gzip,
}

impl Coding {
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
