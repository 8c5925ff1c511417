//! The client for what lies outside of the platform.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use async_trait::async_trait;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use model::pipe::EgressSettings;
use model::{Destination, Size, limits};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};

use super::dial::{Upload, dial, judge, trusted};
use super::download::{self, Lease};
use super::pool::{Key, Pool};
use super::resolve::Resolve;
use super::{CDN_LOOP, Call, Client, Counts, Reach, RootsError, SendError, loop_entry};
use crate::http::RequestBody;

/// How often a request is sent anew because the connection that waited for it was closed meanwhile.
const RETRIES: usize = 3;

/// A worker's way to the network.
pub struct Network {
    reach: Reach,
    resolve: Resolve,
    tls: Arc<ClientConfig>,
    pool: Pool,
    counts: Counts,
}

impl Network {
    /// # Errors
    /// If what the operator trusts cannot be.
    pub fn new(settings: &EgressSettings) -> Result<Self, RootsError> {
        let reach = Reach {
            allow: settings.allow.clone(),
            deny: settings.deny.clone(),
        };
        Ok(Self {
            resolve: Resolve::new(reach.clone(), &settings.nameservers),
            reach,
            tls: trusted(settings.bundled_roots, &settings.roots)?,
            pool: Pool::default(),
            counts: Counts::default(),
        })
    }

    /// Connections that wait for a request.
    pub fn idle(&self) -> u64 {
        self.pool.count()
    }

    /// An open connection for a request whose body says `uploaded` when it was taken, and whether it had waited.
    async fn connection(
        &self,
        call: &Call,
        uploaded: &Arc<AtomicBool>,
        deadline: Instant,
    ) -> Result<(Lease, bool), SendError> {
        let looked_up = timeout_at(deadline, self.resolve.addresses(&call.to.host)).await;
        let addresses = looked_up.unwrap_or(Err(SendError::LookUpTimeout))?;
        let key = |address: &IpAddr| Key {
            tenant: call.caller.id.tenant.clone(),
            incarnation: call.caller.incarnations.tenant,
            to: call.to.clone(),
            address: *address,
        };
        let lease = |key, connection| Lease {
            pool: self.pool.clone(),
            key,
            connection: Some(connection),
            uploaded: uploaded.clone(),
        };
        for key in addresses.iter().map(key) {
            if let Some(connection) = self.pool.take(&key) {
                self.counts.reused.fetch_add(1, Relaxed);
                return Ok((lease(key, connection), true));
            }
        }
        let dialled = dial(&self.tls, &self.reach, &call.to, &addresses, deadline).await;
        let (connection, address) = dialled?;
        self.counts.opened.fetch_add(1, Relaxed);
        let key = key(&address);
        if let Some(shared) = connection.shared() {
            self.pool.keep(key.clone(), shared);
        }
        Ok((lease(key, connection), false))
    }
}

#[async_trait]
impl Client for Network {
    async fn send(&self, mut call: Call) -> Result<http::Response<RequestBody>, SendError> {
        let body = call.body.take();
        // What a server that has closed its connection may not have seen can be asked again (RFC 9110 §9.2.2).
        let repeatable = body.is_none() && call.method.is_safe();
        let mut upload = Upload::new(body);
        let connected_by = Instant::now() + call.waits.connect;
        let mut answered_by = None;
        let mut tries = 0;
        loop {
            let uploaded = upload.ended();
            let (mut lease, waited) = self.connection(&call, &uploaded, connected_by).await?;
            let connection = lease.connection.as_mut().expect("it was lent just now");
            let multiplexed = connection.shared().is_some();
            let request = head(&call, multiplexed)?.map(|()| upload);
            let answered_by = *answered_by.get_or_insert_with(|| Instant::now() + call.waits.head);
            let sent = timeout_at(answered_by, connection.send(request)).await;
            let response = match sent {
                Err(_) => return Err(SendError::HeadTimeout),
                Ok(Ok(response)) => response,
                Ok(Err(mut error)) => {
                    let unsent = error.take_message().map(http::Request::into_body);
                    let error = judge(error.into_error());
                    // The server had closed it meanwhile, before anything of the request left or as it came.
                    let again = unsent.or_else(|| {
                        (repeatable && error == SendError::Gone).then(|| Upload::new(None))
                    });
                    match again.filter(|_| waited && tries < RETRIES) {
                        Some(again) => upload = again,
                        None => return Err(error),
                    }
                    tries += 1;
                    continue;
                }
            };
            return received(response, &call, lease);
        }
    }

    fn counts(&self) -> &Counts {
        &self.counts
    }
}

/// The head as it goes on the wire, made anew from what was checked: over HTTP/1.1 in origin form with our own `host`.
fn head(call: &Call, multiplexed: bool) -> Result<http::Request<()>, SendError> {
    let mut headers = call.headers.clone();
    headers.append(CDN_LOOP, loop_entry(call.hops));
    let authority = call.to.authority();
    let (uri, version) = if multiplexed {
        // The only value that HTTP/2 knows; some servers send no trailers without it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let uri = absolute(&call.to, authority, &call.target)?;
        (uri, Version::HTTP_2)
    } else {
        let host = HeaderValue::try_from(authority).map_err(|_| SendError::Malformed)?;
        headers.insert(HOST, host);
        (Uri::from(call.target.clone()), Version::HTTP_11)
    };
    let mut request = http::Request::new(());
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    Ok(request)
}

fn absolute(to: &Destination, authority: String, target: &PathAndQuery) -> Result<Uri, SendError> {
    let uri = Uri::builder()
        .scheme(to.scheme.as_str())
        .authority(authority)
        .path_and_query(target.clone());
    uri.build().map_err(|_| SendError::Malformed)
}

/// The reply as the guest gets it.
fn received(
    response: http::Response<hyper::body::Incoming>,
    call: &Call,
    lease: Lease,
) -> Result<http::Response<RequestBody>, SendError> {
    let (mut parts, incoming) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS || parts.status.as_u16() < 200 {
        return Err(SendError::Protocol(format!(
            "it answered with the status {}, which was not asked for",
            parts.status.as_u16()
        )));
    }
    if parts.headers.len() as u64 > limits::HEADER_FIELDS.default {
        return Err(SendError::HeadTooLarge);
    }
    if call.method != Method::HEAD
        && let Some(length) = announced(&parts.headers)
        && length > limits::SUBREQUEST_REPLY.default
    {
        return Err(SendError::ReplyTooLarge(length));
    }
    download::clean(&mut parts.headers);
    let mut answer = http::Response::new(download::body(incoming, lease));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    Ok(answer)
}

fn announced(headers: &HeaderMap) -> Option<Size> {
    let length = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    length.parse().ok().map(Size)
}
