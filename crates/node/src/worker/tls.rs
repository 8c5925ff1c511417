//! TLS: which certificate a client is shown, and what is spoken within.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

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
    /// None until the supervisor has sent certificates.
    config: RefCell<Option<Arc<ServerConfig>>>,
}

impl Tls {
    pub fn new() -> Self {
        Self {
            provider: Arc::new(ring::default_provider()),
            tickets: Arc::default(),
            config: RefCell::new(None),
        }
    }

    /// From now on clients are shown these. Connections that there are go on as they began.
    pub fn serve(&self, certificates: &[Certificate]) -> Result<(), rustls::Error> {
        let resolver = Certificates::new(certificates, &self.provider)?;
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

/// Certificates by the hosts that they name.
struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*`.
    wild: HashMap<String, Arc<CertifiedKey>>,
    /// Shown to who names no host.
    first: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    fn new(all: &[Certificate], provider: &CryptoProvider) -> Result<Self, rustls::Error> {
        let mut this = Self {
            exact: HashMap::new(),
            wild: HashMap::new(),
            first: None,
        };
        for Certificate { names, chain, key } in all {
            let unreadable = |error| rustls::Error::General(format!("{error}"));
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(unreadable)?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(unreadable)?;
            let certified = Arc::new(CertifiedKey::from_der(chain, key, provider)?);
            for name in names {
                // The first that names a host is the one that is shown.
                match name.strip_prefix('*') {
                    Some(rest) => this.wild.entry(rest.to_owned()),
                    None => this.exact.entry(name.clone()),
                }
                .or_insert_with(|| certified.clone());
            }
            this.first.get_or_insert(certified);
        }
        Ok(this)
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
        tls.serve(std::slice::from_ref(certificate)).unwrap();
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
    fn a_session_is_resumed_at_any_worker_for_as_long_as_its_key_is_known() {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let certificate = Certificate {
            names: vec![HOST.to_owned()],
            chain: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        };
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
