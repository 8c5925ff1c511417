//! Every interface a guest may import, and how Midge stands to it. What is not here is refused by name at deploy.

use model::{Grants, Import};

/// How Midge stands to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Lent to every guest.
    Free,
    /// Lent where a grant covers it; elsewhere its calls fail with its own access-denied error.
    Asks(Grant),
}

/// What a manifest's `[grant]` opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    Http,
    KeyValue,
    Tcp,
}

impl Grant {
    /// A line for the manifest that would grant it.
    pub fn line(self) -> &'static str {
        match self {
            Self::Http => r#"http = ["https://api.example.com"]"#,
            Self::KeyValue => r#"kv = ["default"]"#,
            Self::Tcp => r#"tcp = ["db.example.com:5432"]"#,
        }
    }

    /// Whether `grants` hold anything of the kind.
    fn is_in(self, grants: &Grants) -> bool {
        match self {
            Self::Tcp => false,
            Self::Http => !grants.http.is_empty(),
            Self::KeyValue => !grants.kv.is_empty(),
        }
    }
}

/// Which versions of an interface are the same to a guest.
enum Versions {
    /// Every stable version of these tracks, such as `0.2`: those without a pre-release part are matched by track.
    Stable(&'static [&'static str]),
    /// These and no others: a pre-release is matched to the letter.
    Exactly(&'static [&'static str]),
}

use Standing::{Asks, Free};
use Versions::{Exactly, Stable};

const P2: Versions = Stable(&["0.2"]);
const P3: Versions = Stable(&["0.3"]);
const BOTH: Versions = Stable(&["0.2", "0.3"]);

const HTTP: Standing = Asks(Grant::Http);
const KEY_VALUE: Standing = Asks(Grant::KeyValue);
const TCP: Standing = Asks(Grant::Tcp);

/// What command modules import their functions from.
pub const PREVIEW1: &str = "wasi_snapshot_preview1";

const WASI_KEY_VALUE: Versions = Exactly(&["0.2.0-draft", "0.2.0-draft2"]);

const INTERFACES: &[(&str, Versions, Standing)] = &[
    ("fermyon:spin/key-value", Stable(&["2.0"]), KEY_VALUE),
    ("fermyon:spin/variables", Stable(&["2.0"]), Free),
    ("spin:key-value/key-value", Stable(&["3.0"]), KEY_VALUE),
    ("spin:variables/variables", Stable(&["3.0"]), Free),
    ("wasi:cli/environment", BOTH, Free),
    ("wasi:cli/exit", BOTH, Free),
    ("wasi:cli/stderr", BOTH, Free),
    ("wasi:cli/stdin", BOTH, Free),
    ("wasi:cli/stdout", BOTH, Free),
    ("wasi:cli/terminal-input", BOTH, Free),
    ("wasi:cli/terminal-output", BOTH, Free),
    ("wasi:cli/terminal-stderr", BOTH, Free),
    ("wasi:cli/terminal-stdin", BOTH, Free),
    ("wasi:cli/terminal-stdout", BOTH, Free),
    ("wasi:cli/types", P3, Free),
    ("wasi:clocks/monotonic-clock", BOTH, Free),
    ("wasi:clocks/system-clock", P3, Free),
    ("wasi:clocks/types", P3, Free),
    ("wasi:clocks/wall-clock", P2, Free),
    (
        "wasi:config/store",
        Exactly(&["0.2.0-draft", "0.2.0-draft-2024-09-27", "0.2.0-rc.1"]),
        Free,
    ),
    ("wasi:filesystem/preopens", BOTH, Free),
    ("wasi:filesystem/types", BOTH, Free),
    ("wasi:http/client", P3, HTTP),
    ("wasi:http/outgoing-handler", P2, HTTP),
    ("wasi:http/types", BOTH, Free),
    ("wasi:io/error", P2, Free),
    ("wasi:io/poll", P2, Free),
    ("wasi:io/streams", P2, Free),
    ("wasi:keyvalue/atomics", WASI_KEY_VALUE, KEY_VALUE),
    ("wasi:keyvalue/batch", WASI_KEY_VALUE, KEY_VALUE),
    ("wasi:keyvalue/store", WASI_KEY_VALUE, KEY_VALUE),
    ("wasi:random/insecure", BOTH, Free),
    ("wasi:random/insecure-seed", BOTH, Free),
    ("wasi:random/random", BOTH, Free),
    ("wasi:sockets/instance-network", P2, TCP),
    ("wasi:sockets/ip-name-lookup", BOTH, TCP),
    ("wasi:sockets/network", P2, TCP),
    ("wasi:sockets/tcp", P2, TCP),
    ("wasi:sockets/tcp-create-socket", P2, TCP),
    ("wasi:sockets/types", P3, TCP),
    ("wasi:sockets/udp", P2, TCP),
    ("wasi:sockets/udp-create-socket", P2, TCP),
];

/// How Midge stands to the interface that a guest calls `name`, such as `wasi:http/types@0.2.6`; none if it does not
/// know it in that version.
pub fn find(name: &str) -> Option<Standing> {
    if name == PREVIEW1 {
        return Some(Free);
    }
    let (interface, version) = name.split_once('@')?;
    let (_, versions, standing) = INTERFACES.iter().find(|(known, ..)| *known == interface)?;
    versions.include(version).then_some(*standing)
}

/// The same import as an app that has `grants` finds it.
pub fn under(import: Import, grants: &Grants) -> Import {
    let name = import.name().to_owned();
    match find(&name) {
        Some(Standing::Asks(grant)) if grant.is_in(grants) => Import::Granted { name },
        Some(Standing::Asks(_)) => Import::Denied { name },
        Some(Standing::Free) | None => import,
    }
}

/// The versions of `interface` that Midge knows, in words; none if it knows none.
pub fn known_versions(interface: &str) -> Option<String> {
    let (_, versions, _) = INTERFACES.iter().find(|(known, ..)| *known == interface)?;
    Some(match versions {
        Stable(tracks) => tracks.join(" and "),
        Exactly(versions) => versions.join(", "),
    })
}

/// Whether calls to the interface `name` are asynchronous: those of WASI 0.3, and those of the third version of Spin's own. Only
/// an engine with component-async links them.
pub fn is_asynchronous(name: &str) -> bool {
    name.split_once('@').is_some_and(|(interface, version)| {
        is_stable(version, "0.3") || interface.starts_with("spin:") && is_stable(version, "3.0")
    })
}

/// Whether `version` is a stable one of `track`: `0.2.6` is of `0.2`, `0.2.0-rc.1` of none.
pub fn is_stable(version: &str, track: &str) -> bool {
    let rest = version.strip_prefix(track);
    let patch = rest.and_then(|rest| rest.strip_prefix('.'));
    patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
}

impl Versions {
    fn include(&self, version: &str) -> bool {
        match self {
            Stable(tracks) => tracks.iter().any(|track| is_stable(version, track)),
            Exactly(versions) => versions.contains(&version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_known_by_its_name_and_version_track() {
        let check = |name: &str, expected: Option<Standing>| {
            assert_eq!(find(name), expected, "{name}");
        };
        check("wasi:http/types@0.2.0", Some(Free));
        check("wasi:http/types@0.2.12", Some(Free));
        check("wasi:http/types@0.2.999", Some(Free));
        check("wasi:http/types@0.3.0", Some(Free));
        check("wasi:http/types@0.3.2", Some(Free));
        check("wasi:http/types@0.3.0-rc-2026-03-15", None);
        check("wasi:http/types@0.4.0", None);
        check("wasi:http/client@0.3.0", Some(HTTP));
        check("wasi:http/client@0.2.0", None);
        check("wasi:io/streams@0.3.0", None);
        check("wasi:http/types@0.2.0-rc-2023-11-10", None);
        check("wasi:http/types@0.2.", None);
        check("wasi:http/types", None);
        check("wasi:http/outgoing-handler@0.2.6", Some(HTTP));
        check("wasi:sockets/udp@0.2.3", Some(TCP));
        check("wasi:config/store@0.2.0-rc.1", Some(Free));
        check("wasi:config/store@0.2.0-rc.2", None);
        check("wasi:config/store@0.2.0", None);
        check("fermyon:spin/key-value@2.0.0", Some(KEY_VALUE));
        check("fermyon:spin/key-value@1.0.0", None);
        check("spin:key-value/key-value@3.0.0", Some(KEY_VALUE));
        check("fermyon:spin/variables@2.0.0", Some(Free));
        check("spin:variables/variables@3.0.0", Some(Free));
        check("spin:variables/variables@2.0.0", None);
        check("wasi:keyvalue/atomics@0.2.0-draft2", Some(KEY_VALUE));
        check("wasi:keyvalue/watcher@0.2.0-draft2", None);
        check("wasi_snapshot_preview1", Some(Free));
        check("wasi_unstable", None);
        check("", None);
    }

    #[test]
    fn the_table_is_sorted_and_names_nothing_twice() {
        assert!(INTERFACES.is_sorted_by(|a, b| a.0 < b.0));
    }
}
