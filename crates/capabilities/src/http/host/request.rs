//! The request a guest is handed.

use wasmtime::component::Resource;

use super::bindings::wasi::http::types::{self, Method, Scheme};
use super::body::IncomingBody;
use super::{HttpView, NewRequest};
use crate::http::{Fields, Incoming};

/// A request that came in.
pub struct IncomingRequest {
    method: http::Method,
    uri: http::Uri,
    scheme: &'static str,
    authority: String,
    headers: Fields,
    body: Option<Incoming>,
}

impl IncomingRequest {
    pub(super) fn new(request: NewRequest) -> Self {
        Self {
            method: request.parts.method,
            uri: request.parts.uri,
            scheme: request.scheme,
            authority: request.authority,
            headers: Fields::received(request.parts.headers),
            body: Some(request.body),
        }
    }
}

impl types::HostIncomingRequest for HttpView<'_> {
    fn method(&mut self, request: Resource<IncomingRequest>) -> wasmtime::Result<Method> {
        Ok((&self.table.get(&request)?.method).into())
    }

    fn path_with_query(
        &mut self,
        request: Resource<IncomingRequest>,
    ) -> wasmtime::Result<Option<String>> {
        let uri = &self.table.get(&request)?.uri;
        Ok(uri
            .path_and_query()
            .map(|target| target.as_str().to_owned()))
    }

    fn scheme(&mut self, request: Resource<IncomingRequest>) -> wasmtime::Result<Option<Scheme>> {
        Ok(Some(match self.table.get(&request)?.scheme {
            "https" => Scheme::Https,
            _ => Scheme::Http,
        }))
    }

    fn authority(
        &mut self,
        request: Resource<IncomingRequest>,
    ) -> wasmtime::Result<Option<String>> {
        Ok(Some(self.table.get(&request)?.authority.clone()))
    }

    fn headers(
        &mut self,
        request: Resource<IncomingRequest>,
    ) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&request)?.headers.shared();
        Ok(self.table.push(headers)?)
    }

    fn consume(
        &mut self,
        request: Resource<IncomingRequest>,
    ) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        let Some(body) = self.table.get_mut(&request)?.body.take() else {
            return Ok(Err(()));
        };
        Ok(Ok(self.table.push(IncomingBody::new(body))?))
    }

    fn drop(&mut self, request: Resource<IncomingRequest>) -> wasmtime::Result<()> {
        self.table.delete(request)?;
        Ok(())
    }
}
