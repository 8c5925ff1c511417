//! `wasi:http` 0.2 for guests. Nothing here blocks, so every call is a plain function.

mod body;
mod outgoing;
mod request;
mod response;
pub mod wasi03;
mod words;

pub use body::BodyInput;

use http::HeaderMap;
use tokio::sync::oneshot;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use super::client::{Outbound, Sender};
use super::{Answer, FieldError, Fields, HostMemory, Incoming, Outgoing};
use bindings::wasi::http::types::{self, ErrorCode, HeaderError};

mod bindings {
    wasmtime::component::bindgen!({
        path: "src/http/wit",
        world: "wasi:http/host",
        imports: { default: trappable },
        with: {
            "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
            "wasi:clocks/monotonic-clock": wasmtime_wasi::p2::bindings::clocks::monotonic_clock,
            "wasi:http/types.fields": crate::http::Fields,
            "wasi:http/types.incoming-request": super::request::IncomingRequest,
            "wasi:http/types.incoming-body": super::body::IncomingBody,
            "wasi:http/types.future-trailers": super::body::FutureTrailers,
            "wasi:http/types.outgoing-body": super::body::OutgoingBody,
            "wasi:http/types.outgoing-response": super::response::OutgoingResponse,
            "wasi:http/types.response-outparam": super::response::ResponseOutparam,
            "wasi:http/types.outgoing-request": super::outgoing::OutgoingRequest,
            "wasi:http/types.request-options": super::outgoing::RequestOptions,
            "wasi:http/types.incoming-response": super::outgoing::IncomingResponse,
            "wasi:http/types.future-incoming-response": super::outgoing::FutureIncomingResponse,
        },
        require_store_data_send: true,
    });
}

pub use request::IncomingRequest;
pub use response::ResponseOutparam;

/// What an invocation of a `wasi:http` guest needs.
pub struct HttpContext {
    answer: Option<oneshot::Sender<Answer>>,
    body: Option<Outgoing>,
    memory: HostMemory,
    /// What the guest may send.
    pub outbound: Outbound,
}

impl HttpContext {
    /// `answer` hears what the guest answers, as soon as it does; `outbound` is what it may send meanwhile.
    pub fn new(answer: oneshot::Sender<Answer>, outbound: Outbound) -> Self {
        Self {
            answer: Some(answer),
            body: None,
            memory: HostMemory::default(),
            outbound,
        }
    }

    /// Whether the guest has answered.
    pub fn has_answered(&self) -> bool {
        self.answer.is_none()
    }

    /// The body of the reply that the guest answered with.
    pub fn reply_body(&self) -> Option<&Outgoing> {
        self.body.as_ref()
    }
}

/// A request as the guest is handed it. `authority` and `scheme` are what the client named.
pub struct NewRequest {
    pub parts: http::request::Parts,
    pub scheme: &'static str,
    pub authority: String,
    pub body: Incoming,
}

/// Puts a request and the place for its answer into the guest's table.
pub fn offer(
    table: &mut ResourceTable,
    request: NewRequest,
) -> wasmtime::Result<(Resource<IncomingRequest>, Resource<ResponseOutparam>)> {
    let request = table.push(IncomingRequest::new(request))?;
    let outparam = table.push(ResponseOutparam)?;
    Ok((request, outparam))
}

/// Access to a store's HTTP state.
pub struct HttpView<'a> {
    pub context: &'a mut HttpContext,
    pub table: &'a mut ResourceTable,
    pub sender: Sender<'a>,
}

/// A store's data that has HTTP state.
pub trait HttpData: Send + 'static {
    fn http(&mut self) -> HttpView<'_>;
}

/// What both versions are linked over.
struct Http;

impl HasData for Http {
    type Data<'a> = HttpView<'a>;
}

/// Lends `wasi:http` to every guest that the linker links. The host's 0.2.12 serves each 0.2.
pub fn add_to_linker<T: HttpData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    types::add_to_linker::<T, Http>(linker, T::http)?;
    bindings::wasi::http::outgoing_handler::add_to_linker::<T, Http>(linker, T::http)
}

/// What a guest is told of a change to its fields; one that would be too much for its host ends it.
fn changed<T>(result: Result<T, FieldError>) -> wasmtime::Result<Result<T, HeaderError>> {
    Ok(Err(match result {
        Ok(value) => return Ok(Ok(value)),
        // 0.2 has no word of its own for too much.
        Err(FieldError::Invalid | FieldError::TooLarge) => HeaderError::InvalidSyntax,
        Err(FieldError::Forbidden) => HeaderError::Forbidden,
        Err(FieldError::Immutable) => HeaderError::Immutable,
        Err(FieldError::HostMemory(limit)) => return Err(limit.into()),
    }))
}

impl types::Host for HttpView<'_> {
    fn http_error_code(
        &mut self,
        error: Resource<wasmtime_wasi_io::streams::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self
            .table
            .get(&error)?
            .downcast_ref::<body::StreamFailure>()
            .map(|f| f.code()))
    }
}

/// What both versions do with fields alike.
impl HttpView<'_> {
    fn new_fields(&mut self) -> wasmtime::Result<Resource<Fields>> {
        let fields = Fields::new(&self.context.memory)?;
        Ok(self.table.push(fields)?)
    }

    fn fields_of(
        &mut self,
        entries: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<Resource<Fields>, FieldError>> {
        let mut fields = Fields::new(&self.context.memory)?;
        for (name, value) in entries {
            if let Err(error) = fields.append(&name, &value) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(self.table.push(fields)?))
    }

    fn copy_fields(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Resource<Fields>> {
        let copy = self.table.get(&fields)?.thawed(&self.context.memory)?;
        Ok(self.table.push(copy)?)
    }
}

impl types::HostFields for HttpView<'_> {
    fn new(&mut self) -> wasmtime::Result<Resource<Fields>> {
        self.new_fields()
    }

    fn from_list(
        &mut self,
        entries: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<Resource<Fields>, HeaderError>> {
        changed(self.fields_of(entries)?)
    }

    fn get(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        Ok(self.table.get(&fields)?.values(&name))
    }

    fn has(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<bool> {
        Ok(self.table.get(&fields)?.map().contains_key(name))
    }

    fn set(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        values: Vec<Vec<u8>>,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        changed(self.table.get_mut(&fields)?.set(&name, &values))
    }

    fn delete(
        &mut self,
        fields: Resource<Fields>,
        name: String,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        changed(self.table.get_mut(&fields)?.remove(&name))
    }

    fn append(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        changed(self.table.get_mut(&fields)?.append(&name, &value))
    }

    fn entries(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        Ok(self.table.get(&fields)?.entries())
    }

    fn clone(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Resource<Fields>> {
        self.copy_fields(fields)
    }

    fn drop(&mut self, fields: Resource<Fields>) -> wasmtime::Result<()> {
        self.table.delete(fields)?;
        Ok(())
    }
}

/// The fields that `resource` named, taken out of the table.
fn take_fields(table: &mut ResourceTable, resource: Resource<Fields>) -> wasmtime::Result<Fields> {
    Ok(table.delete(resource)?.frozen())
}

/// Trailers that the guest hands over.
fn take_trailers(
    table: &mut ResourceTable,
    trailers: Option<Resource<Fields>>,
) -> wasmtime::Result<Option<HeaderMap>> {
    trailers
        .map(|fields| Ok(take_fields(table, fields)?.into_map()))
        .transpose()
}
