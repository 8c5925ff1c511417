//! What is secret at rest: sealed with a key that lies outside the records, and bound to the place that it was sealed for.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Seals and opens secrets. Whoever has the records alone reads none of them.
pub(crate) struct Seal(LessSafeKey);

/// A secret that this key did not seal for this place, or that has changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be opened with the platform's key `keys/secrets`")]
pub(crate) struct NotOurs;

impl Seal {
    pub fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key);
        Self(LessSafeKey::new(
            key.expect("the key has the length of this algorithm's"),
        ))
    }

    /// Seals a secret for a place. The same secret sealed again is another text.
    pub fn seal(&self, place: &str, secret: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        // Random: good for 2^32 secrets, and none is counted anywhere.
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)?;
        let mut sealed = nonce.to_vec();
        sealed.extend_from_slice(secret);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let text = &mut sealed[NONCE_LEN..];
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(place), text)
            .expect("a secret is far shorter than the algorithm's bound");
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, NotOurs> {
        let (nonce, text) = sealed.split_first_chunk().ok_or(NotOurs)?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(place), &mut text);
        let length = opened.map_err(|_| NotOurs)?.len();
        text.truncate(length);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_opened_with_its_key_at_its_place_alone() {
        let seal = Seal::new(&[7; 32]);
        let sealed = seal.seal("a/b", b"a secret").unwrap();
        assert_eq!(seal.open("a/b", &sealed).unwrap(), b"a secret");
        assert_eq!(seal.open("a/c", &sealed), Err(NotOurs));
        assert_eq!(Seal::new(&[8; 32]).open("a/b", &sealed), Err(NotOurs));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(seal.open("a/b", &changed), Err(NotOurs), "byte {at}");
            assert_eq!(seal.open("a/b", &sealed[..at]), Err(NotOurs), "{at} bytes");
        }
    }

    #[test]
    fn what_is_sealed_shows_nothing_of_the_secret() {
        let seal = Seal::new(&[7; 32]);
        let [one, other] = [(); 2].map(|()| seal.seal("a", b"a secret").unwrap());
        assert_ne!(one[NONCE_LEN..], other[NONCE_LEN..]);
        assert!(!one.windows(8).any(|part| part == b"a secret"));
    }
}
