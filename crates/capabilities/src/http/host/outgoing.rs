//! Requests that a guest sends, and the replies to them.
//!
//! Each part has a bound: what a guest may hand over in one call, times as many requests as it may hold, would be more
//! memory than a worker has.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use model::{HttpScheme, Size, limits};
use wasmtime::component::Resource;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

use super::bindings::wasi::http::outgoing_handler;
use super::bindings::wasi::http::types::{self, ErrorCode, Method, Scheme};
use super::body::{IncomingBody, OutgoingBody};
use super::response::content_length;
use super::{HttpContext, HttpView, take_fields};
use crate::http::client::{Asked, Permitted, Received, SendError, Waits};
use crate::http::{Fields, Held, HostMemoryLimit, Incoming, Outgoing};

/// A request that a guest makes.
pub struct OutgoingRequest {
    method: Method,
    path_with_query: Option<String>,
    scheme: Option<Scheme>,
    authority: Option<String>,
    headers: Fields,
    body: Option<Outgoing>,
    /// For the parts besides that may be long.
    held: Held,
}

impl OutgoingRequest {
    fn count(&mut self) -> Result<(), HostMemoryLimit> {
        let length = |part: &Option<String>| part.as_ref().map_or(0, String::len);
        self.held
            .resize(length(&self.path_with_query) + length(&self.authority))
    }
}

/// How long a guest would wait, in nanoseconds.
#[derive(Default)]
pub struct RequestOptions {
    connect: Option<u64>,
    first_byte: Option<u64>,
    between_bytes: Option<u64>,
}

/// A reply to a guest's request.
pub struct IncomingResponse {
    status: u16,
    headers: Fields,
    body: Option<Incoming>,
}

/// A reply to come.
pub enum FutureIncomingResponse {
    Coming(Permitted),
    Here(Result<Received, SendError>),
    Told,
}

#[async_trait]
impl Pollable for FutureIncomingResponse {
    async fn ready(&mut self) {
        if let Self::Coming(coming) = self {
            *self = Self::Here(coming.await);
        }
    }
}

impl outgoing_handler::Host for HttpView<'_> {
    fn handle(
        &mut self,
        request: Resource<OutgoingRequest>,
        options: Option<Resource<RequestOptions>>,
    ) -> wasmtime::Result<Result<Resource<FutureIncomingResponse>, ErrorCode>> {
        let request = self.table.delete(request)?;
        let options = match options {
            Some(options) => self.table.delete(options)?,
            None => RequestOptions::default(),
        };
        if content_length(request.headers.map()).is_err() {
            return Ok(Err(SendError::Malformed.into()));
        }
        let asked = Asked {
            method: request.method.try_into()?,
            // The interface leaves it open what none means.
            scheme: request.scheme.map_or(Some(HttpScheme::Https), Into::into),
            authority: request.authority.unwrap_or_default(),
            target: request.path_with_query.unwrap_or_default(),
            headers: request.headers.into_map(),
            body: request.body.map(|body| body.reader()),
            waits: Waits::within(options.connect, options.first_byte, options.between_bytes),
        };
        let HttpContext {
            outbound, memory, ..
        } = &mut *self.context;
        Ok(match outbound.send(asked, memory, self.sender) {
            Ok(coming) => Ok(self.table.push(FutureIncomingResponse::Coming(coming))?),
            Err(error) => Err(error.into()),
        })
    }
}

fn is_within(text: &str, limit: Size) -> bool {
    text.len() as u64 <= limit.bytes()
}

pub(super) fn is_method(name: &str) -> bool {
    is_within(name, limits::REQUEST_METHOD.default)
        && http::Method::from_bytes(name.as_bytes()).is_ok()
}

/// Whether this is a path with an optional query.
pub(super) fn is_path(path: &str) -> bool {
    is_within(path, limits::REQUEST_TARGET.default)
        && path.parse::<http::uri::PathAndQuery>().is_ok()
}

pub(super) fn is_scheme(name: &str) -> bool {
    name.parse::<http::uri::Scheme>().is_ok()
}

pub(super) fn is_authority(text: &str) -> bool {
    is_within(text, limits::OUTGOING_AUTHORITY.default)
        && text.parse::<http::uri::Authority>().is_ok()
}

impl types::HostOutgoingRequest for HttpView<'_> {
    fn new(&mut self, headers: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingRequest>> {
        let headers = take_fields(self.table, headers)?;
        let held = self.context.memory.hold(0)?;
        Ok(self.table.push(OutgoingRequest {
            method: Method::Get,
            path_with_query: None,
            scheme: None,
            authority: None,
            headers,
            body: None,
            held,
        })?)
    }

    fn body(
        &mut self,
        request: Resource<OutgoingRequest>,
    ) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        let request = self.table.get_mut(&request)?;
        if request.body.is_some() {
            return Ok(Err(()));
        }
        let Ok(length) = content_length(request.headers.map()) else {
            return Ok(Err(()));
        };
        let body = Outgoing::held(&self.context.memory)?;
        request.body = Some(body.clone());
        Ok(Ok(self.table.push(OutgoingBody::new(body, length))?))
    }

    fn method(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Method> {
        Ok(self.table.get(&request)?.method.clone())
    }

    fn set_method(
        &mut self,
        request: Resource<OutgoingRequest>,
        method: Method,
    ) -> wasmtime::Result<Result<(), ()>> {
        if matches!(&method, Method::Other(name) if !is_method(name)) {
            return Ok(Err(()));
        }
        self.table.get_mut(&request)?.method = method;
        Ok(Ok(()))
    }

    fn path_with_query(
        &mut self,
        request: Resource<OutgoingRequest>,
    ) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&request)?.path_with_query.clone())
    }

    fn set_path_with_query(
        &mut self,
        request: Resource<OutgoingRequest>,
        path: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if path.as_deref().is_some_and(|path| !is_path(path)) {
            return Ok(Err(()));
        }
        let request = self.table.get_mut(&request)?;
        request.path_with_query = path;
        request.count()?;
        Ok(Ok(()))
    }

    fn scheme(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<Scheme>> {
        Ok(self.table.get(&request)?.scheme.clone())
    }

    fn set_scheme(
        &mut self,
        request: Resource<OutgoingRequest>,
        scheme: Option<Scheme>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if matches!(&scheme, Some(Scheme::Other(name)) if !is_scheme(name)) {
            return Ok(Err(()));
        }
        self.table.get_mut(&request)?.scheme = scheme;
        Ok(Ok(()))
    }

    fn authority(
        &mut self,
        request: Resource<OutgoingRequest>,
    ) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&request)?.authority.clone())
    }

    fn set_authority(
        &mut self,
        request: Resource<OutgoingRequest>,
        authority: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if authority.as_deref().is_some_and(|text| !is_authority(text)) {
            return Ok(Err(()));
        }
        let request = self.table.get_mut(&request)?;
        request.authority = authority;
        request.count()?;
        Ok(Ok(()))
    }

    fn headers(
        &mut self,
        request: Resource<OutgoingRequest>,
    ) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&request)?.headers.shared();
        Ok(self.table.push(headers)?)
    }

    fn drop(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<()> {
        self.table.delete(request)?;
        Ok(())
    }
}

impl types::HostRequestOptions for HttpView<'_> {
    fn new(&mut self) -> wasmtime::Result<Resource<RequestOptions>> {
        Ok(self.table.push(RequestOptions::default())?)
    }

    fn connect_timeout(
        &mut self,
        options: Resource<RequestOptions>,
    ) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.connect)
    }

    fn set_connect_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.connect = duration;
        Ok(Ok(()))
    }

    fn first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
    ) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.first_byte)
    }

    fn set_first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.first_byte = duration;
        Ok(Ok(()))
    }

    fn between_bytes_timeout(
        &mut self,
        options: Resource<RequestOptions>,
    ) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.between_bytes)
    }

    fn set_between_bytes_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.between_bytes = duration;
        Ok(Ok(()))
    }

    fn drop(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<()> {
        self.table.delete(options)?;
        Ok(())
    }
}

impl types::HostIncomingResponse for HttpView<'_> {
    fn status(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<u16> {
        Ok(self.table.get(&response)?.status)
    }

    fn headers(
        &mut self,
        response: Resource<IncomingResponse>,
    ) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&response)?.headers.shared();
        Ok(self.table.push(headers)?)
    }

    fn consume(
        &mut self,
        response: Resource<IncomingResponse>,
    ) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        Ok(match self.table.get_mut(&response)?.body.take() {
            Some(body) => Ok(self.table.push(IncomingBody::new(body))?),
            None => Err(()),
        })
    }

    fn drop(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<()> {
        self.table.delete(response)?;
        Ok(())
    }
}

type FutureResult = Result<Result<Resource<IncomingResponse>, ErrorCode>, ()>;

impl types::HostFutureIncomingResponse for HttpView<'_> {
    fn subscribe(
        &mut self,
        response: Resource<FutureIncomingResponse>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, response)
    }

    fn get(
        &mut self,
        response: Resource<FutureIncomingResponse>,
    ) -> wasmtime::Result<Option<FutureResult>> {
        let future = self.table.get_mut(&response)?;
        // A guest that asks again and again need not wait for it.
        if let FutureIncomingResponse::Coming(coming) = future {
            match Pin::new(coming).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(received) => *future = FutureIncomingResponse::Here(received),
                Poll::Pending => return Ok(None),
            }
        }
        let received = match std::mem::replace(future, FutureIncomingResponse::Told) {
            FutureIncomingResponse::Here(received) => received,
            FutureIncomingResponse::Told | FutureIncomingResponse::Coming(_) => {
                return Ok(Some(Err(())));
            }
        };
        Ok(Some(Ok(match received {
            Ok(received) => Ok(self.table.push(IncomingResponse {
                status: received.status.as_u16(),
                headers: Fields::received_by(received.headers, received.headers_held),
                body: Some(received.body),
            })?),
            Err(error) => Err(error.into()),
        })))
    }

    fn drop(&mut self, response: Resource<FutureIncomingResponse>) -> wasmtime::Result<()> {
        self.table.delete(response)?;
        Ok(())
    }
}
