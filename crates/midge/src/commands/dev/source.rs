//! What `midge dev` serves: a project that is built, or a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use ignore::{DirEntry, WalkBuilder};
use model::{
    AppName, HttpGrant, HttpGrantError, Manifest, NameError, RouteClaim, SecretName, SecretText,
    StoreName,
};
use zeroize::Zeroizing;

use crate::commands::deploy::Upload;
use crate::failure::Failure;
use crate::project::Project;
use crate::screen;
use crate::upload_file;

/// What is served, with what the command line grants it besides.
pub struct Source {
    name: AppName,
    kind: Kind,
    env: Vec<(String, String)>,
    grants: Vec<Grant>,
    /// Files of the folder that no person writes: the component, and what [`BUILDS`] in a row have changed.
    generated: BTreeSet<PathBuf>,
    /// What has changed during the last build, and during how many in a row.
    built: BTreeMap<PathBuf, u32>,
}

/// A person may change a file during a build, and during the next; who changes it during so many was a program.
const BUILDS: u32 = 4;

enum Kind {
    /// A file alone.
    File(PathBuf),
    /// A file in the place of what the manifest's build makes.
    FileOf { file: PathBuf, manifest: PathBuf },
    /// The manifest that was named, or that of the current folder.
    Project(Option<PathBuf>),
}

/// What there is to be watched.
#[derive(Debug, Default)]
pub struct State {
    /// Each with when it was written and its length.
    pub files: BTreeMap<PathBuf, (Option<SystemTime>, u64)>,
    pub folders: BTreeSet<PathBuf>,
}

/// A grant of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    Env(String, String),
    Config(String, String),
    Kv(StoreName),
    Http(HttpGrant),
    /// One that is set by another flag.
    Secret(SecretName),
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(destination) = text.strip_prefix("http=") {
            let granted = destination.parse().map(Self::Http);
            return granted.map_err(|error: HttpGrantError| error.to_string());
        }
        let (what, rest) = text.split_once('.').unwrap_or((text, ""));
        match (what, variable(rest)) {
            ("env", Ok((name, value))) => Ok(Self::Env(name, value)),
            ("config", Ok((name, value))) => Ok(Self::Config(name, value)),
            ("env" | "config", Err(error)) => Err(error),
            ("kv", _) => rest
                .parse()
                .map(Self::Kv)
                .map_err(|error| format!("{error}")),
            _ => Err(
                "there is `config.NAME=VALUE`, `env.NAME=VALUE`, `kv.NAME` and `http=DESTINATION`"
                    .into(),
            ),
        }
    }
}

/// `NAME=VALUE`
pub fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is written NAME=VALUE".into()),
    }
}

/// `NAME=VALUE`, of a secret
pub fn secret(text: &str) -> Result<(SecretName, SecretText), String> {
    let (name, value) = variable(text)?;
    let name = name.parse().map_err(|error: NameError| error.to_string())?;
    let value = SecretText::new(Zeroizing::new(value.into_bytes()));
    Ok((name, value.map_err(|error| error.to_string())?))
}

/// `NAME=FILE`, of a secret
pub fn secret_file(text: &str) -> Result<(SecretName, PathBuf), String> {
    let (name, file) = variable(text)?;
    let name = name.parse().map_err(|error: NameError| error.to_string())?;
    Ok((name, file.into()))
}

impl Source {
    /// What the command line names; whether it can be built and served, [`Self::make`] finds out.
    pub fn find(
        file: Option<PathBuf>,
        manifest: Option<PathBuf>,
        env: Vec<(String, String)>,
        grants: Vec<Grant>,
    ) -> Result<Self, Failure> {
        let (name, kind) = match (file, manifest) {
            (Some(file), None) => (upload_file::name_of(&file)?, Kind::File(file)),
            (Some(file), Some(manifest)) => {
                let name = Project::find(Some(&manifest))?.manifest.name;
                (name, Kind::FileOf { file, manifest })
            }
            (None, manifest) => {
                let name = Project::find(manifest.as_deref())?.manifest.name;
                (name, Kind::Project(manifest))
            }
        };
        Ok(Self {
            name,
            kind,
            env,
            grants,
            generated: BTreeSet::new(),
            built: BTreeMap::new(),
        })
    }

    pub fn name(&self) -> &AppName {
        &self.name
    }

    /// Whether nothing is built here: what is wrong with a file stays wrong.
    pub fn is_file(&self) -> bool {
        !matches!(self.kind, Kind::Project(_))
    }

    /// Builds what is to be built, and reads what came of it.
    pub async fn make(&mut self) -> Result<Upload, Failure> {
        let (manifest, path) = match &self.kind {
            Kind::File(file) => (Manifest::bare(self.name.clone()), file.clone()),
            Kind::FileOf { file, manifest } => {
                (Project::find(Some(manifest))?.manifest, file.clone())
            }
            Kind::Project(manifest) => {
                let project = Project::find(manifest.as_deref())?;
                let component = project.component()?;
                self.build(&project, &component).await?;
                (project.manifest, component)
            }
        };
        if manifest.name != self.name {
            let (name, before) = (manifest.name, &self.name);
            let what = format!("the app is called `{name}` now, and not `{before}` any more");
            return Err(Failure::failed(what).hint("end this with Ctrl-C and start it again"));
        }
        Upload::read(self.with_grants(manifest), &path)
    }

    async fn build(&mut self, project: &Project, component: &Path) -> Result<(), Failure> {
        if project.manifest.build.is_some() {
            self.generated.insert(component.to_owned());
        }
        let before = self.state();
        let built = project.build_unless_dropped().await;
        let now = before.difference(&self.state());
        let times = |file: PathBuf| {
            let before = self.built.get(&file).copied().unwrap_or(0);
            (file, before + 1)
        };
        self.built = now.into_iter().map(times).collect();
        for (file, _) in self.built.iter().filter(|(_, times)| **times >= BUILDS) {
            screen::note(format_args!(
                "`{}` changes with every build, and counts as a part of the app no longer; `.gitignore` may name it",
                file.display()
            ));
            self.generated.insert(file.clone());
        }
        built.map(drop)
    }

    /// The manifest with the grants of the command line, for an app that answers whatever host is asked for.
    fn with_grants(&self, mut manifest: Manifest) -> Manifest {
        let mut routes: Vec<RouteClaim> = Vec::new();
        for claim in manifest.routes {
            let claim = RouteClaim {
                host: None,
                ..claim
            };
            if !routes.contains(&claim) {
                routes.push(claim);
            }
        }
        manifest.routes = routes;
        let grant = &mut manifest.grant;
        grant.env.extend(self.env.iter().cloned());
        for granted in self.grants.iter().cloned() {
            match granted {
                Grant::Env(name, value) => drop(grant.env.insert(name, value)),
                Grant::Config(name, value) => drop(grant.config.insert(name, value)),
                Grant::Kv(name) => drop(grant.kv.insert(name)),
                Grant::Http(destination) => drop(grant.http.insert(destination)),
                Grant::Secret(name) => drop(grant.secrets.insert(name)),
            }
        }
        manifest
    }

    /// What is there now.
    pub fn state(&self) -> State {
        let mut state = State::default();
        match &self.kind {
            Kind::File(file) => state.add(file),
            Kind::FileOf { file, manifest } => {
                state.add(file);
                state.add(&manifest_file(manifest));
            }
            Kind::Project(manifest) => {
                // What is wrong with the manifest is told when it is built.
                let project = Project::find(manifest.as_deref()).ok();
                let named = manifest.as_deref().map(manifest_file);
                state.add(&named.unwrap_or_else(|| crate::project::MANIFEST.into()));
                if let Some(project) = project {
                    state.add_all(project.folder(), &self.generated);
                    if let (None, Ok(component)) = (&project.manifest.build, project.component()) {
                        state.add(&component);
                    }
                }
            }
        }
        state
    }
}

fn manifest_file(named: &Path) -> PathBuf {
    if named.is_dir() {
        named.join(crate::project::MANIFEST)
    } else {
        named.to_owned()
    }
}

impl State {
    /// Counts a file, whether it is there or not.
    fn add(&mut self, file: &Path) {
        if let Ok(found) = std::fs::metadata(file) {
            let stamp = (found.modified().ok(), found.len());
            self.files.insert(file.to_owned(), stamp);
        }
        let folder = match file.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        self.folders.insert(folder.to_owned());
    }

    /// Counts what lies below `folder` and is written by people.
    fn add_all(&mut self, folder: &Path, generated: &BTreeSet<PathBuf>) {
        let is_source = |entry: &DirEntry| {
            let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
            // Also where nobody wrote a `.gitignore`.
            !(is_folder && (entry.file_name() == "target" || entry.file_name() == "node_modules"))
        };
        let mut walk = WalkBuilder::new(folder);
        // Of all that could say what does not count, the folder's own `.gitignore` and those below.
        walk.parents(false)
            .ignore(false)
            .git_global(false)
            .git_exclude(false)
            .require_git(false)
            .filter_entry(is_source);
        // What cannot be read cannot be built from either.
        for entry in walk.build().flatten() {
            match entry.file_type() {
                Some(kind) if kind.is_dir() => drop(self.folders.insert(entry.into_path())),
                Some(_) if !generated.contains(entry.path()) => self.add(entry.path()),
                _ => {}
            }
        }
    }

    /// The files that are new, gone or changed.
    pub fn difference(&self, other: &Self) -> BTreeSet<PathBuf> {
        let all = self.files.keys().chain(other.files.keys());
        let differs = |file: &&PathBuf| self.files.get(*file) != other.files.get(*file);
        all.filter(differs).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn project(manifest: &str) -> (Source, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("midge.toml"), manifest).unwrap();
        let manifest = Some(folder.path().to_owned());
        let source = Source::find(None, manifest, Vec::new(), Vec::new());
        (source.unwrap(), folder)
    }

    fn names(state: &State) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        state.files.keys().map(name).collect()
    }

    #[test]
    fn what_people_write_counts() {
        let (mut source, folder) = project("name = 'a'\nbuild = 'true'\ncomponent = 'a.wasm'");
        let write = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        for path in [
            "src/lib.rs",
            "target/x",
            "node_modules/y",
            "out/z",
            ".hidden",
        ] {
            write(path);
        }
        fs::write(folder.path().join(".gitignore"), "out\n").unwrap();
        assert_eq!(names(&source.state()), ["midge.toml", "lib.rs"]);
        write("a.wasm");
        source.generated.insert(folder.path().join("a.wasm"));
        let before = source.state();
        write("src/deep/new.rs");
        let changed = before.difference(&source.state());
        assert_eq!(
            Vec::from_iter(changed),
            [folder.path().join("src/deep/new.rs")]
        );
    }

    #[tokio::test]
    async fn what_builds_write_counts_no_longer_than_it_takes_to_see_that() {
        let build = "date +%N > made.rs; printf x > a.wasm";
        let (mut source, folder) = project(&format!(
            "name = 'a'\nbuild = '{build}'\ncomponent = 'a.wasm'"
        ));
        for _ in 1..BUILDS {
            let failure = source.make().await.unwrap_err();
            assert!(failure.what.contains("a.wasm"), "{}", failure.what);
            assert_eq!(names(&source.state()).len(), 2);
        }
        assert!(source.make().await.is_err());
        assert!(source.generated.contains(&folder.path().join("made.rs")));
        assert_eq!(names(&source.state()), ["midge.toml"]);
    }

    #[test]
    fn an_app_answers_whatever_host_is_asked_for_with_the_grants_it_was_given() {
        let (mut source, _folder) = project("name = 'a'");
        source.env = vec![variable("A=B=C").unwrap()];
        source.grants = vec![
            "config.color=blue".parse().unwrap(),
            "env.X=".parse().unwrap(),
            "http=http://127.0.0.1:3000".parse().unwrap(),
        ];
        let manifest = Manifest::from_toml(
            "name = 'a'\n[[route]]\nhost = 'a.test'\n[[route]]\nhost = 'b.test'\n[[route]]\npath = '/x'\n[grant]\nenv = { A = 'old' }",
        );
        let manifest = source.with_grants(manifest.unwrap());
        assert_eq!(manifest.routes.len(), 2);
        assert!(manifest.routes.iter().all(|claim| claim.host.is_none()));
        assert_eq!(manifest.grant.env["A"], "B=C");
        assert_eq!(manifest.grant.env["X"], "");
        assert_eq!(manifest.grant.config["color"], "blue");
        assert_eq!(manifest.grant.http.len(), 1);
        for wrong in ["config", "config.x", "moon.x=y", "env.=x", "http=localhost"] {
            assert!(wrong.parse::<Grant>().is_err(), "{wrong}");
        }
    }
}
