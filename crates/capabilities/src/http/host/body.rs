//! Bodies and their streams, in the shape `wasi:io` wants.

use std::future::poll_fn;

use bytes::Bytes;
use wasmtime::component::Resource;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::streams::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, StreamError, StreamResult,
};

use super::bindings::wasi::http::types::{self, ErrorCode};
use super::{HttpView, take_trailers};
use crate::http::{BodyError, Closed, Fields, Incoming, Outgoing, WriteError};

/// Why a stream broke, for a guest that asks with `http-error-code`.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamFailure {
    #[error(transparent)]
    Incoming(#[from] BodyError),
    #[error("the body is longer than its content-length of {0} bytes")]
    TooLong(u64),
}

impl StreamFailure {
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::Incoming(error) => (*error).into(),
            Self::TooLong(length) => ErrorCode::HttpResponseBodySize(Some(*length)),
        }
    }
}

/// A body to be read once.
pub struct IncomingBody {
    body: Incoming,
    stream_taken: bool,
}

impl IncomingBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            stream_taken: false,
        }
    }
}

/// A request body as a `wasi:io` input stream.
pub struct BodyInput(pub Incoming);

#[async_trait]
impl Pollable for BodyInput {
    async fn ready(&mut self) {
        poll_fn(|context| self.0.poll_ready(context)).await;
    }
}

#[async_trait]
impl InputStream for BodyInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match self.0.read(size) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(StreamError::Closed),
            Err(error) => {
                let failure = wasmtime::Error::new(StreamFailure::from(error));
                Err(StreamError::LastOperationFailed(failure))
            }
        }
    }
}

impl types::HostIncomingBody for HttpView<'_> {
    fn stream(
        &mut self,
        body: Resource<IncomingBody>,
    ) -> wasmtime::Result<Result<Resource<DynInputStream>, ()>> {
        let body = self.table.get_mut(&body)?;
        if std::mem::replace(&mut body.stream_taken, true) {
            return Ok(Err(()));
        }
        let stream: DynInputStream = Box::new(BodyInput(body.body.clone()));
        Ok(Ok(self.table.push(stream)?))
    }

    fn finish(
        &mut self,
        body: Resource<IncomingBody>,
    ) -> wasmtime::Result<Resource<FutureTrailers>> {
        let body = self.table.delete(body)?.body;
        Ok(self.table.push(FutureTrailers {
            body,
            at_end: false,
            told: false,
        })?)
    }

    fn drop(&mut self, body: Resource<IncomingBody>) -> wasmtime::Result<()> {
        self.table.delete(body)?;
        Ok(())
    }
}

/// The trailers behind a body that is read to its end.
pub struct FutureTrailers {
    body: Incoming,
    at_end: bool,
    told: bool,
}

#[async_trait]
impl Pollable for FutureTrailers {
    async fn ready(&mut self) {
        if !self.at_end {
            poll_fn(|context| self.body.poll_end(context)).await;
            self.at_end = true;
        }
    }
}

type TrailersResult = Result<Result<Option<Resource<Fields>>, ErrorCode>, ()>;

impl types::HostFutureTrailers for HttpView<'_> {
    fn subscribe(
        &mut self,
        trailers: Resource<FutureTrailers>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, trailers)
    }

    fn get(
        &mut self,
        trailers: Resource<FutureTrailers>,
    ) -> wasmtime::Result<Option<TrailersResult>> {
        let future = self.table.get_mut(&trailers)?;
        if !future.at_end {
            return Ok(None);
        }
        if std::mem::replace(&mut future.told, true) {
            return Ok(Some(Err(())));
        }
        Ok(Some(Ok(match future.body.trailers() {
            Ok(None) => Ok(None),
            Ok(Some(map)) => {
                let trailers = Fields::trailing(map, &self.context.memory)?;
                Ok(Some(self.table.push(trailers)?))
            }
            Err(error) => Err(error.into()),
        })))
    }

    fn drop(&mut self, trailers: Resource<FutureTrailers>) -> wasmtime::Result<()> {
        self.table.delete(trailers)?;
        Ok(())
    }
}

/// A body to be written once. Dropped without `finish`, it is not whole.
pub struct OutgoingBody {
    body: Outgoing,
    length: Option<u64>,
    stream_taken: bool,
}

impl OutgoingBody {
    /// `length` is what the `content-length` field promises.
    pub(super) fn new(body: Outgoing, length: Option<u64>) -> Self {
        Self {
            body,
            length,
            stream_taken: false,
        }
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Closed => Self::Closed,
            // As the interface says of `write`.
            WriteError::NoRoom => Self::Trap(wasmtime::Error::new(error)),
        }
    }
}

/// A reply body as a `wasi:io` output stream.
struct BodyOutput {
    body: Outgoing,
    length: Option<u64>,
}

#[async_trait]
impl Pollable for BodyOutput {
    async fn ready(&mut self) {
        poll_fn(|context| self.body.poll_room(context)).await;
    }
}

#[async_trait]
impl OutputStream for BodyOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if let Some(length) = self.length
            && self.body.written() + bytes.len() as u64 > length
        {
            let failure = wasmtime::Error::new(StreamFailure::TooLong(length));
            return Err(StreamError::LastOperationFailed(failure));
        }
        Ok(self.body.write(bytes)?)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.body.room().map_err(|Closed| StreamError::Closed)
    }
}

impl types::HostOutgoingBody for HttpView<'_> {
    fn write(
        &mut self,
        body: Resource<OutgoingBody>,
    ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        let body = self.table.get_mut(&body)?;
        if std::mem::replace(&mut body.stream_taken, true) {
            return Ok(Err(()));
        }
        let stream: DynOutputStream = Box::new(BodyOutput {
            body: body.body.clone(),
            length: body.length,
        });
        Ok(Ok(self.table.push(stream)?))
    }

    fn finish(
        &mut self,
        body: Resource<OutgoingBody>,
        trailers: Option<Resource<Fields>>,
    ) -> wasmtime::Result<Result<(), ErrorCode>> {
        let OutgoingBody { body, length, .. } = self.table.delete(body)?;
        let trailers = take_trailers(self.table, trailers)?;
        let written = body.written();
        if length.is_some_and(|length| length != written) {
            body.fail(model::Outcome::BadResponse);
            return Ok(Err(ErrorCode::HttpResponseBodySize(Some(written))));
        }
        body.finish(trailers);
        Ok(Ok(()))
    }

    fn drop(&mut self, body: Resource<OutgoingBody>) -> wasmtime::Result<()> {
        self.table
            .delete(body)?
            .body
            .fail(model::Outcome::BadResponse);
        Ok(())
    }
}
