//! What a guest imports and was not granted, with the line of `midge.toml` that would grant it.

use capabilities::interfaces::{self, Standing};
use model::{Import, Manifest};
use serde::Serialize;

/// A known interface that is linked to a denier.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Denied {
    pub interface: String,
    /// The line for the manifest's `[grant]`; none while no grant opens this interface.
    pub grant: Option<&'static str>,
}

/// The denied ones among `imports`, in their order.
pub fn denied(imports: &[Import]) -> Vec<Denied> {
    let denied = imports.iter().filter_map(|import| match import {
        Import::Free { .. } | Import::Granted { .. } => None,
        Import::Denied { name } => Some(Denied {
            interface: name.clone(),
            grant: line_for(name),
        }),
    });
    denied.collect()
}

impl Denied {
    /// One line for a person.
    pub fn text(&self) -> String {
        let interface = &self.interface;
        match self.grant {
            Some(line) => format!("{interface}: add `{line}` below `[grant]` in midge.toml"),
            None => format!("{interface}: this release has no grant for it"),
        }
    }
}

/// The line that the interface table keeps for `name`, if manifests of this release take it.
fn line_for(name: &str) -> Option<&'static str> {
    let Some(Standing::Asks(grant)) = interfaces::find(name) else {
        return None;
    };
    let line = grant.line();
    let manifest = format!("name = \"a\"\n[grant]\n{line}\n");
    Manifest::from_toml(&manifest).is_ok().then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_denied_imports_are_listed_and_only_lines_that_a_manifest_takes() {
        let imports = [
            Import::Free {
                name: "wasi:io/streams@0.2.6".into(),
            },
            Import::Denied {
                name: "wasi:sockets/tcp@0.2.6".into(),
            },
        ];
        let denied = denied(&imports);
        assert_eq!(denied.len(), 1);
        let text = denied[0].text();
        assert!(text.starts_with("wasi:sockets/tcp@0.2.6: "), "{text}");
        if let Some(line) = denied[0].grant {
            assert!(text.contains(line));
        }
    }
}
