//! The manifest, `midge.toml`: what an app is, where it answers and what it may touch.

use serde::{Deserialize, Serialize};

use crate::limits::{self, LimitError};
use crate::{
    AppLimits, AppName, Coding, Grants, Host, PathPrefix, Replies, Reuse, SecretName, Size,
};

/// What a developer writes about an app. The JSON form of the API and the TOML form of the file are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: AppName,
    /// Where the built `.wasm` lies, relative to the manifest; for the developer's machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The command that builds it, for `sh -c` beside the manifest; for the developer's machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Where the app answers. None: at its name below the platform's domain.
    #[serde(default, rename = "route", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteClaim>,
    /// What the app may touch. Nothing is granted that is not named here.
    #[serde(default)]
    pub grant: Grants,
    #[serde(default)]
    pub limits: AppLimits,
    /// What becomes of its replies on their way out.
    #[serde(default, skip_serializing_if = "Replies::is_default")]
    pub reply: Replies,
    /// Whether instances answer more than one request. None: each has an instance of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<Reuse>,
}

/// A route as a manifest asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteClaim {
    /// None: the app's name below the platform's domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    #[serde(default)]
    pub path: PathPrefix,
}

/// Why a manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest cannot be read: {0}")]
    Unreadable(String),
    #[error("the manifest has {size}; one may have {limit}")]
    TooLarge { size: Size, limit: Size },
    #[error("the manifest claims {count} routes; one app may have {limit}")]
    TooManyRoutes { count: usize, limit: u64 },
    #[error("the manifest claims the route `{0}` twice")]
    RouteTwice(String),
    #[error(
        "`{0}` is not a name for an environment variable or configuration value: it has letters, digits, `_`, `-` and `.`, at most 256"
    )]
    ValueName(String),
    #[error("the value of `{0}` holds a NUL character")]
    ValueNul(String),
    #[error("the manifest grants {count} key-value stores; one app may have {limit}")]
    TooManyStores { count: u64, limit: u64 },
    #[error(
        "the manifest grants {count} destinations of requests; one app may have {limit}; `*.` covers all below a name"
    )]
    TooManyDestinations { count: u64, limit: u64 },
    #[error("the manifest grants {count} secrets; one app may have {limit}")]
    TooManySecrets { count: u64, limit: u64 },
    #[error(
        "a guest that asks for `{value}` could mean the configuration value or the secret `{secret}`; give one of them another name"
    )]
    ValueAndSecret { value: String, secret: SecretName },
    #[error("`reply.compress` names `{0}` twice; name each coding once, the favourite first")]
    CodingTwice(Coding),
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl Manifest {
    /// The manifest of an app that was deployed without one.
    pub fn bare(name: AppName) -> Self {
        Self {
            name,
            component: None,
            build: None,
            routes: Vec::new(),
            grant: Grants::default(),
            limits: AppLimits::default(),
            reply: Replies::default(),
            reuse: None,
        }
    }

    /// Reads the file form and checks it against Midge's own ceilings. An operator's may be lower.
    pub fn from_toml(text: &str) -> Result<Self, ManifestError> {
        check_size(text.len())?;
        let manifest: Self = toml::from_str(text)
            .map_err(|e| ManifestError::Unreadable(e.to_string().trim_end().to_owned()))?;
        manifest.check(&AppLimits::CEILING)?;
        Ok(manifest)
    }

    /// Whether every part is within bounds, limits within `ceiling`.
    pub fn check(&self, ceiling: &AppLimits) -> Result<(), ManifestError> {
        check_size(serde_json::to_string(self).map_or(usize::MAX, |text| text.len()))?;
        if self.routes.len() as u64 > limits::ROUTES.default {
            return Err(ManifestError::TooManyRoutes {
                count: self.routes.len(),
                limit: limits::ROUTES.default,
            });
        }
        for (i, claim) in self.routes.iter().enumerate() {
            if self.routes[..i].contains(claim) {
                let host = claim.host.as_ref().map_or("", Host::as_str);
                return Err(ManifestError::RouteTwice(format!("{host}{}", claim.path)));
            }
        }
        self.grant.check()?;
        if let Some(coding) = self.reply.twice() {
            return Err(ManifestError::CodingTwice(coding));
        }
        self.reuse.as_ref().map_or(Ok(()), Reuse::check)?;
        Ok(self.limits.check(ceiling)?)
    }
}

fn check_size(bytes: usize) -> Result<(), ManifestError> {
    let (size, limit) = (Size(bytes as u64), limits::MANIFEST.default);
    if size > limit {
        Err(ManifestError::TooLarge { size, limit })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_form_holds_what_an_app_needs() {
        let manifest = Manifest::from_toml(
            r#"
            name = "shop"
            component = "shop.wasm"
            build = "make"
            [[route]]
            host = "shop.example.com"
            path = "/api"
            [grant]
            env = { LOG = "info" }
            config = { currency = "EUR" }
            kv = ["default", "carts"]
            http = ["https://api.example.com", "http://cart.app.internal"]
            [limits]
            cpu = "100ms"
            [reply]
            compress = ["zstd", "br", "gzip"]
            [reuse]
            concurrent = 4
            "#,
        )
        .unwrap();
        assert_eq!(manifest.routes[0].path.as_str(), "/api");
        assert_eq!(manifest.grant.config["currency"], "EUR");
        assert_eq!((manifest.grant.kv.len(), manifest.grant.http.len()), (2, 2));
        assert_eq!(manifest.limits.cpu.0, 100);
        assert_eq!(manifest.limits.memory, limits::MEMORY.default);
        let codings = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
        assert_eq!(manifest.reply.compress, codings);
        let reuse = manifest.reuse.unwrap();
        assert_eq!(
            (reuse.requests, reuse.concurrent, reuse.idle.0),
            (100, 4, 1000)
        );
    }

    #[test]
    fn what_a_manifest_does_not_ask_for_is_not_in_it() {
        let bare = Manifest::from_toml("name = 'a'\n[reply]").unwrap();
        let json = serde_json::to_value(&bare).unwrap();
        assert!(json.get("reply").is_none(), "{json}");
        assert_eq!(serde_json::from_value::<Manifest>(json).unwrap(), bare);
    }

    #[test]
    fn what_does_not_belong_is_refused_by_name() {
        let check = |text: &str, part: &str| {
            let error = Manifest::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("", "name");
        check("name = 'Shop'", "Shop");
        check("name = 'a'\nsecret = 1", "secret");
        check("name = 'a'\n[grant]\nkv = ['X']", "`X`");
        check("name = 'a'\n[grant]\nsql = ['x']", "sql");
        let many: Vec<String> = (0..17).map(|i| format!("'s{i}'")).collect();
        let many = format!("name = 'a'\n[grant]\nkv = [{}]", many.join(", "));
        check(&many, "17 key-value stores");
        check(
            "name = 'a'\n[grant]\nhttp = ['example.com']",
            "does not begin with `http://`",
        );
        let many: Vec<String> = (0..65).map(|i| format!("'https://h{i}'")).collect();
        let many = format!("name = 'a'\n[grant]\nhttp = [{}]", many.join(", "));
        check(&many, "65 destinations");
        check("name = 'a'\n[reply]\ncompress = ['deflate']", "deflate");
        check("name = 'a'\n[reply]\ncompress = true", "compress");
        check(
            "name = 'a'\n[reply]\ncompress = ['br', 'gzip', 'br']",
            "`br` twice",
        );
        check("name = 'a'\n[reuse]\nconcurrent = 17", "reuse.concurrent");
        check("name = 'a'\n[reuse]\nrequests = 0", "reuse.requests");
        check("name = 'a'\n[reuse]\nidle = '1h'", "reuse.idle");
        check("name = 'a'\n[limits]\ncpu = '1h'", "limits.cpu");
        check("name = 'a'\n[limits]\nmemory = '-1B'", "-1B");
        check(
            "name = 'a'\n[limits]\nmemory = '99999999999999999999999GiB'",
            "99999999999999999999999GiB",
        );
        check("name = 'a'\n[grant.env]\n'a=b' = ''", "a=b");
        check(
            "name = 'a'\n[[route]]\npath = '/x'\n[[route]]\npath = '/x/'",
            "twice",
        );
    }
}
