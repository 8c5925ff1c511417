//! The operator's certificates: read at the start, and again whenever their files change.
//!
//! What cannot be used is named; the one that was read before keeps serving.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use model::limits;
use model::pipe::Certificate;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio::task::JoinSet;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::failure::Failure;
use crate::telemetry::Log;
use crate::whole_file::{self, Unreadable};

/// Where a certificate and its key lie, as PEM.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate, and those that its issuer needs to be known by.
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("`{path}` {error}")]
    Unreadable { path: PathBuf, error: Unreadable },
    #[error("`{0}` is no file")]
    NoFile(PathBuf),
    #[error("`{0}` holds no certificate; it must be PEM, with the lines `BEGIN CERTIFICATE`")]
    NoCertificate(PathBuf),
    #[error("the certificate of `{path}` cannot be read: {why}")]
    Malformed { path: PathBuf, why: String },
    #[error(
        "`{0}` holds no private key; it must be PEM, with a line `BEGIN PRIVATE KEY` or of its older kinds, not encrypted"
    )]
    NoKey(PathBuf),
    #[error(
        "the key of `{key}` is of a kind that cannot be used: {why}; RSA of 2048 bits or more, ECDSA P-256 and P-384 and Ed25519 can"
    )]
    KeyKind { key: PathBuf, why: String },
    #[error("the key of `{key}` is not that of the certificate in `{chain}`")]
    OtherKey { key: PathBuf, chain: PathBuf },
    #[error(
        "the certificate of `{0}` names no host: it has no DNS name among its alternative names"
    )]
    Nameless(PathBuf),
    #[error("the certificate of `{path}` ended on {ended}; put a newer one in its place")]
    Expired { path: PathBuf, ended: String },
    #[error("the certificate of `{path}` begins on {begins} only")]
    Early { path: PathBuf, begins: String },
}

/// The certificates that serve, by their place in the configuration.
type Serving = watch::Sender<Arc<Vec<Certificate>>>;

/// Keeps the certificates for as long as it is kept.
pub struct Certificates {
    serving: watch::Receiver<Arc<Vec<Certificate>>>,
    /// Ends with this.
    _following: JoinSet<()>,
}

impl Certificates {
    /// Reads all of them, and looks at their files from now on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If one cannot be used. One that is out of its time can: clients are the ones to judge it, and other hosts must be
    /// served.
    pub fn open(files: &[CertificateFiles], log: Log) -> Result<Self, Failure> {
        let sender = read_all(files, log)?;
        let serving = sender.subscribe();
        let mut following = JoinSet::new();
        if !files.is_empty() {
            following.spawn(follow(files.to_vec(), sender, log));
        }
        Ok(Self {
            serving,
            _following: following,
        })
    }

    pub fn serving(&self) -> watch::Receiver<Arc<Vec<Certificate>>> {
        self.serving.clone()
    }
}

fn read_all(files: &[CertificateFiles], log: Log) -> Result<Serving, Failure> {
    let mut certificates = Vec::new();
    for files in files {
        let found = read(files).map_err(|unusable| {
            Failure::usage(unusable.to_string()).hint(
                "`[[tls.certificate]]` of the configuration names the files `chain` and `key`",
            )
        })?;
        if let Some(unusable) = found.out_of_time(files) {
            log.warning(&unusable.to_string());
        }
        certificates.push(found.certificate);
    }
    Ok(watch::Sender::new(Arc::new(certificates)))
}

/// Looks at the files for as long as the platform runs, and puts what changed in its place.
async fn follow(files: Vec<CertificateFiles>, serving: Serving, log: Log) {
    let mut watched: Vec<_> = files.into_iter().map(Watched::new).collect();
    loop {
        tokio::time::sleep(limits::CERTIFICATE_LOOK.default.duration()).await;
        // A disk may take its time.
        let looking = tokio::task::spawn_blocking(move || {
            let news: Vec<_> = watched.iter_mut().map(Watched::news).collect();
            (watched, news)
        });
        let Ok((back, news)) = looking.await else {
            return;
        };
        watched = back;
        for (place, news) in news.into_iter().enumerate() {
            match news {
                None => {}
                Some(Ok(certificate)) => {
                    let names = certificate.names.join(", ");
                    log.info(&format!("the new certificate for {names} serves"));
                    serving.send_modify(|all| Arc::make_mut(all)[place] = certificate);
                }
                Some(Err(unusable)) => log.warning(&format!(
                    "{unusable}; the certificate that was read before keeps serving"
                )),
            }
        }
    }
}

/// The files of one certificate, and what was seen of them.
struct Watched {
    files: CertificateFiles,
    seen: Look,
    /// When what they hold begins, if that is yet to come.
    begins: Option<i64>,
}

impl Watched {
    fn new(files: CertificateFiles) -> Self {
        Self {
            seen: look(&files),
            files,
            begins: None,
        }
    }

    /// What they hold, if that is another than before, or its time has come.
    fn news(&mut self) -> Option<Result<Certificate, Unusable>> {
        let looked = look(&self.files);
        let begun = self.begins.is_some_and(|begins| begins <= now());
        if looked == self.seen && !begun {
            return None;
        }
        self.seen = looked;
        self.begins = None;
        Some(read(&self.files).and_then(|found| {
            let Some(unusable) = found.out_of_time(&self.files) else {
                return Ok(found.certificate);
            };
            self.begins = Some(found.begins).filter(|begins| *begins > now());
            Err(unusable)
        }))
    }
}

/// A certificate, and when it holds: in seconds since 1970.
struct Found {
    certificate: Certificate,
    begins: i64,
    ends: i64,
}

impl Found {
    /// Why it does not hold now, if it does not.
    fn out_of_time(&self, files: &CertificateFiles) -> Option<Unusable> {
        let path = files.chain.clone();
        let text = |second: i64| {
            jiff::Timestamp::from_second(second)
                .map_or_else(|_| second.to_string(), |at| at.to_string())
        };
        if self.ends < now() {
            let ended = text(self.ends);
            Some(Unusable::Expired { path, ended })
        } else if self.begins > now() {
            let begins = text(self.begins);
            Some(Unusable::Early { path, begins })
        } else {
            None
        }
    }
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}

/// What tells that either file is another: who it is, how long, and when it was written.
type Look = [Option<(u64, u64, i64, i64)>; 2];

fn look(files: &CertificateFiles) -> Look {
    [&files.chain, &files.key].map(|path| {
        let facts = std::fs::metadata(path).ok()?;
        Some((facts.ino(), facts.len(), facts.mtime(), facts.mtime_nsec()))
    })
}

fn read(files: &CertificateFiles) -> Result<Found, Unusable> {
    let chain = text(&files.chain)?;
    let key = text(&files.key)?;
    let malformed = |why: String| Unusable::Malformed {
        path: files.chain.clone(),
        why,
    };
    let ders = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| malformed("it is cut short, or no PEM".into()))?;
    let Some(first) = ders.first().cloned() else {
        return Err(Unusable::NoCertificate(files.chain.clone()));
    };
    let private = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| Unusable::NoKey(files.key.clone()))?;
    match CertifiedKey::from_der(ders, private, &rustls::crypto::ring::default_provider()) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(Unusable::OtherKey {
                key: files.key.clone(),
                chain: files.chain.clone(),
            });
        }
        Err(rustls::Error::InvalidCertificate(error)) => {
            return Err(malformed(format!("{error:?}")));
        }
        Err(error) => {
            return Err(Unusable::KeyKind {
                key: files.key.clone(),
                why: error.to_string(),
            });
        }
    }
    let (_, parsed) =
        X509Certificate::from_der(&first).map_err(|error| malformed(error.to_string()))?;
    let alternative = parsed
        .subject_alternative_name()
        .map_err(|error| malformed(error.to_string()))?;
    let names: Vec<String> = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        return Err(Unusable::Nameless(files.chain.clone()));
    }
    let validity = parsed.validity();
    Ok(Found {
        begins: validity.not_before.timestamp(),
        ends: validity.not_after.timestamp(),
        certificate: Certificate { names, chain, key },
    })
}

fn text(path: &Path) -> Result<String, Unusable> {
    let unreadable = |error| Unusable::Unreadable {
        path: path.to_owned(),
        error,
    };
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(Unusable::NoFile(path.to_owned())),
        Err(error) => return Err(unreadable(error.into())),
    }
    whole_file::read_text(path, &limits::CERTIFICATE).map_err(unreadable)
}
