//! TLS record by record (RFC 8446 §5, RFC 5246 §6): what a client may not say as well, in the clear and sealed.

use std::io;
use std::sync::Arc;

use rustls::ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};
use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::{ContentType, ProtocolVersion, SupportedCipherSuite};

use super::Secure;
use crate::Connection;

pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const APPLICATION_DATA: u8 = 23;

/// Messages of a handshake.
pub const CLIENT_HELLO: u8 = 1;
pub const SERVER_HELLO: u8 = 2;
pub const CERTIFICATE: u8 = 11;

/// Bytes that one record may hold.
pub const MOST: usize = 1 << 14;

/// Extensions of a hello by their numbers.
pub const SERVER_NAME: u16 = 0;
pub const ALPN: u16 = 16;

/// A record as it lies on the wire.
pub fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a record's length has two bytes");
    [&[kind, 3, 3], &length.to_be_bytes()[..], payload].concat()
}

/// A message of a handshake.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &counted(3, body)[..]].concat()
}

/// The hello of a client that speaks at most this version, TLS 1.2 or older.
pub fn hello(version: u16, more: &[(u16, &[u8])]) -> Vec<u8> {
    // X25519 and P-256; no compressed points; ECDSA and RSA with SHA-256, of either kind.
    let needed: [(u16, &[u8]); 3] = [
        (10, &[0, 4, 0, 0x1d, 0, 0x17]),
        (11, &[1, 0]),
        (13, &[0, 6, 4, 3, 8, 4, 4, 1]),
    ];
    let extensions = needed.iter().chain(more);
    let extensions = extensions
        .flat_map(|(number, body)| [number.to_be_bytes().to_vec(), counted(2, body)].concat());
    let extensions: Vec<u8> = extensions.collect();
    // ECDHE with AES-GCM and, for older versions, AES-CBC.
    let suites = [
        0xc0, 0x2b, 0xc0, 0x2c, 0xc0, 0x2f, 0xc0, 0x30, 0xc0, 0x09, 0xc0, 0x13,
    ];
    let body = [
        &version.to_be_bytes()[..],
        &[7; 32],
        &counted(1, &[]),
        &counted(2, &suites),
        &counted(1, &[0]),
        &counted(2, &extensions),
    ];
    message(CLIENT_HELLO, &body.concat())
}

/// The body of the extension by which a client names a host.
pub fn server_name(name: &[u8]) -> Vec<u8> {
    counted(2, &[&[0], &counted(2, name)[..]].concat())
}

/// The body of the extension by which a client offers protocols.
pub fn protocols(names: &[&[u8]]) -> Vec<u8> {
    let names: Vec<u8> = names.iter().flat_map(|name| counted(1, name)).collect();
    counted(2, &names)
}

/// The body of a message that shows a certificate: of TLS 1.2.
pub fn certificate(der: &[u8]) -> Vec<u8> {
    counted(3, &counted(3, der))
}

/// Bytes behind their count, which has so many bytes.
fn counted(width: usize, bytes: &[u8]) -> Vec<u8> {
    let count = (bytes.len() as u32).to_be_bytes();
    [&count[4 - width..], bytes].concat()
}

/// The kinds and payloads of the records that a server said; what is no record ends them.
pub fn records(mut said: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [kind, 3, _, high, low, rest @ ..] = said {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        found.push((*kind, payload.to_vec()));
        said = rest;
    }
    found
}

/// A connection whose handshake is done, and on which every kind of record may be said.
pub struct Sealed {
    tcp: Connection,
    sealer: Box<dyn MessageEncrypter>,
    next: u64,
}

impl Sealed {
    pub fn of(connection: Connection<Secure>) -> Self {
        let Secure { tcp, session, .. } = connection.into_stream();
        let session = Arc::into_inner(session).expect("there is no other handle");
        let session = session.into_inner().expect("no other handle has panicked");
        let suite = session.negotiated_cipher_suite();
        let secrets = session.dangerous_extract_secrets();
        let (next, secrets) = secrets.expect("the client was told to give them out").tx;
        let (key, iv, fixed) = match secrets {
            Aes128Gcm { key, iv } | Aes256Gcm { key, iv } => (key, iv, 4),
            Chacha20Poly1305 { key, iv } => (key, iv, 12),
            _ => unreachable!("ring has no other ciphers"),
        };
        let sealer = match suite.expect("the handshake is done") {
            SupportedCipherSuite::Tls12(suite) => {
                let (fixed, explicit) = iv.as_ref().split_at(fixed);
                suite.aead_alg.encrypter(key, fixed, explicit)
            }
            SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        };
        Self {
            tcp: Connection::over(tcp, ""),
            sealer,
            next,
        }
    }

    /// Sends a record of this kind.
    pub fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let message = OutboundPlainMessage {
            typ: ContentType::from(kind),
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(payload),
        };
        let sealed = self.sealer.encrypt(message, self.next);
        self.next += 1;
        self.tcp.send(&sealed.map_err(io::Error::other)?.encode())
    }

    /// Waits for the connection's end.
    pub fn ended(&mut self) -> io::Result<()> {
        self.tcp.rest_or_reset().map(drop)
    }
}
