//! The guests that `cargo xtask guests` built, and copies of one that are artifacts of their own.

use std::path::{Path, PathBuf};

/// A kind of guest, by the file it was built into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// A `wasi:http` 0.2 component.
    Component(&'static str),
    /// A `wasi:http` 0.3 service.
    Service(&'static str),
    /// A preview-1 command.
    CommandModule(&'static str),
    /// A `wasi:cli/run` component.
    CommandComponent(&'static str),
    /// A core module with embedded WIT.
    Module(&'static str),
    /// Built from C: `hello-command` or `hello-module`.
    InC(&'static str),
    /// An example of the repository, in Rust.
    Example(&'static str),
}

impl Guest {
    /// Where it was built.
    pub fn path(self) -> PathBuf {
        const COMPONENTS: &str = "guests/wasm32-wasip2/release/examples";
        let service;
        let (folder, name) = match self {
            Self::Component(name) => (COMPONENTS, name),
            Self::Service(name) => {
                service = format!("{name}_03");
                (COMPONENTS, service.as_str())
            }
            Self::CommandModule(name) => ("guests/wasm32-wasip1/release", name),
            Self::CommandComponent(name) => ("guests/wasm32-wasip2/release", name),
            Self::Module(name) => ("guests/wasm32-wasip1/release/examples", name),
            Self::InC(name) => ("guests/c", name),
            Self::Example(name) => ("examples/wasm32-wasip2/release", name),
        };
        target().join(folder).join(format!("{name}.wasm"))
    }

    /// Its bytes.
    pub fn bytes(self) -> Vec<u8> {
        let path = self.path();
        std::fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "`{}` cannot be read ({error}); build it with `cargo xtask guests`",
                path.display()
            )
        })
    }
}

/// Runs a test with the guests as components of `wasi:http` 0.2, then with the same ones as services of 0.3.
pub fn each_version(test: impl Fn(fn(&'static str) -> Vec<u8>)) {
    test(guest);
    test(|name| Guest::Service(name).bytes());
}

/// The component `name` of tests/guests/components.
pub fn guest(name: &'static str) -> Vec<u8> {
    Guest::Component(name).bytes()
}

/// The same guest as an artifact of its own: a custom section that nobody reads tells them apart.
pub fn variant(wasm: &[u8], number: u32) -> Vec<u8> {
    const NAME: &[u8] = b"variant";
    let mut variant = wasm.to_vec();
    variant.extend([0, 1 + NAME.len() as u8 + 4, NAME.len() as u8]);
    variant.extend(NAME);
    variant.extend(number.to_le_bytes());
    variant
}

/// The folder that cargo builds into.
pub fn target() -> &'static Path {
    built()
        .parent()
        .expect("the profile's folder lies in another")
}

/// The folder of the profile that this very program was built in: tests in `release`, benches in `dist`.
pub fn built() -> &'static Path {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BUILT.get_or_init(|| {
        let program = std::env::current_exe().expect("a running program has a file");
        let profile = |folder: &&Path| folder.ends_with("release") || folder.ends_with("dist");
        let built = program.ancestors().find(profile);
        built
            .expect("tests are built in the release profile: `cargo xtask test`")
            .to_owned()
    })
}
