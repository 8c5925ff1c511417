//! What TLS sessions are resumed with: the keys that seal tickets, the same for all workers of a node.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A key that seals tickets, and the name that its tickets begin with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKey {
    pub name: [u8; 16],
    pub secret: [u8; 32],
}

/// The keys of one moment. They are in memory alone, never on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeys {
    /// Seals what is handed out, and opens it.
    pub newest: TicketKey,
    /// Opens what was handed out before.
    pub before: Option<TicketKey>,
    /// When `newest` was made, in milliseconds since 1970.
    pub made_ms: u64,
}

/// Its name alone.
impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = u128::from_be_bytes(self.name);
        f.debug_tuple("TicketKey")
            .field(&format_args!("{name:032x}"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_shown_by_accident() {
        let newest = TicketKey {
            name: [0x5a; 16],
            secret: [0xc3; 32],
        };
        let keys = TicketKeys {
            before: Some(newest.clone()),
            newest,
            made_ms: 7,
        };
        let shown = format!("{keys:?}");
        assert!(shown.contains(&"5a".repeat(16)), "{shown}");
        assert!(!shown.contains("195") && !shown.contains("c3c3"), "{shown}");
    }
}
