//! What the benches compare with: plain hyper on one thread that answers every request with the same 14 bytes.
//!
//! `baseline http1`, `baseline http2` (with prior knowledge), or `baseline tls CHAIN KEY` (HTTP/1.1 over TLS, files of PEM).

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What is spoken.
#[derive(Clone)]
enum Speaks {
    Http1,
    Http2,
    Tls(TlsAcceptor),
}

impl Speaks {
    fn named(arguments: &[String]) -> Self {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match arguments[..] {
            ["http1"] => Self::Http1,
            ["http2"] => Self::Http2,
            ["tls", chain, key] => Self::Tls(acceptor(chain, key)),
            _ => panic!("`baseline http1`, `http2` or `tls CHAIN KEY`"),
        }
    }

    async fn serve(self, tcp: TcpStream) {
        // A client that closes early is no failure of the baseline.
        match self {
            Self::Http1 => {
                let http = http1::Builder::new();
                let _ = http
                    .serve_connection(TokioIo::new(tcp), service_fn(hello))
                    .await;
            }
            Self::Http2 => {
                let http = http2::Builder::new(TokioExecutor::new());
                let _ = http
                    .serve_connection(TokioIo::new(tcp), service_fn(hello))
                    .await;
            }
            Self::Tls(acceptor) => {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let http = http1::Builder::new();
                let _ = http
                    .serve_connection(TokioIo::new(tls), service_fn(hello))
                    .await;
            }
        }
    }
}

fn acceptor(chain: &str, key: &str) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .expect("the chain can be read");
    let key = PrivateKeyDer::from_pem_file(key).expect("the key can be read");
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|it| it.with_no_client_auth().with_single_cert(chain, key))
        .expect("the certificate can be shown");
    config.ticketer = ring::Ticketer::new().expect("there is randomness");
    TlsAcceptor::from(Arc::new(config))
}

async fn hello(_: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"Hello, Midge!\n")));
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/plain"));
    Ok(response)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let speaks = Speaks::named(&arguments);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    tokio::task::LocalSet::new()
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::task::spawn_local(speaks.clone().serve(stream));
            }
        })
        .await
}
