//! Requests and replies as a guest holds them: those it was handed, and those it makes.

use http::StatusCode;
use model::HttpScheme;
use wasmtime::component::{Access, FutureReader, Resource, StreamReader};

use super::body::{Body, Sent, Trailers};
use super::types::{self, Method, RequestOptionsError, Scheme};
use crate::http::client::{Asked, Received, Waits};
use crate::http::host::outgoing::{is_authority, is_method, is_path, is_scheme};
use crate::http::host::{Http, HttpData, HttpView, NewRequest};
use crate::http::{Fields, Held, HostMemoryLimit};

/// A request that came in, or one that a guest makes.
pub struct Request {
    method: Method,
    scheme: Option<Scheme>,
    authority: Option<String>,
    path_with_query: Option<String>,
    pub(super) headers: Fields,
    options: RequestOptions,
    pub(super) body: Body,
    /// For the parts of one that a guest makes that may be long.
    held: Option<Held>,
}

/// How long a guest would wait, in nanoseconds.
#[derive(Clone, Default)]
pub struct RequestOptions {
    connect: Option<u64>,
    first_byte: Option<u64>,
    between_bytes: Option<u64>,
    immutable: bool,
}

/// A reply that a guest makes, or one to a request of its own.
pub struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: Fields,
    pub(super) body: Body,
}

impl Response {
    pub(super) fn received(received: Received) -> Self {
        Self {
            status: received.status,
            headers: Fields::received_by(received.headers, received.headers_held),
            body: Body::Received(received.body),
        }
    }
}

impl Request {
    pub(super) fn received(request: NewRequest) -> Self {
        let target = request.parts.uri.path_and_query();
        Self {
            method: (&request.parts.method).into(),
            scheme: Some(match request.scheme {
                "https" => Scheme::Https,
                _ => Scheme::Http,
            }),
            authority: Some(request.authority),
            path_with_query: target.map(|target| target.as_str().to_owned()),
            headers: Fields::received(request.parts.headers),
            options: RequestOptions::default(),
            body: Body::Received(request.body),
            held: None,
        }
    }

    /// The request to be sent, and its body.
    pub(super) fn asked(self) -> wasmtime::Result<(Asked, Body)> {
        let options = self.options;
        let asked = Asked {
            method: self.method.try_into()?,
            // The interface leaves it open what none means.
            scheme: self.scheme.map_or(Some(HttpScheme::Https), Into::into),
            authority: self.authority.unwrap_or_default(),
            target: self.path_with_query.unwrap_or_default(),
            headers: self.headers.into_map(),
            body: None,
            waits: Waits::within(options.connect, options.first_byte, options.between_bytes),
        };
        Ok((asked, self.body))
    }

    fn count(&mut self) -> Result<(), HostMemoryLimit> {
        let length = |part: &Option<String>| part.as_ref().map_or(0, String::len);
        let bytes = length(&self.path_with_query) + length(&self.authority);
        self.held.as_mut().map_or(Ok(()), |held| held.resize(bytes))
    }
}

impl<T: HttpData> types::HostRequestWithStore<T> for Http {
    fn new(
        mut access: Access<'_, T, Self>,
        headers: Resource<Fields>,
        contents: Option<StreamReader<u8>>,
        trailers: FutureReader<Trailers>,
        options: Option<Resource<RequestOptions>>,
    ) -> wasmtime::Result<(Resource<Request>, FutureReader<Sent>)> {
        let (body, sent) = Body::made(&mut access, contents, trailers)?;
        let HttpView { context, table, .. } = access.get();
        let options = options.map(|options| table.delete(options)).transpose()?;
        let request = Request {
            method: Method::Get,
            scheme: None,
            authority: None,
            path_with_query: None,
            headers: super::super::take_fields(table, headers)?,
            options: options.unwrap_or_default(),
            body,
            held: Some(context.memory.hold(0)?),
        };
        Ok((table.push(request)?, sent))
    }

    fn consume_body(
        mut access: Access<'_, T, Self>,
        request: Resource<Request>,
        handled: FutureReader<Sent>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Trailers>)> {
        let request = access.get().table.delete(request)?;
        request.body.consume(access, handled)
    }

    fn drop(mut access: Access<'_, T, Self>, request: Resource<Request>) -> wasmtime::Result<()> {
        let request = access.get().table.delete(request)?;
        request.body.close(access)
    }
}

impl types::HostRequest for HttpView<'_> {
    fn get_method(&mut self, request: Resource<Request>) -> wasmtime::Result<Method> {
        Ok(self.table.get(&request)?.method.clone())
    }

    fn set_method(
        &mut self,
        request: Resource<Request>,
        method: Method,
    ) -> wasmtime::Result<Result<(), ()>> {
        if matches!(&method, Method::Other(name) if !is_method(name)) {
            return Ok(Err(()));
        }
        self.table.get_mut(&request)?.method = method;
        Ok(Ok(()))
    }

    fn get_path_with_query(
        &mut self,
        request: Resource<Request>,
    ) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&request)?.path_with_query.clone())
    }

    fn set_path_with_query(
        &mut self,
        request: Resource<Request>,
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

    fn get_scheme(&mut self, request: Resource<Request>) -> wasmtime::Result<Option<Scheme>> {
        Ok(self.table.get(&request)?.scheme.clone())
    }

    fn set_scheme(
        &mut self,
        request: Resource<Request>,
        scheme: Option<Scheme>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if matches!(&scheme, Some(Scheme::Other(name)) if !is_scheme(name)) {
            return Ok(Err(()));
        }
        self.table.get_mut(&request)?.scheme = scheme;
        Ok(Ok(()))
    }

    fn get_authority(&mut self, request: Resource<Request>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&request)?.authority.clone())
    }

    fn set_authority(
        &mut self,
        request: Resource<Request>,
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

    fn get_options(
        &mut self,
        request: Resource<Request>,
    ) -> wasmtime::Result<Option<Resource<RequestOptions>>> {
        let options = RequestOptions {
            immutable: true,
            ..self.table.get(&request)?.options.clone()
        };
        Ok(Some(self.table.push(options)?))
    }

    fn get_headers(&mut self, request: Resource<Request>) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&request)?.headers.shared();
        Ok(self.table.push(headers)?)
    }
}

type Set = wasmtime::Result<Result<(), RequestOptionsError>>;

impl HttpView<'_> {
    fn set_time(
        &mut self,
        options: &Resource<RequestOptions>,
        set: impl FnOnce(&mut RequestOptions),
    ) -> Set {
        let options = self.table.get_mut(options)?;
        if options.immutable {
            return Ok(Err(RequestOptionsError::Immutable));
        }
        set(options);
        Ok(Ok(()))
    }
}

impl types::HostRequestOptions for HttpView<'_> {
    fn new(&mut self) -> wasmtime::Result<Resource<RequestOptions>> {
        Ok(self.table.push(RequestOptions::default())?)
    }

    fn get_connect_timeout(
        &mut self,
        options: Resource<RequestOptions>,
    ) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.connect)
    }

    fn set_connect_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration: Option<u64>,
    ) -> Set {
        self.set_time(&options, |options| options.connect = duration)
    }

    fn get_first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
    ) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.first_byte)
    }

    fn set_first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration: Option<u64>,
    ) -> Set {
        self.set_time(&options, |options| options.first_byte = duration)
    }

    fn get_between_bytes_timeout(
        &mut self,
        options: Resource<RequestOptions>,
    ) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.between_bytes)
    }

    fn set_between_bytes_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration: Option<u64>,
    ) -> Set {
        self.set_time(&options, |options| options.between_bytes = duration)
    }

    fn clone(
        &mut self,
        options: Resource<RequestOptions>,
    ) -> wasmtime::Result<Resource<RequestOptions>> {
        let options = RequestOptions {
            immutable: false,
            ..self.table.get(&options)?.clone()
        };
        Ok(self.table.push(options)?)
    }

    fn drop(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<()> {
        self.table.delete(options)?;
        Ok(())
    }
}

impl<T: HttpData> types::HostResponseWithStore<T> for Http {
    fn new(
        mut access: Access<'_, T, Self>,
        headers: Resource<Fields>,
        contents: Option<StreamReader<u8>>,
        trailers: FutureReader<Trailers>,
    ) -> wasmtime::Result<(Resource<Response>, FutureReader<Sent>)> {
        let (body, sent) = Body::made(&mut access, contents, trailers)?;
        let table = access.get().table;
        let response = Response {
            status: StatusCode::OK,
            headers: super::super::take_fields(table, headers)?,
            body,
        };
        Ok((table.push(response)?, sent))
    }

    fn consume_body(
        mut access: Access<'_, T, Self>,
        response: Resource<Response>,
        handled: FutureReader<Sent>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Trailers>)> {
        let response = access.get().table.delete(response)?;
        response.body.consume(access, handled)
    }

    fn drop(mut access: Access<'_, T, Self>, response: Resource<Response>) -> wasmtime::Result<()> {
        let response = access.get().table.delete(response)?;
        response.body.close(access)
    }
}

impl types::HostResponse for HttpView<'_> {
    fn get_status_code(&mut self, response: Resource<Response>) -> wasmtime::Result<u16> {
        Ok(self.table.get(&response)?.status.as_u16())
    }

    fn set_status_code(
        &mut self,
        response: Resource<Response>,
        status: u16,
    ) -> wasmtime::Result<Result<(), ()>> {
        let Some(status) = crate::http::host::response::final_status(status) else {
            return Ok(Err(()));
        };
        self.table.get_mut(&response)?.status = status;
        Ok(Ok(()))
    }

    fn get_headers(&mut self, response: Resource<Response>) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&response)?.headers.shared();
        Ok(self.table.push(headers)?)
    }
}
