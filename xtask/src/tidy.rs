//! What is absent matters: the checks that keep the map of DESIGN true, on the text of the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::places;
use crate::progress::Failure;

/// Which crates a crate may use. What is not listed is refused.
const EDGES: [(&str, &[&str]); 9] = [
    ("model", &[]),
    ("distribution", &["model"]),
    ("capabilities", &["model"]),
    ("runtime", &["capabilities", "model"]),
    (
        "node",
        &["distribution", "runtime", "capabilities", "model"],
    ),
    // Never `runtime`: control cannot run a guest. Never `node`: they meet in `distribution`.
    ("control", &["distribution", "capabilities", "model"]),
    (
        "midge",
        &[
            "model",
            "distribution",
            "capabilities",
            "runtime",
            "node",
            "control",
        ],
    ),
    // `capabilities` for what is measured without a platform around it.
    ("tests", &["capabilities", "model"]),
    ("xtask", &[]),
];

/// Runs every check; returns how many.
pub fn check() -> Result<u64, Failure> {
    let files = files()?;
    let checks: [Check; 6] = [
        edges,
        heads,
        engine_is_named_in_the_runtime,
        environment_is_read_in_midge,
        no_machine,
        named_tests_exist,
    ];
    let wrong: Vec<String> = checks.iter().flat_map(|check| check(&files)).collect();
    if wrong.is_empty() {
        Ok(checks.len() as u64)
    } else {
        Err(Failure::new(wrong.join("\n")))
    }
}

/// From the repository's files to what is wrong with them.
type Check = fn(&[File]) -> Vec<String>;

/// A text file of the repository.
struct File {
    /// From the repository's root.
    path: PathBuf,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path
            .extension()
            .is_some_and(|extension| extension == "rs")
    }

    /// The crate that it belongs to, if it is one of the platform's.
    fn platform_crate(&self) -> Option<&str> {
        self.path
            .strip_prefix("crates")
            .ok()?
            .iter()
            .next()?
            .to_str()
    }

    /// A finding about the first line that contains `part`.
    fn line_with(&self, part: &str, why: &str) -> Option<String> {
        let code = |line: &str| !line.trim_start().starts_with("//");
        let (number, _) = self
            .text
            .lines()
            .enumerate()
            .find(|(_, line)| line.contains(part) && code(line))?;
        Some(format!("{}:{}: {why}", self.path.display(), number + 1))
    }
}

/// Every text file that git knows or would take.
fn files() -> Result<Vec<File>, Failure> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(places::root());
    let listed = git
        .output()
        .map_err(|error| Failure::new(format!("`git` cannot be started: {error}")))?;
    if !listed.status.success() {
        return Err(Failure::new(
            "`git ls-files` failed; the checks need a git checkout",
        ));
    }
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let read = |path: &str| {
        let text = std::fs::read_to_string(places::root().join(path)).ok()?;
        Some(File {
            path: PathBuf::from(path),
            text,
        })
    };
    Ok(listed.lines().filter_map(read).collect())
}

/// Crates use each other as the map says, and have their folder's name.
fn edges(files: &[File]) -> Vec<String> {
    let mut wrong = Vec::new();
    let names: Vec<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    for file in files {
        let is_member = file.path.starts_with("crates")
            || ["tests/Cargo.toml", "xtask/Cargo.toml"]
                .map(Path::new)
                .contains(&file.path.as_path());
        if !(is_member && file.path.ends_with("Cargo.toml")) {
            continue;
        }
        let shown = file.path.display();
        let folder = file
            .path
            .parent()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if !file
            .text
            .lines()
            .any(|line| line == format!("name = \"{folder}\""))
        {
            wrong.push(format!(
                "{shown}: a crate has the name of its folder, `{folder}`"
            ));
        }
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == folder) else {
            wrong.push(format!(
                "{shown}: the crate `{folder}` is not on the map in xtask/src/tidy.rs"
            ));
            continue;
        };
        for line in file.text.lines() {
            let used = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if names.contains(&used) && !allowed.contains(&used) {
                wrong.push(format!("{shown}: `{folder}` may not use `{used}`"));
            }
        }
    }
    wrong
}

/// Each file begins by saying what it is for.
fn heads(files: &[File]) -> Vec<String> {
    let headless = |file: &&File| file.is_rust() && !file.text.starts_with("//!");
    let say = |file: &File| {
        format!(
            "{}: a file begins with `//!`: what it is for",
            file.path.display()
        )
    };
    files.iter().filter(headless).map(say).collect()
}

/// Only `runtime` and the `host.rs` files know which engine runs guests.
fn engine_is_named_in_the_runtime(files: &[File]) -> Vec<String> {
    let outside = |file: &&File| {
        let platform = file.platform_crate();
        file.is_rust()
            && platform.is_some_and(|name| name != "runtime")
            && !file.path.ends_with("host.rs")
            && !file.path.iter().any(|part| part == "host")
    };
    let why = "only `runtime` and `host.rs` files name the engine";
    let uses = ["wasmtime::", "wasmtime_"];
    files
        .iter()
        .filter(outside)
        .flat_map(|file| uses.iter().filter_map(|part| file.line_with(part, why)))
        .collect()
}

/// Only `midge` reads flags and the environment.
fn environment_is_read_in_midge(files: &[File]) -> Vec<String> {
    let elsewhere =
        |file: &&File| file.is_rust() && file.platform_crate().is_some_and(|name| name != "midge");
    let why = "only `midge` reads flags and the environment";
    let reads = [
        "env::var",
        "env::args",
        "env::home_dir",
        "env::temp_dir",
        "option_env!",
    ];
    files
        .iter()
        .filter(elsewhere)
        .flat_map(|file| reads.iter().filter_map(|part| file.line_with(part, why)))
        .collect()
}

/// Nothing names a place that exists on one machine alone.
fn no_machine(files: &[File]) -> Vec<String> {
    // In two pieces, so that this file does not find itself.
    let places = [("/wo", "rk/"), ("/ro", "ot/"), ("/home/", "runner")]
        .map(|(one, two)| format!("{one}{two}"));
    let find = |file: &File| {
        let found = places
            .iter()
            .find(|place| file.text.contains(place.as_str()))?;
        Some(format!(
            "{}: `{found}` is a place on one machine alone",
            file.path.display()
        ))
    };
    files.iter().filter_map(find).collect()
}

/// Each test that the page on containment names, as `file::function`, is one.
fn named_tests_exist(files: &[File]) -> Vec<String> {
    const PAGE: &str = "docs/guide/containment.md";
    let Some(page) = files.iter().find(|file| file.path == Path::new(PAGE)) else {
        return vec![format!("{PAGE}: there is no such page")];
    };
    let quoted = page.text.split('`').skip(1).step_by(2);
    let mut named = quoted.filter_map(|text| text.split_once("::")).peekable();
    if named.peek().is_none() {
        return vec![format!("{PAGE}: names no test")];
    }
    let is_test = |(place, function): &(&str, &str)| {
        let place = format!("{place}.rs");
        let here = |file: &&File| {
            let among = file.path.starts_with("tests/it") || file.path.starts_with("crates");
            among && file.path.ends_with(&place)
        };
        files
            .iter()
            .filter(here)
            .any(|file| has_test(file, function))
    };
    named
        .filter(|named| !is_test(named))
        .map(|(place, function)| format!("{PAGE}: there is no test `{place}::{function}`"))
        .collect()
}

/// Whether a file has a test of this name.
fn has_test(file: &File, function: &str) -> bool {
    let head = format!("fn {function}(");
    let mut attributed = false;
    file.text.lines().map(str::trim_start).any(|line| {
        let found = attributed && line.trim_start_matches("async ").starts_with(&head);
        // Other attributes may stand between.
        attributed = match line.strip_prefix("#[") {
            Some(attribute) => attributed || attribute.contains("test"),
            None => false,
        };
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_the_page_names_must_be_one() {
        const TESTS: &str = "#[test]\n#[should_panic]\nfn holds() {\n}\nfn helps() {\n}\n#[tokio::test]\nasync fn waits() {\n}";
        let check = |page: &str, expected: usize| {
            let file = |path: &str, text: &str| File {
                path: path.into(),
                text: text.into(),
            };
            let files = [
                file("docs/guide/containment.md", page),
                file("tests/it/walls.rs", TESTS),
                file("crates/node/src/worker/walls.rs", "#[test]\nfn here() {}"),
                file("examples/rust/walls.rs", "#[test]\nfn elsewhere() {}"),
            ];
            assert_eq!(named_tests_exist(&files).len(), expected, "{page}");
        };
        check("`walls::holds`, `walls::waits` and `worker/walls::here`", 0);
        check("names none, and code such as `limits.rs`", 1);
        check("`walls::helps`", 1);
        check("`walls::nothing` and `nowhere::holds`", 2);
        check("`walls::elsewhere`, `supervisor/walls::here`", 2);
    }
}
