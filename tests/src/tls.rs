//! TLS: an authority that certifies whatever a test names, and a client that trusts nobody else. What breaks the rules is
//! in [`records`].

pub mod records;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use http::uri::Scheme;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
    date_time_ymd,
};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion,
};
use tokio_rustls::TlsConnector;

pub use rustls::version::{TLS12, TLS13};
pub use rustls::{AlertDescription, CertificateError, Error};

use crate::client::Stream;
use crate::{Connection, Http2, Settings, http2};

/// The kinds of keys that a certificate may have; RSA apart, of which `ring` makes none.
pub const KEYS: [&SignatureAlgorithm; 3] = [
    &PKCS_ECDSA_P256_SHA256,
    &PKCS_ECDSA_P384_SHA384,
    &PKCS_ED25519,
];

/// Certifies hosts, through another that it has certified: nobody is trusted who does not show both.
pub struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    between: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Certificate {
    /// It and its issuer's, as PEM.
    pub chain: String,
    /// As PEM.
    pub key: String,
    /// It alone.
    pub der: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let root = CertifiedIssuer::self_signed(params("root"), key(KEYS[0]));
        let root = root.expect("a certificate can be made");
        let between = CertifiedIssuer::signed_by(params("between"), key(KEYS[0]), &root);
        Self {
            between: between.expect("a certificate can be made"),
            root,
        }
    }

    /// What a client must trust, as PEM.
    pub fn root(&self) -> String {
        self.root.pem()
    }

    /// A certificate for these hosts and addresses.
    pub fn certify(&self, names: &[&str]) -> Certificate {
        self.certify_by(names, KEYS[0])
    }

    /// The same, with a key of this kind.
    pub fn certify_by(&self, names: &[&str], kind: &'static SignatureAlgorithm) -> Certificate {
        self.certify_for(names, [1975, 4000], kind)
    }

    /// One that has ended.
    pub fn certify_once(&self, names: &[&str]) -> Certificate {
        self.certify_for(names, [1975, 2020], KEYS[0])
    }

    /// One that has not begun.
    pub fn certify_some_day(&self, names: &[&str]) -> Certificate {
        self.certify_for(names, [3000, 4000], KEYS[0])
    }

    fn certify_for(
        &self,
        names: &[&str],
        [begins, ends]: [i32; 2],
        kind: &'static SignatureAlgorithm,
    ) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("a test names hosts well");
        params.not_before = date_time_ymd(begins, 1, 1);
        params.not_after = date_time_ymd(ends, 1, 1);
        let key = key(kind);
        let made = params.signed_by(&key, &self.between);
        let made = made.expect("a certificate can be made");
        Certificate {
            chain: made.pem() + &self.between.pem(),
            key: key.serialize_pem(),
            der: made.into(),
        }
    }

    /// A client that trusts it, speaks HTTP/1.1 without a word of it, and remembers sessions.
    pub fn client(&self) -> Client {
        self.client_of(&[&TLS13, &TLS12])
    }

    /// The same, with these versions of TLS alone.
    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> Client {
        let mut roots = RootCertStore::empty();
        let added = roots.add(self.root.der().clone());
        added.expect("an authority can be trusted");
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("these versions can be spoken");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        // For [`records::Sealed`].
        config.enable_secret_extraction = true;
        Client { config }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn key(kind: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(kind).expect("a key can be made")
}

/// How a server shows a certificate that speaks these protocols.
pub fn server_config(certificate: &Certificate, protocols: &[&str]) -> rustls::ServerConfig {
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes());
    let chain: Result<Vec<_>, _> = chain.collect();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes());
    let provider = Arc::new(ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has what they need")
        .with_no_client_auth()
        .with_single_cert(
            chain.expect("it was made here"),
            key.expect("it was made here"),
        );
    let mut config = config.expect("they belong together");
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    config
}

/// The settings of a platform that shows these certificates, which lie in files of these names: `NAME.pem`, `NAME.key`.
pub fn settings(config: &str, certificates: &[(&str, &Certificate)]) -> Settings {
    let named = certificates.iter().map(|(name, _)| {
        format!("[[tls.certificate]]\nchain = '{name}.pem'\nkey = '{name}.key'\n")
    });
    let named: String = named.collect();
    let files = certificates.iter().flat_map(|(name, certificate)| {
        let Certificate { chain, key, .. } = (*certificate).clone();
        [(format!("{name}.pem"), chain), (format!("{name}.key"), key)]
    });
    Settings {
        config: format!("{config}\n[tls]\nlisten = ['127.0.0.1:0']\n{named}"),
        files: files.collect(),
        ..Settings::default()
    }
}

/// How a client begins.
#[derive(Clone)]
pub struct Client {
    config: ClientConfig,
}

impl Client {
    /// Offers to speak these protocols.
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
        self.config.alpn_protocols = protocols.collect();
        self
    }

    /// Does not say which host it wants.
    pub fn unnamed(mut self) -> Self {
        self.config.enable_sni = false;
        self
    }

    /// Begins each session anew.
    pub fn forgetful(mut self) -> Self {
        self.config.resumption = Resumption::disabled();
        self
    }

    /// A connection to a host, which the server must prove to be.
    pub fn connect(&self, address: SocketAddr, host: &str) -> io::Result<Connection<Secure>> {
        let mut session = ClientConnection::new(Arc::new(self.config.clone()), name(host)?)
            .map_err(io::Error::other)?;
        let mut tcp = Connection::open(address, host)?.into_stream();
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        let secure = Secure {
            tcp,
            session: Arc::new(Mutex::new(session)),
            leaving: Arc::default(),
        };
        Ok(Connection::over(secure, host))
    }

    /// Shakes hands, takes what the session can be resumed with where TLS 1.3 sends it, and leaves; whether an earlier
    /// session was resumed.
    pub fn shake(&self, address: SocketAddr, host: &str) -> io::Result<bool> {
        let mut session = ClientConnection::new(Arc::new(self.config.clone()), name(host)?)
            .map_err(io::Error::other)?;
        let mut tcp = Connection::open(address, host)?.into_stream();
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        session.read_tls(&mut tcp)?;
        session.process_new_packets().map_err(io::Error::other)?;
        Ok(session.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// A connection to a host over HTTP/2.
    pub fn connect_http2(&self, address: SocketAddr, host: &str) -> io::Result<Http2> {
        let client = self.clone().offering(&["h2"]);
        let connector = TlsConnector::from(Arc::new(client.config));
        let name = name(host)?;
        Http2::over(Scheme::HTTPS, host, async move {
            let tcp = http2::tcp(address).await?;
            connector.connect(name, tcp).await
        })
    }

    /// What it says first.
    pub fn hello(&self, host: &str) -> io::Result<Vec<u8>> {
        let mut session = ClientConnection::new(Arc::new(self.config.clone()), name(host)?)
            .map_err(io::Error::other)?;
        records_of(&mut session)
    }
}

/// The host without its port.
fn name(host: &str) -> io::Result<ServerName<'static>> {
    let name = host.split(':').next().unwrap_or_default();
    ServerName::try_from(name.to_owned()).map_err(io::Error::other)
}

/// Why TLS failed, if that is what did.
pub fn reason(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// TLS over a socket. As of a socket, one handle may be read while another is written to.
pub struct Secure {
    tcp: TcpStream,
    session: Arc<Mutex<ClientConnection>>,
    /// Held until records have left, so that none overtakes another.
    leaving: Arc<Mutex<()>>,
}

impl Secure {
    /// The protocol that both sides agreed on.
    pub fn protocol(&self) -> Option<String> {
        let session = self.session();
        let protocol = session.alpn_protocol()?;
        Some(String::from_utf8_lossy(protocol).into_owned())
    }

    /// Whether an earlier session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.session().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether this is what the server showed.
    pub fn was_shown(&self, certificate: &Certificate) -> bool {
        let session = self.session();
        let shown = session.peer_certificates();
        shown.is_some_and(|shown| shown.first() == Some(&certificate.der))
    }

    /// Says that other keys are used from now on, and that the server shall do the same (RFC 8446 §4.6.3).
    pub fn change_keys(&mut self) -> io::Result<()> {
        let changed = self.session().refresh_traffic_keys();
        changed.map_err(io::Error::other)?;
        self.flush()
    }

    fn session(&self) -> MutexGuard<'_, ClientConnection> {
        self.session.lock().expect("no other handle has panicked")
    }

    /// Sends what `say` leaves in the session. The server may take its time: the session is free meanwhile.
    fn leave<T>(&self, say: impl FnOnce(&mut ClientConnection) -> io::Result<T>) -> io::Result<T> {
        let _leaving = self.leaving.lock().expect("no other handle has panicked");
        let mut session = self.session();
        let said = say(&mut session)?;
        let records = records_of(&mut session)?;
        drop(session);
        (&self.tcp).write_all(&records)?;
        Ok(said)
    }
}

impl Stream for Secure {
    fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn twin(&self) -> io::Result<Self> {
        Ok(Self {
            tcp: self.tcp.try_clone()?,
            session: self.session.clone(),
            leaving: self.leaving.clone(),
        })
    }
}

impl Read for Secure {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session().reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            // Waits for bytes, or their end, while the session is free.
            self.tcp.peek(&mut [0])?;
            let mut session = self.session();
            session.read_tls(&mut &self.tcp)?;
            session.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

impl Write for Secure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.leave(|session| session.writer().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.leave(|_| Ok(()))
    }
}

/// The records that a session wants to send.
fn records_of(session: &mut ClientConnection) -> io::Result<Vec<u8>> {
    let mut records = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut records)?;
    }
    Ok(records)
}
