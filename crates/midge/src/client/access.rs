//! Which platform a command speaks to, and with which token: options over the profile over this machine.

use http::Uri;

use crate::args::Platform;
use crate::config::DEFAULT_API;
use crate::failure::{Exit, Failure};
use crate::profile::{self, Profile, Profiles};

/// A control API and the token that it lets in.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// Scheme, host and port, without a trailing slash.
    pub api: String,
    pub token: String,
}

impl Access {
    /// The access that the options and this user's profiles come to.
    pub fn find(options: &Platform) -> Result<Self, Failure> {
        let profiles = match profile::file() {
            Some(file) => Profiles::load(&file)?,
            None => Profiles::default(),
        };
        resolve(options, &profiles)
    }
}

fn resolve(options: &Platform, profiles: &Profiles) -> Result<Access, Failure> {
    let profile = choose(options.profile.as_deref(), profiles)?;
    let api = match (&options.api, profile) {
        (Some(api), _) => base(api)?,
        (None, Some(profile)) => base(&profile.api)?,
        (None, None) => format!("http://{DEFAULT_API}"),
    };
    if let Some(token) = &options.token {
        return Ok(Access {
            token: checked(token)?,
            api,
        });
    }
    // A profile's token goes to that profile's platform and to no other.
    let profile = profile.filter(|profile| base(&profile.api).is_ok_and(|its| its == api));
    let token = profile
        .map(Profile::read_token)
        .transpose()?
        .flatten()
        .ok_or_else(|| {
            Failure::usage(format!("there is no token for `{api}`")).hint(
                "give one with `--token` or `MIDGE_TOKEN`; `midge up` makes one and leaves it in its data folder as `admin.token`",
            )
        })?;
    Ok(Access {
        token: checked(&token)?,
        api,
    })
}

fn choose<'a>(named: Option<&str>, profiles: &'a Profiles) -> Result<Option<&'a Profile>, Failure> {
    let Some(name) = named else {
        return Ok(profiles.find(profile::DEFAULT));
    };
    match profiles.find(name) {
        Some(profile) => Ok(Some(profile)),
        None => {
            let known: Vec<_> = profiles.names().map(|name| format!("`{name}`")).collect();
            let failure = Failure::usage(format!("there is no profile `{name}`"));
            Err(if known.is_empty() {
                failure.hint("there are no profiles yet; `midge up` makes one")
            } else {
                failure.hint(format!("there are: {}", known.join(", ")))
            })
        }
    }
}

/// The address as the client uses it, or why it cannot.
fn base(api: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::usage(format!("`{api}` is not an address of a control API"))
            .hint("write it such as `http://127.0.0.1:8081`")
    };
    let uri: Uri = api.trim_end_matches('/').parse().map_err(|_| wrong())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(Failure::usage(format!(
                "`{api}` asks for TLS, which this release does not speak to a control API"
            ))
            .hint("reach it through a tunnel, such as `ssh -L 8081:127.0.0.1:8081 HOST`, and give `--api http://127.0.0.1:8081`"));
        }
        _ => return Err(wrong()),
    }
    let authority = uri.authority().ok_or_else(wrong)?;
    let plain = uri.path() == "/" && uri.query().is_none() && !authority.as_str().contains('@');
    if plain {
        Ok(format!("http://{authority}"))
    } else {
        Err(wrong())
    }
}

/// A token that fits in a header.
fn checked(token: &str) -> Result<String, Failure> {
    let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        Ok(token.to_owned())
    } else {
        // The token itself is not repeated: what is on a screen ends in a log.
        Err(Failure::new(
            Exit::Usage,
            "the token is empty or holds characters that no token has",
        )
        .hint("`midge token create` shows a token once, as one word that begins with `midge_`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILES: &str = "[default]\napi = 'http://near:1'\ntoken = 'near-token'\n\
        [far]\napi = 'http://far:2/'\ntoken = 'far-token'\n";

    fn profiles(text: &str) -> Profiles {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("profiles.toml");
        std::fs::write(&file, text).unwrap();
        Profiles::load(&file).unwrap()
    }

    fn options(api: &str, token: &str, profile: &str) -> Platform {
        let set = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Platform {
            api: set(api),
            token: set(token),
            profile: set(profile),
            tenant: model::TenantName::default_tenant(),
        }
    }

    #[test]
    fn options_beat_the_profile_and_the_profile_beats_the_default() {
        let check = |api: &str, token: &str, profile: &str, expected: (&str, &str)| {
            let access = resolve(&options(api, token, profile), &profiles(PROFILES)).unwrap();
            assert_eq!((access.api.as_str(), access.token.as_str()), expected);
        };
        check("", "", "", ("http://near:1", "near-token"));
        check("", "", "far", ("http://far:2", "far-token"));
        check("", "mine", "", ("http://near:1", "mine"));
        check("http://other:3/", "mine", "", ("http://other:3", "mine"));
        check("http://far:2", "", "far", ("http://far:2", "far-token"));
        let alone = resolve(&options("", "mine", ""), &profiles("")).unwrap();
        assert_eq!(alone.api, "http://127.0.0.1:8081");
    }

    #[test]
    fn what_cannot_be_used_is_refused_in_words() {
        let check = |api: &str, token: &str, profile: &str, part: &str| {
            let failure = resolve(&options(api, token, profile), &profiles(PROFILES));
            let text = failure.err().expect("it is refused").to_string();
            assert!(text.contains(part), "{text}");
        };
        check("https://near:1", "t", "", "TLS");
        check("near:1", "t", "", "not an address");
        check("ftp://near", "t", "", "not an address");
        check("http://u:p@near:1", "t", "", "not an address");
        check("http://near:1/v1", "t", "", "not an address");
        check("", "", "none", "there are: `default`, `far`");
        check("", "a\nb", "", "no token has");
    }

    #[test]
    fn a_profiles_token_goes_to_no_other_platform() {
        let failure = resolve(&options("http://evil:1", "", ""), &profiles(PROFILES));
        let text = failure.err().expect("it is refused").what;
        assert_eq!(text, "there is no token for `http://evil:1`");
    }
}
