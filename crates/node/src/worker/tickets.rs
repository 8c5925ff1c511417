//! Tickets: what a client keeps of a TLS session and resumes it with, at whichever worker of the node it meets.
//!
//! The worker keeps nothing of them. A ticket is its key's name, a random nonce, and the session as TLS describes it,
//! sealed with ChaCha20-Poly1305 for that name. What is none of ours is opened as nothing, and a whole handshake follows.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use model::limits;
use model::ticket::{TicketKey, TicketKeys};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::server::ProducesTickets;

const NAME: usize = 16;

/// Seals and opens tickets, as soon as there is a key.
#[derive(Default)]
pub struct Tickets {
    /// The newest first.
    keys: RwLock<Vec<Key>>,
}

struct Key {
    name: [u8; NAME],
    secret: LessSafeKey,
}

impl Tickets {
    /// From now on tickets are sealed with the newest of these, and opened with any of them.
    pub fn use_keys(&self, keys: &TicketKeys) {
        let keys = std::iter::once(&keys.newest).chain(&keys.before);
        let keys = keys.map(Key::new).collect();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn with<T>(&self, with: impl FnOnce(&[Key]) -> Option<T>) -> Option<T> {
        with(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Key {
    fn new(TicketKey { name, secret }: &TicketKey) -> Self {
        let secret = UnboundKey::new(&CHACHA20_POLY1305, secret);
        Self {
            name: *name,
            secret: LessSafeKey::new(secret.expect("the key has the length of this algorithm's")),
        }
    }

    fn seal(&self, session: &[u8]) -> Option<Vec<u8>> {
        // Random: all workers seal with one key, and share no counter. That is good for 2^32 tickets a key.
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let mut ticket =
            Vec::with_capacity(NAME + NONCE_LEN + session.len() + CHACHA20_POLY1305.tag_len());
        ticket.extend_from_slice(&self.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(session);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = &mut ticket[NAME + NONCE_LEN..];
        let secret = &self.secret;
        let tag = secret.seal_in_place_separate_tag(nonce, Aad::from(&self.name), sealed);
        ticket.extend_from_slice(tag.ok()?.as_ref());
        Some(ticket)
    }

    fn open(&self, nonce: [u8; NONCE_LEN], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut session = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self
            .secret
            .open_in_place(nonce, Aad::from(&self.name), &mut session);
        let length = opened.ok()?.len();
        session.truncate(length);
        Some(session)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.with(|keys| keys.first().map(drop)).is_some()
    }

    fn lifetime(&self) -> u32 {
        let seconds = limits::TICKET_KEY.default.duration().as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.with(|keys| keys.first()?.seal(session))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        self.with(|keys| {
            // Names are no secret: they are sent in the clear.
            let key = keys.iter().find(|key| key.name == *name)?;
            key.open(*nonce, sealed)
        })
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> TicketKey {
        TicketKey {
            name: [number; 16],
            secret: [number ^ 0xff; 32],
        }
    }

    /// A worker that was told these.
    fn told(newest: u8, before: Option<u8>) -> Tickets {
        let tickets = Tickets::default();
        tickets.use_keys(&TicketKeys {
            newest: key(newest),
            before: before.map(key),
            made_ms: 0,
        });
        tickets
    }

    #[test]
    fn a_ticket_is_opened_by_every_worker_until_its_key_is_gone() {
        let (one, other) = (told(1, None), told(1, None));
        let ticket = one.encrypt(b"a session").unwrap();
        assert_eq!(other.decrypt(&ticket).unwrap(), b"a session");
        other.use_keys(&TicketKeys {
            newest: key(2),
            before: Some(key(1)),
            made_ms: 0,
        });
        assert_eq!(other.decrypt(&ticket).unwrap(), b"a session");
        let newer = other.encrypt(b"another").unwrap();
        assert_eq!(told(2, Some(1)).decrypt(&newer).unwrap(), b"another");
        assert_eq!(one.decrypt(&newer), None);
        assert_eq!(told(3, Some(2)).decrypt(&ticket), None);
        assert_eq!(told(3, Some(2)).decrypt(&newer).unwrap(), b"another");
    }

    #[test]
    fn two_tickets_of_one_session_are_not_alike() {
        let tickets = told(1, None);
        let [one, other] = [(); 2].map(|()| tickets.encrypt(b"a session").unwrap());
        assert_ne!(one[NAME..], other[NAME..]);
        let shown = one.windows(9).any(|part| part == b"a session");
        assert!(!shown, "the session can be read");
    }

    #[test]
    fn what_is_no_ticket_of_ours_is_opened_as_nothing() {
        let tickets = told(1, Some(2));
        let ticket = tickets.encrypt(b"a session").unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "byte {at}");
            assert_eq!(tickets.decrypt(&ticket[..at]), None, "{at} bytes");
        }
        // The name of another key of ours.
        let mut renamed = ticket.clone();
        renamed[..NAME].fill(2);
        assert_eq!(tickets.decrypt(&renamed), None);
        let mut longer = ticket.clone();
        longer.push(0);
        assert_eq!(tickets.decrypt(&longer), None);
        assert_eq!(tickets.decrypt(&[1; 70_000]), None);
    }

    #[test]
    fn without_a_key_there_are_no_tickets() {
        let tickets = Tickets::default();
        assert!(!tickets.enabled());
        assert_eq!(tickets.encrypt(b"a session"), None);
        assert!(told(1, None).enabled());
    }
}
