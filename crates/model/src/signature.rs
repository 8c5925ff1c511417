//! Signatures: what a node believes carries one.

use std::fmt;
use std::marker::PhantomData;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A document whose signature or content is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the signature does not match the document and the platform's key")]
    Forged,
    #[error("the signed document cannot be read: {0}")]
    Unreadable(String),
    #[error("the key has {0} bytes; an Ed25519 key has 32")]
    KeyLength(usize),
}

/// A key that signs. Its bytes never leave the process but into its own file.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key made of 32 random bytes, which the caller brings.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// The key that checks what a [`SecretKey`] signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// The key stored as 32 bytes, refused if it is not a point of the curve.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, SignatureError> {
        let bytes = bytes
            .try_into()
            .map_err(|_| SignatureError::KeyLength(bytes.len()))?;
        VerifyingKey::from_bytes(bytes)
            .map(Self)
            .map_err(|_| SignatureError::Forged)
    }

    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }
}

/// What a type's signatures are for. A signature over one purpose is none over another.
pub trait Purpose {
    const PURPOSE: &'static str;
}

/// A document and a signature over exactly its bytes.
///
/// The bytes stay as they were signed: reading and writing a document again could change them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound = "")]
pub struct Signed<T> {
    document: String,
    signature: String,
    #[serde(skip)]
    kind: PhantomData<fn() -> T>,
}

impl<T: Purpose + Serialize> Signed<T> {
    pub fn sign(document: &T, key: &SecretKey) -> Self {
        let document =
            serde_json::to_string(document).expect("a model type always has a JSON form");
        let signature = key.0.sign(&message::<T>(&document));
        Self {
            document,
            signature: hex(&signature.to_bytes()),
            kind: PhantomData,
        }
    }
}

impl<T: Purpose + DeserializeOwned> Signed<T> {
    /// The document, if `key`'s owner signed it for this purpose. Malleable and small-order signatures are
    /// refused (`verify_strict`).
    pub fn verify(&self, key: &PublicKey) -> Result<T, SignatureError> {
        let bytes = unhex(&self.signature).ok_or(SignatureError::Forged)?;
        let signature = Signature::from_bytes(&bytes);
        key.0
            .verify_strict(&message::<T>(&self.document), &signature)
            .map_err(|_| SignatureError::Forged)?;
        serde_json::from_str(&self.document).map_err(|e| SignatureError::Unreadable(e.to_string()))
    }
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            document: self.document.clone(),
            signature: self.signature.clone(),
            kind: PhantomData,
        }
    }
}

impl<T> Signed<T> {
    /// The length of the document and its signature in bytes: what it costs to distribute.
    pub fn size(&self) -> usize {
        self.document.len() + self.signature.len()
    }
}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({})", self.document)
    }
}

fn message<T: Purpose>(document: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(T::PURPOSE.len() + 1 + document.len());
    message.extend_from_slice(T::PURPOSE.as_bytes());
    message.push(0);
    message.extend_from_slice(document.as_bytes());
    message
}

fn hex(bytes: &[u8; 64]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 64]> {
    if text.len() != 128
        || !text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return None;
    }
    let mut bytes = [0; 64];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note(String);
    impl Purpose for Note {
        const PURPOSE: &'static str = "note";
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order(String);
    impl Purpose for Order {
        const PURPOSE: &'static str = "order";
    }

    #[test]
    fn only_the_signed_bytes_under_the_right_key_and_purpose_are_believed() {
        let key = SecretKey::from_seed([7; 32]);
        let other = SecretKey::from_seed([8; 32]);
        let signed = Signed::sign(&Note("pay".into()), &key);
        assert_eq!(signed.verify(&key.public()).unwrap(), Note("pay".into()));
        assert_eq!(signed.verify(&other.public()), Err(SignatureError::Forged));

        let mut changed = signed.clone();
        changed.document = changed.document.replace("pay", "pax");
        assert_eq!(changed.verify(&key.public()), Err(SignatureError::Forged));

        let order = Signed::<Order> {
            document: signed.document.clone(),
            signature: signed.signature.clone(),
            kind: PhantomData,
        };
        assert_eq!(order.verify(&key.public()), Err(SignatureError::Forged));
    }
}
