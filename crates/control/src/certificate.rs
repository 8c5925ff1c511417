//! A certificate and its key as somebody hands them over: two texts of PEM, judged before any client is shown them.

use model::{Digest, limits};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A text, and what errors call it: a file's path, or the field that it came in.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

/// Why a certificate cannot be used. No text of a key is ever part of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("`{name}` is larger than {limit}", limit = limits::CERTIFICATE.default)]
    TooLarge { name: String },
    #[error("`{0}` holds no certificate; it must be PEM, with the lines `BEGIN CERTIFICATE`")]
    NoCertificate(String),
    #[error("the certificate of `{chain}` cannot be read: {why}")]
    Malformed { chain: String, why: String },
    #[error(
        "`{0}` holds no private key; it must be PEM, with a line `BEGIN PRIVATE KEY` or of its older kinds, not encrypted"
    )]
    NoKey(String),
    #[error(
        "the key of `{key}` is of a kind that cannot be used: {why}; RSA of 2048 bits or more, ECDSA P-256 and P-384 and Ed25519 can"
    )]
    KeyKind { key: String, why: String },
    #[error("the key of `{key}` is not that of the certificate in `{chain}`")]
    OtherKey { key: String, chain: String },
    #[error(
        "the certificate of `{0}` names no host: it has no DNS name among its alternative names"
    )]
    Nameless(String),
    #[error("the certificate of `{chain}` ended on {ended}; put a newer one in its place")]
    Expired { chain: String, ended: String },
    #[error("the certificate of `{chain}` begins on {begins} only")]
    Early { chain: String, begins: String },
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The hosts that it names, in lower case; the first label may be `*`.
    pub names: Vec<String>,
    /// When it begins to hold and when it ends, in milliseconds since 1970.
    pub begins_ms: i64,
    pub ends_ms: i64,
    /// The SHA-256 of the certificate itself.
    pub fingerprint: Digest,
}

impl Judged {
    /// Why it does not hold now, if it does not.
    pub fn out_of_time(&self, chain: &str, now_ms: i64) -> Option<Unusable> {
        let chain = chain.to_owned();
        let text = |ms: i64| {
            jiff::Timestamp::from_millisecond(ms)
                .map_or_else(|_| ms.to_string(), |at| at.to_string())
        };
        if self.ends_ms < now_ms {
            let ended = text(self.ends_ms);
            Some(Unusable::Expired { chain, ended })
        } else if self.begins_ms > now_ms {
            let begins = text(self.begins_ms);
            Some(Unusable::Early { chain, begins })
        } else {
            None
        }
    }
}

/// What the first certificate of `chain` says of itself, if it can be shown with this key; whether it holds now is another
/// question.
pub fn judge(chain: Named<'_>, key: Named<'_>) -> Result<Judged, Unusable> {
    for Named { name, text } in [chain, key] {
        if text.len() > limits::CERTIFICATE.default.as_usize() {
            let name = name.to_owned();
            return Err(Unusable::TooLarge { name });
        }
    }
    let malformed = |why: String| Unusable::Malformed {
        chain: chain.name.to_owned(),
        why,
    };
    let ders = CertificateDer::pem_slice_iter(chain.text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| malformed("it is cut short, or no PEM".into()))?;
    let Some(first) = ders.first().cloned() else {
        return Err(Unusable::NoCertificate(chain.name.to_owned()));
    };
    let private = PrivateKeyDer::from_pem_slice(key.text.as_bytes())
        .map_err(|_| Unusable::NoKey(key.name.to_owned()))?;
    match CertifiedKey::from_der(ders, private, &rustls::crypto::ring::default_provider()) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(Unusable::OtherKey {
                key: key.name.to_owned(),
                chain: chain.name.to_owned(),
            });
        }
        Err(rustls::Error::InvalidCertificate(error)) => {
            return Err(malformed(format!("{error:?}")));
        }
        Err(error) => {
            return Err(Unusable::KeyKind {
                key: key.name.to_owned(),
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
        return Err(Unusable::Nameless(chain.name.to_owned()));
    }
    let validity = parsed.validity();
    Ok(Judged {
        names,
        begins_ms: validity.not_before.timestamp().saturating_mul(1000),
        ends_ms: validity.not_after.timestamp().saturating_mul(1000),
        fingerprint: Digest::of(&first),
    })
}
