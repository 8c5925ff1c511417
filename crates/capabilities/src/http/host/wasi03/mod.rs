//! `wasi:http` 0.3 for guests: messages are values, their bodies streams that end in a future of trailers.
//!
//! Serves stores whose engine has component-async. Fields, limits and bodies are those of 0.2.

mod body;
mod fields;
mod message;

use wasmtime::AsContextMut;
use wasmtime::component::{Accessor, Linker, Resource, ResourceTable};

use super::response::content_length;
use super::{Http, HttpData, HttpView, NewRequest};
use crate::http::client::SendError;
use crate::http::{Answer, GaveUp, Reply};
use bindings::wasi::http::client;
use bindings::wasi::http::types;
pub use body::Relay;
pub use message::{Request, Response};
pub use types::ErrorCode;

pub(super) mod bindings {
    wasmtime::component::bindgen!({
        path: "src/http/wit03",
        world: "wasi:http/host",
        imports: {
            "wasi:http/client.send": store | trappable,
            "wasi:http/types.[static]request.new": store | trappable,
            "wasi:http/types.[static]request.consume-body": store | trappable,
            "wasi:http/types.[drop]request": store | trappable,
            "wasi:http/types.[static]response.new": store | trappable,
            "wasi:http/types.[static]response.consume-body": store | trappable,
            "wasi:http/types.[drop]response": store | trappable,
            default: trappable,
        },
        with: {
            "wasi:http/types.fields": crate::http::Fields,
            "wasi:http/types.request": super::message::Request,
            "wasi:http/types.request-options": super::message::RequestOptions,
            "wasi:http/types.response": super::message::Response,
        },
        require_store_data_send: true,
    });
}

/// What a handler returns.
pub type Returned = Result<Resource<Response>, ErrorCode>;

/// Lends `wasi:http` to every guest that the linker links. The host's 0.3.0 serves each 0.3.
pub fn add_to_linker<T: HttpData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    types::add_to_linker::<T, Http>(linker, T::http)?;
    client::add_to_linker::<T, Http>(linker, T::http)
}

/// Puts a request into the guest's table.
pub fn offer(
    table: &mut ResourceTable,
    request: NewRequest,
) -> wasmtime::Result<Resource<Request>> {
    Ok(table.push(Request::received(request))?)
}

/// What the client hears of what a handler returned. The body goes on being written as the guest writes it, for as long
/// as the store's event loop runs; one that is the request's own as its [`Relay`] does.
pub fn answer<T: HttpData>(
    mut store: impl AsContextMut<Data = T>,
    returned: Returned,
) -> wasmtime::Result<(Answer, Option<Relay>)> {
    let response = match returned {
        Ok(response) => store
            .as_context_mut()
            .data_mut()
            .http()
            .table
            .delete(response)?,
        Err(code) => return Ok((Err(GaveUp(format!("{code:?}"))), None)),
    };
    let Response {
        status,
        headers,
        body,
    } = response;
    let length = match content_length(headers.map()) {
        Ok(length) => length,
        Err(text) => {
            body.close(store)?;
            return Ok((Err(GaveUp(text)), None));
        }
    };
    let (body, relay) = body.send(store, length)?;
    let reply = Reply {
        status,
        headers: headers.into_map(),
        body,
    };
    Ok((Ok(reply), relay))
}

impl types::Host for HttpView<'_> {}

impl client::Host for HttpView<'_> {}

impl<T: HttpData> client::HostWithStore<T> for Http {
    async fn send(
        accessor: &Accessor<T, Self>,
        request: Resource<Request>,
    ) -> wasmtime::Result<Returned> {
        let begun = accessor.with(|mut access| {
            let request = access.get().table.delete(request)?;
            let Ok(length) = content_length(request.headers.map()) else {
                request.body.close(access)?;
                return wasmtime::error::Ok(Err(SendError::Malformed));
            };
            let (mut asked, body) = request.asked()?;
            let (body, relay) = body.send_if_any(&mut access, length)?;
            asked.body = body.map(|body| body.reader());
            let HttpView {
                context, sender, ..
            } = access.get();
            let coming = context.outbound.send(asked, &context.memory, sender);
            if let (Ok(_), Some(relay)) = (&coming, relay) {
                tokio::task::spawn_local(relay.run());
            }
            Ok(coming)
        })?;
        let received = match begun {
            Ok(coming) => coming.await,
            Err(error) => Err(error),
        };
        accessor.with(|mut access| {
            Ok(match received {
                Ok(received) => Ok(access.get().table.push(Response::received(received))?),
                Err(error) => Err(error.into()),
            })
        })
    }
}
