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
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The protocols within, the one we like better first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The side of a worker that speaks TLS.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    /// With what sessions are resumed that began here; certificates may change meanwhile.
    tickets: Arc<dyn ProducesTickets>,
    /// None until the supervisor has sent certificates.
    config: RefCell<Option<Arc<ServerConfig>>>,
}

impl Tls {
    pub fn new() -> Result<Self, rustls::Error> {
        Ok(Self {
            provider: Arc::new(ring::default_provider()),
            tickets: ring::Ticketer::new()?,
            config: RefCell::new(None),
        })
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
