//! TLS: which certificate a client is shown, and what is spoken within.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use model::Digest;
use model::pipe::Certificate;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::tickets::Tickets;

/// The protocols within, the one we like better first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The side of a worker that speaks TLS.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    /// With what sessions are resumed, whichever worker they began with; certificates may change meanwhile.
    pub tickets: Arc<Tickets>,
    /// Those that the supervisor has sent and not withdrawn, by their ids.
    certified: RefCell<HashMap<Digest, Certified>>,
    /// None until the supervisor has said which certificates to show.
    config: RefCell<Option<Arc<ServerConfig>>>,
}

/// A certificate, ready to be shown.
struct Certified {
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl Tls {
    pub fn new() -> Self {
        Self {
            provider: Arc::new(ring::default_provider()),
            tickets: Arc::default(),
            certified: RefCell::default(),
            config: RefCell::new(None),
        }
    }

    /// Makes a certificate ready to be shown.
    ///
    /// # Errors
    /// If it cannot be used: it is not shown then, and others are.
    pub fn take(&self, certificate: &Certificate) -> Result<(), rustls::Error> {
        let unreadable = |error| rustls::Error::General(format!("{error}"));
        let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(unreadable)?;
        let key = CertifiedKey::from_der(chain, key, &self.provider)?;
        let certified = Certified {
            names: certificate.names.clone(),
            key: Arc::new(key),
        };
        let id = certificate.id();
        self.certified.borrow_mut().insert(id, certified);
        Ok(())
    }

    /// From now on clients are shown these, and all others are forgotten. Connections that there are go on as they began.
    pub fn serve(&self, ids: &[Digest]) -> Result<(), rustls::Error> {
        let mut certified = self.certified.borrow_mut();
        let known: HashSet<&Digest> = ids.iter().collect();
        certified.retain(|id, _| known.contains(id));
        let resolver = Certificates::new(ids.iter().filter_map(|id| certified.get(id)));
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        config.ticketer = self.tickets.clone();
        *self.config.borrow_mut() = Some(Arc::new(config));
        Ok(())
    }

    /// Shakes hands with a client.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config.borrow().clone();
        let config = config.ok_or(io::ErrorKind::NotConnected)?;
        TlsAcceptor::from(config).accept(tcp).await
    }
}

/// Certificates by the hosts that they are shown for.
#[derive(Default)]
struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*`.
    wild: HashMap<String, Arc<CertifiedKey>>,
    /// Shown to who names no host.
    first: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    fn new<'a>(all: impl Iterator<Item = &'a Certified>) -> Self {
        let mut this = Self::default();
        for Certified { names, key } in all {
            for name in names {
                // The first that names a host is the one that is shown.
                match name.strip_prefix('*') {
                    Some(rest) => this.wild.entry(rest.to_owned()),
                    None => this.exact.entry(name.clone()),
                }
                .or_insert_with(|| key.clone());
            }
            this.first.get_or_insert_with(|| key.clone());
        }
        this
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        // RFC 9525 §6.3: the `*` is one whole label.
        self.exact.get(name).or_else(|| {
            let dot = name.find('.')?;
            self.wild.get(&name[dot..])
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            Some(name) => self.find(&name.to_ascii_lowercase()).cloned(),
            None => self.first.clone(),
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.exact.keys().chain(self.wild.keys());
        f.debug_set().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use model::ticket::{TicketKey, TicketKeys};
    use rustls::pki_types::ServerName;
    use rustls::{
        ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection,
        SupportedProtocolVersion,
    };

    use super::*;

    const HOST: &str = "shop.test";

    fn key(number: u8) -> TicketKey {
        TicketKey {
            name: [number; 16],
            secret: [number; 32],
        }
    }

    /// A worker that shows `certificate`, with these keys for tickets.
    fn worker(certificate: &Certificate, newest: u8, before: Option<u8>) -> Tls {
        let tls = Tls::new();
        tls.tickets.use_keys(&TicketKeys {
            newest: key(newest),
            before: before.map(key),
            made_ms: 0,
        });
        tls.take(certificate).unwrap();
        tls.serve(&[certificate.id()]).unwrap();
        tls
    }

    fn client(
        root: &CertificateDer<'static>,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap();
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    }

    /// Whether a connection of the client resumes a session at this worker.
    fn resumes(client: &Arc<ClientConfig>, worker: &Tls) -> bool {
        let config = worker.config.borrow().clone().unwrap();
        let mut server = ServerConnection::new(config).unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        let mut client = ClientConnection::new(client.clone(), name).unwrap();
        while client.wants_write() || server.wants_write() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut &*bytes).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut &*bytes).unwrap();
            client.process_new_packets().unwrap();
        }
        let kinds = [client.handshake_kind(), server.handshake_kind()];
        assert_eq!(kinds[0], kinds[1]);
        kinds[0] == Some(HandshakeKind::Resumed)
    }

    #[test]
    fn what_is_not_named_any_longer_is_forgotten_and_the_first_that_names_a_host_is_shown() {
        let tls = Tls::new();
        let make = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
            let key = made.signing_key.serialize_pem();
            let certificate = Certificate::new(names, made.cert.pem(), key);
            tls.take(&certificate).unwrap();
            (certificate.id(), made.cert.der().clone())
        };
        let (one, one_der) = make(&["shop.test", "*.shop.test"]);
        let (other, other_der) = make(&["shop.test", "cart.shop.test"]);
        let check = |ids: &[Digest], name: &str, expected: Option<&CertificateDer<'_>>| {
            let certified = tls.certified.borrow();
            let all = Certificates::new(ids.iter().filter_map(|id| certified.get(id)));
            let found = all.find(name).map(|found| found.cert[0].clone());
            assert_eq!(found.as_ref(), expected, "{name}");
        };
        check(&[one, other], "shop.test", Some(&one_der));
        check(&[other, one], "shop.test", Some(&other_der));
        check(&[one, other], "cart.shop.test", Some(&other_der));
        check(&[one, other], "more.shop.test", Some(&one_der));
        check(&[one, other], "cart.test", None);
        tls.serve(&[other]).unwrap();
        assert_eq!(tls.certified.borrow().len(), 1);
        check(&[one, other], "more.shop.test", None);
        let names = vec!["shop.test".to_owned()];
        let broken = Certificate::new(names, "no PEM".into(), "no key".into());
        assert!(tls.take(&broken).is_err());
        tls.serve(&[broken.id(), other]).unwrap();
        check(&[broken.id(), other], "shop.test", Some(&other_der));
    }

    #[test]
    fn a_session_is_resumed_at_any_worker_for_as_long_as_its_key_is_known() {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let key = made.signing_key.serialize_pem();
        let certificate = Certificate::new(vec![HOST.to_owned()], made.cert.pem(), key);
        let worker = |newest, before| worker(&certificate, newest, before);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let new_client = || client(made.cert.der(), version);
            let one = new_client();
            assert!(!resumes(&one, &worker(1, None)));
            for _ in 0..8 {
                assert!(resumes(&one, &worker(1, None)), "another worker");
            }
            // The keys are replaced: both what was handed out before and what is handed out now is resumed.
            assert!(resumes(&one, &worker(2, Some(1))), "with the key before");
            assert!(resumes(&one, &worker(2, Some(1))), "with the newest key");
            assert!(resumes(&one, &worker(3, Some(2))), "and so on");
            // What it has is of a key that is gone.
            assert!(!resumes(&one, &worker(5, Some(4))));
            assert!(resumes(&one, &worker(5, Some(4))));
            // Ticket upon ticket that is none of ours.
            for stranger in 6..9 {
                assert!(!resumes(&one, &worker(stranger, None)));
            }
        }
    }
}
