//! Where requests that guests send may go at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use capabilities::http::client::trusted;
use ipnet::IpNet;
use model::limits;
use model::pipe::EgressSettings;
use serde::Deserialize;

use super::{bounded, unusable};
use crate::failure::Failure;
use crate::whole_file;

/// `[egress]` of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    #[serde(default)]
    nameservers: Vec<SocketAddr>,
    #[serde(default)]
    allow: Vec<IpNet>,
    #[serde(default)]
    deny: Vec<IpNet>,
    roots: Option<Roots>,
    ca: Option<PathBuf>,
}

/// Which authorities' certificates are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Roots {
    /// Those that the public web trusts, as of the day of the build.
    Bundled,
    /// Those that this machine trusts.
    System,
    /// The operator's own alone.
    None,
}

impl File {
    /// The defaults, but that no address is out of reach.
    pub fn reaching_everything() -> Self {
        let all = [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        Self {
            allow: all.map(|any| IpNet::new_assert(any, 0)).to_vec(),
            ..Self::default()
        }
    }

    /// A relative file is meant from this folder.
    pub fn lie_in(&mut self, folder: &Path) {
        self.ca = self.ca.take().map(|ca| folder.join(ca));
    }
}

/// Where requests that guests send may go at all, and whom they believe there.
#[derive(Debug, Clone, PartialEq)]
pub struct Egress {
    /// None: those that the machine asks.
    pub nameservers: Vec<SocketAddr>,
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    pub roots: Roots,
    pub ca: Option<PathBuf>,
}

impl Egress {
    /// What the file comes to.
    pub fn of(file: File) -> Result<Self, Failure> {
        let most = limits::EGRESS_NETWORKS.ceiling;
        for (name, count) in [
            ("egress.allow", file.allow.len()),
            ("egress.deny", file.deny.len()),
            ("egress.nameservers", file.nameservers.len()),
        ] {
            if count > 0 {
                bounded(name, count as u64, most)?;
            }
        }
        let roots = file.roots.unwrap_or(Roots::Bundled);
        if roots == Roots::None && file.ca.is_none() {
            return Err(unusable(
                "`egress.roots` is \"none\", and `egress.ca` names nothing to trust instead",
                "name a file of certificates with `ca = \"FILE\"`, or leave `roots` out",
            ));
        }
        Ok(Self {
            nameservers: file.nameservers,
            allow: file.allow,
            deny: file.deny,
            roots,
            ca: file.ca,
        })
    }

    /// What workers are told, with what the files hold now.
    pub fn settings(&self) -> Result<EgressSettings, Failure> {
        let mut roots = match self.roots {
            Roots::Bundled | Roots::None => String::new(),
            Roots::System => system_roots()?,
        };
        if let Some(path) = &self.ca {
            let shown = format!("the certificates of `egress.ca`, `{}`,", path.display());
            let hint = "it must be a file of certificates in the form of PEM";
            let text = whole_file::read_text(path, &limits::EGRESS_ROOTS);
            let text = text.map_err(|error| error.of(&shown).hint(hint))?;
            // Alone: what is wrong is this file's.
            trusted(false, &text).map_err(|error| {
                Failure::usage(format!("{shown} cannot be used: {error}")).hint(hint)
            })?;
            roots.push_str(&text);
        }
        Ok(EgressSettings {
            nameservers: self.nameservers.clone(),
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            bundled_roots: self.roots == Roots::Bundled,
            roots,
        })
    }
}

/// What this machine trusts, as PEM. A certificate there that is none is left out, as everywhere.
fn system_roots() -> Result<String, Failure> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        let why = why.unwrap_or_else(|| "it has none".to_owned());
        return Err(unusable(
            &format!(
                "`egress.roots` is \"system\", and this machine's certificates cannot be read: {why}"
            ),
            "install them (Debian: `ca-certificates`), or leave `roots` out",
        ));
    }
    let pem = found.certs.iter().map(|certificate| {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    });
    Ok(pem.collect())
}

#[cfg(test)]
mod tests {
    use super::super::Flags;
    use super::super::tests::{refuses, settled};
    use super::*;

    #[test]
    fn what_guests_may_reach_is_the_operators_to_say() {
        let egress = settled(Flags::default(), "").unwrap().egress;
        assert_eq!(egress.roots, Roots::Bundled);
        assert!(egress.allow.is_empty() && egress.deny.is_empty());
        let file = "[egress]\nnameservers = ['127.0.0.1:5353']\nallow = ['10.1.0.0/16', 'fd00::/8']\n\
            deny = ['203.0.113.7/32']\nroots = 'none'\nca = 'ca.pem'";
        let egress = settled(Flags::default(), file).unwrap().egress;
        assert_eq!((egress.nameservers.len(), egress.allow.len()), (1, 2));
        assert_eq!(egress.deny[0].to_string(), "203.0.113.7/32");
        assert_eq!(egress.ca.as_deref(), Some(Path::new("ca.pem")));
        let failure = egress.settings().unwrap_err();
        assert!(failure.what.contains("`ca.pem`"), "{}", failure.what);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        refuses("[egress]\nallow = ['10.0.0.0/33']", "10.0.0.0/33");
        refuses("[egress]\nallow = ['everything']", "everything");
        refuses("[egress]\nnameservers = ['localhost']", "localhost");
        refuses("[egress]\nroots = 'mine'", "mine");
        refuses("[egress]\nroots = 'none'", "`egress.ca` names nothing");
        refuses("[egress]\nproxy = 'x'", "proxy");
    }
}
