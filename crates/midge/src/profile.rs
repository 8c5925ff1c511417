//! Profiles: which platform a command speaks to and with which token, kept in one file only its owner reads.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use model::limits;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, While as _};
use crate::whole_file::{self, Unreadable};

/// The profile that commands use when none is named.
pub const DEFAULT: &str = "default";

/// Where `midge up` leaves the token it made, in its data folder.
pub const TOKEN_FILE: &str = "admin.token";

/// A platform and how to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Profile {
    /// The control API's address, such as `http://127.0.0.1:8081`.
    pub api: String,
    /// A file that holds the token and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The token itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// What became of the default profile.
#[derive(Debug, PartialEq, Eq)]
pub enum Pointed {
    /// It points here now.
    Here,
    /// It points at a platform that its owner chose; it was left alone.
    Elsewhere(String),
}

/// Every profile of this user, by name: `[NAME]` tables of one TOML file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Profiles(BTreeMap<String, Profile>);

/// The file of this user's profiles; `None` where neither `XDG_CONFIG_HOME` nor `HOME` is set.
pub fn file() -> Option<PathBuf> {
    Some(crate::config::home_folder("XDG_CONFIG_HOME", ".config")?.join("profiles.toml"))
}

impl Profiles {
    /// The profiles in `file`; none if there is no such file.
    pub fn load(file: &Path) -> Result<Self, Failure> {
        let text = match whole_file::read_text(file, &limits::CONFIG_FILE) {
            Ok(text) => text,
            Err(Unreadable::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                String::new()
            }
            Err(error) => return Err(error.of(&format!("the profiles in `{}`", file.display()))),
        };
        let profiles = toml::from_str(&text).map_err(|error| {
            Failure::usage(format!(
                "the profiles in `{}` cannot be used: {}",
                file.display(),
                error.to_string().trim_end()
            ))
            .hint("a profile is a table such as `[default]` with `api` and `token-file` or `token`")
        })?;
        Ok(Self(profiles))
    }

    pub fn find(&self, name: &str) -> Option<&Profile> {
        self.0.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Replaces the file as a whole or not at all; others may not read it.
    fn save(&self, file: &Path) -> Result<(), Failure> {
        let folder = file.parent().expect("the profiles' file is in a folder");
        let text = toml::to_string(&self.0).expect("profiles always have a TOML form");
        let write = || -> std::io::Result<()> {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
            replace(file, text.as_bytes())
        };
        write().or_fail(|| format!("writing the profiles `{}`", file.display()))
    }
}

impl Profile {
    /// The token, from wherever the profile keeps it.
    pub fn read_token(&self) -> Result<Option<String>, Failure> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(file)) => {
                let token = read_token(file).map_err(|failure| {
                    failure.hint("start the platform with `midge up`, or give `--token TOKEN`")
                })?;
                Ok(Some(token))
            }
            (None, None) => Ok(None),
        }
    }

    /// Whether `midge up` wrote this; one that a person wrote is never replaced.
    fn is_ours(&self) -> bool {
        let named_so = |file: &PathBuf| file.file_name().is_some_and(|name| name == TOKEN_FILE);
        self.token.is_none() && self.token_file.as_ref().is_some_and(named_so)
    }
}

/// The token in a file that holds nothing else.
pub fn read_token(file: &Path) -> Result<String, Failure> {
    let text = whole_file::read_text(file, &limits::TOKEN_FILE)
        .map_err(|error| error.of(&format!("the token in `{}`", file.display())))?;
    Ok(text.trim().to_owned())
}

/// Points the default profile in `file` at a platform of this machine.
pub fn point_default(file: &Path, here: Profile) -> Result<Pointed, Failure> {
    let mut profiles = Profiles::load(file)?;
    match profiles.find(DEFAULT) {
        Some(present) if *present == here => return Ok(Pointed::Here),
        Some(present) if !present.is_ours() => {
            return Ok(Pointed::Elsewhere(present.api.clone()));
        }
        _ => {}
    }
    profiles.0.insert(DEFAULT.to_owned(), here);
    profiles.save(file)?;
    Ok(Pointed::Here)
}

/// Writes a file that only its owner reads, whole or not at all.
pub fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = file
        .parent()
        .ok_or_else(|| std::io::Error::other("the file is in no folder"))?;
    let mut new = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    new.write_all(bytes)?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(data: &str, api: &str) -> Profile {
        Profile {
            api: api.to_owned(),
            token_file: Some(Path::new(data).join(TOKEN_FILE)),
            token: None,
        }
    }

    #[test]
    fn a_profile_reads_as_it_was_written_and_is_its_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config/midge/profiles.toml");
        let here = ours("/srv/midge", "http://127.0.0.1:8081");
        assert_eq!(point_default(&file, here.clone()).unwrap(), Pointed::Here);
        let profiles = Profiles::load(&file).unwrap();
        assert_eq!(profiles.find(DEFAULT), Some(&here));
        assert_eq!(profiles.names().collect::<Vec<_>>(), [DEFAULT]);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_midge_up_wrote_it_replaces_and_what_a_person_wrote_it_leaves() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("profiles.toml");
        point_default(&file, ours("/a", "http://127.0.0.1:1")).unwrap();
        let second = ours("/b", "http://127.0.0.1:2");
        assert_eq!(point_default(&file, second.clone()).unwrap(), Pointed::Here);
        assert_eq!(Profiles::load(&file).unwrap().find(DEFAULT), Some(&second));

        let written = "[default]\napi = \"http://far:1\"\ntoken = \"t\"\n";
        std::fs::write(&file, written).unwrap();
        assert_eq!(
            point_default(&file, second).unwrap(),
            Pointed::Elsewhere("http://far:1".into())
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    }

    #[test]
    fn other_profiles_stay_when_the_default_moves() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("profiles.toml");
        std::fs::write(&file, "[far]\napi = \"http://far:1\"\ntoken = \"t\"\n").unwrap();
        point_default(&file, ours("/a", "http://127.0.0.1:1")).unwrap();
        let profiles = Profiles::load(&file).unwrap();
        assert_eq!(profiles.names().collect::<Vec<_>>(), [DEFAULT, "far"]);
        let token = profiles.find("far").unwrap().read_token().unwrap();
        assert_eq!(token.as_deref(), Some("t"));
    }

    #[test]
    fn a_token_is_read_from_its_file_without_the_line_end() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(TOKEN_FILE), "midge_x\n").unwrap();
        let profile = ours(home.path().to_str().unwrap(), "http://127.0.0.1:1");
        assert_eq!(profile.read_token().unwrap().as_deref(), Some("midge_x"));
        let gone = ours("/nowhere", "http://127.0.0.1:1");
        assert!(gone.read_token().unwrap_err().what.contains("/nowhere"));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("profiles.toml");
        std::fs::write(&file, "[default]\napi = 'http://a:1'\ntokn = 't'\n").unwrap();
        assert!(Profiles::load(&file).unwrap_err().what.contains("tokn"));
    }
}
