//! `midge new`: a folder with an app to begin from.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use model::AppName;

use crate::failure::{Failure, While as _};
use crate::screen;

/// Make a folder with an app to begin from
///
/// The folder is called like the app, and must not exist yet.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge new hello
  midge new hello --template rust --at ~/src/hello")]
pub struct Options {
    /// The app's name
    name: AppName,
    /// What it is written in
    #[arg(long, value_enum, default_value_t = Template::Rust)]
    template: Template,
    /// Make this folder instead of one called like the app
    #[arg(long, value_name = "DIR")]
    at: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Template {
    /// Rust, answering HTTP through `wasi:http`
    Rust,
}

/// A template's files: where each goes, and what is in it.
type Files = &'static [(&'static str, &'static str)];

const RUST: Files = &[
    (
        "Cargo.toml",
        include_str!("../../../../templates/rust/Cargo.toml"),
    ),
    (
        "src/lib.rs",
        include_str!("../../../../templates/rust/src/lib.rs"),
    ),
    (
        "midge.toml",
        include_str!("../../../../templates/rust/midge.toml"),
    ),
    (
        ".gitignore",
        include_str!("../../../../templates/rust/.gitignore"),
    ),
    (
        "README.md",
        include_str!("../../../../templates/rust/README.md"),
    ),
];

impl Template {
    fn files(self) -> Files {
        match self {
            Self::Rust => RUST,
        }
    }
}

/// What the templates are called; a new app's name takes its place.
const APP: &str = "hello-midge";

pub fn run(options: &Options) -> Result<(), Failure> {
    let name = options.name.as_str();
    let folder = options.at.clone().unwrap_or_else(|| PathBuf::from(name));
    let shown = folder.display();
    make_folder(&folder)?;
    for (path, text) in options.template.files() {
        write(&folder.join(path), &renamed(path, text, name))
            .or_fail(|| format!("writing `{shown}/{path}`"))?;
    }
    screen::line(format_args!("made {shown}"))?;
    screen::note(format_args!(
        "next: `cd {shown} && midge deploy`; `rustup target add wasm32-wasip2` if Rust cannot build for Wasm yet"
    ));
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    let shown = folder.display();
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent).or_fail(|| format!("making `{}`", parent.display()))?;
    }
    match std::fs::create_dir(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Failure::failed(format!("`{shown}` exists already"))
                .hint("choose another name, or another folder with `--at DIR`"))
        }
        Err(error) => Err(error).or_fail(|| format!("making `{shown}`")),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path
        .parent()
        .expect("every file of a template is in a folder");
    std::fs::create_dir_all(folder)?;
    std::fs::write(path, text)
}

/// A template's text for the app `name`.
fn renamed(path: &str, text: &str, name: &str) -> String {
    let package = package(name);
    let built = package.replace('-', "_");
    let text = text.replace(&APP.replace('-', "_"), &built);
    match path {
        "Cargo.toml" => text.replace(APP, &package),
        _ => text.replace(APP, name),
    }
}

/// The name of the Rust package of the app `name`: Cargo refuses digits at the beginning and words of the language.
fn package(name: &str) -> String {
    const RESERVED: &[&str] = &[
        "abstract",
        "alloc",
        "as",
        "async",
        "await",
        "become",
        "box",
        "break",
        "build",
        "const",
        "continue",
        "core",
        "crate",
        "deps",
        "do",
        "dyn",
        "else",
        "enum",
        "examples",
        "extern",
        "false",
        "final",
        "fn",
        "for",
        "gen",
        "if",
        "impl",
        "in",
        "incremental",
        "let",
        "loop",
        "macro",
        "match",
        "mod",
        "move",
        "mut",
        "override",
        "priv",
        "proc-macro",
        "pub",
        "ref",
        "return",
        "self",
        "static",
        "std",
        "struct",
        "super",
        "test",
        "trait",
        "true",
        "try",
        "type",
        "typeof",
        "unsafe",
        "unsized",
        "use",
        "virtual",
        "where",
        "while",
        "wstd",
        "yield",
    ];
    if name.starts_with(|c: char| c.is_ascii_digit()) || RESERVED.contains(&name) {
        format!("app-{name}")
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Project;

    fn made(name: &str) -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("apps/folder");
        let options = Options {
            name: name.parse().unwrap(),
            template: Template::Rust,
            at: Some(folder.clone()),
        };
        run(&options).unwrap();
        let again = run(&options).unwrap_err();
        assert!(again.what.contains("exists already"), "{}", again.what);
        (home, folder)
    }

    #[test]
    fn a_new_app_is_called_as_it_was_told() {
        let check = |name: &str, package: &str, built: &str| {
            let (_home, folder) = made(name);
            let project = Project::find(Some(&folder)).unwrap();
            assert_eq!(project.manifest.name.as_str(), name);
            assert!(project.component().unwrap().ends_with(built));
            let cargo = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            assert!(cargo.contains(&format!("name = \"{package}\"")), "{cargo}");
            for (path, _) in RUST {
                let text = std::fs::read_to_string(folder.join(path)).unwrap();
                assert!(!text.contains("hello-midge") && !text.contains("hello_midge"));
            }
        };
        check("shop", "shop", "release/shop.wasm");
        check("my-shop", "my-shop", "release/my_shop.wasm");
        check("3d", "app-3d", "release/app_3d.wasm");
        check("test", "app-test", "release/app_test.wasm");
    }
}
