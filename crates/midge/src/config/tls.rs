//! Where apps answer over TLS, and the operator's certificates.

use std::net::SocketAddr;
use std::path::Path;

use model::limits;
use serde::Deserialize;

use super::{bounded, unusable};
use crate::certificates::CertificateFiles;
use crate::failure::Failure;

/// `[tls]` of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    #[serde(default)]
    listen: Vec<SocketAddr>,
    #[serde(default)]
    certificate: Vec<CertificateFiles>,
}

impl File {
    /// Relative files are meant from this folder.
    pub fn lie_in(&mut self, folder: &Path) {
        for files in &mut self.certificate {
            files.chain = folder.join(&files.chain);
            files.key = folder.join(&files.key);
        }
    }
}

/// Where apps answer over TLS, and with what.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    pub listen: Vec<SocketAddr>,
    pub certificates: Vec<CertificateFiles>,
}

impl Tls {
    /// What the file comes to.
    pub fn of(file: File) -> Result<Self, Failure> {
        let tls = Self {
            listen: file.listen,
            certificates: file.certificate,
        };
        tls.check()?;
        Ok(tls)
    }

    /// One is of no use without the other.
    fn check(&self) -> Result<(), Failure> {
        let refused = |what: &str, hint: &str| Err(unusable(what, hint));
        match (self.listen.len(), self.certificates.len()) {
            (0, 0) => Ok(()),
            (_, 0) => refused(
                "`tls.listen` names an address, and no `[[tls.certificate]]` is there to show",
                "name the files of one: `chain` and `key`",
            ),
            (0, _) => refused(
                "there is a `[[tls.certificate]]`, and `tls.listen` names no address to show it at",
                "name one, such as `listen = [\"0.0.0.0:443\"]`",
            ),
            (addresses, certificates) => {
                let most = limits::LISTEN_ADDRESSES.ceiling / 2;
                bounded("tls.listen", addresses as u64, most)?;
                let most = limits::CERTIFICATES.ceiling;
                bounded("tls.certificate", certificates as u64, most)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::refuses;

    #[test]
    fn an_address_and_a_certificate_go_together() {
        refuses("[tls]\nlisten = ['127.0.0.1:0']", "`[[tls.certificate]]`");
        refuses(
            "[[tls.certificate]]\nchain = 'a'\nkey = 'b'",
            "`tls.listen` names no address",
        );
        refuses("[[tls.certificate]]\nchain = 'a'", "key");
    }
}
