//! What the services share: a reply in parts, and the request's path taken apart.

pub use wasip3::clocks::monotonic_clock::wait_for;
pub use wasip3::http::types::{ErrorCode, Fields, HeaderError, Request, Response};
use wasip3::wit_bindgen::{FutureReader, FutureWriter, StreamReader, StreamWriter};
pub use wasip3::wit_bindgen::{StreamResult, spawn_local};
use wasip3::{wit_future, wit_stream};

pub type Answer = Result<Response, ErrorCode>;
type Trailers = Result<Option<Fields>, ErrorCode>;

/// The body of a reply, and what comes behind it.
pub struct Body {
    contents: StreamWriter<u8>,
    trailers: FutureWriter<Trailers>,
    /// What becomes of the reply.
    sent: FutureReader<Result<(), ErrorCode>>,
}

/// A reply's head, and the body to be written once it was returned.
pub fn begin(status: u16, headers: &[(&str, &str)]) -> (Response, Body) {
    let (contents, reader) = wit_stream::new();
    let (response, trailers, sent) = respond(status, headers, Some(reader));
    let body = Body {
        contents,
        trailers,
        sent,
    };
    (response, body)
}

/// A reply with a body that comes from elsewhere, or with none.
pub fn respond(
    status: u16,
    headers: &[(&str, &str)],
    contents: Option<StreamReader<u8>>,
) -> (
    Response,
    FutureWriter<Trailers>,
    FutureReader<Result<(), ErrorCode>>,
) {
    let fields = Fields::new();
    for (name, value) in headers {
        fields
            .append(name, value.as_bytes())
            .expect("a header that may be sent");
    }
    let (trailers, reader) = wit_future::new(|| Ok(None));
    let (response, sent) = Response::new(fields, contents, reader);
    response
        .set_status_code(status)
        .expect("a status that exists");
    (response, trailers, sent)
}

impl Body {
    /// Writes some of the body; false if the client is gone.
    pub async fn write(&mut self, bytes: impl Into<Vec<u8>>) -> bool {
        self.contents.write_all(bytes.into()).await.is_empty()
    }

    /// Ends the body; says what became of the reply.
    pub async fn end(self, trailers: Option<Fields>) -> Result<(), ErrorCode> {
        drop(self.contents);
        let _ = self.trailers.write(Ok(trailers)).await;
        self.sent.await
    }

    /// Gives the reply up.
    pub async fn fail(self) {
        drop(self.contents);
        let _ = self
            .trailers
            .write(Err(ErrorCode::InternalError(None)))
            .await;
    }
}

/// A whole reply of text.
pub fn answer(status: u16, text: &str) -> Answer {
    let (response, mut body) = begin(status, &[("content-type", "text/plain")]);
    let text = text.to_owned();
    spawn_local(async move {
        body.write(text).await;
        let _ = body.end(None).await;
    });
    Ok(response)
}

/// The segments of the request's path, without its query.
pub fn segments(request: &Request) -> Vec<String> {
    let path = request.get_path_with_query().unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    path.split('/').skip(1).map(str::to_owned).collect()
}

/// The number in the path's segment `index`, else `otherwise`.
pub fn number(request: &Request, index: usize, otherwise: u64) -> u64 {
    segments(request)
        .get(index)
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// Waits for so many milliseconds.
pub async fn pause(ms: u64) {
    wait_for(ms * 1_000_000).await;
}

/// The request's body, to read from.
pub struct Received {
    contents: StreamReader<u8>,
    trailers: FutureReader<Trailers>,
}

impl Received {
    pub fn of(request: Request) -> Self {
        let (_, handled) = wit_future::new(|| Ok(()));
        let (contents, trailers) = Request::consume_body(request, handled);
        Self { contents, trailers }
    }

    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.next_of(64 << 10).await
    }

    /// The next piece, of so many bytes at most.
    pub async fn next_of(&mut self, most: usize) -> Option<Vec<u8>> {
        loop {
            let (result, bytes) = self.contents.read(Vec::with_capacity(most)).await;
            if !bytes.is_empty() {
                return Some(bytes);
            }
            if matches!(result, StreamResult::Dropped) {
                return None;
            }
        }
    }

    /// The trailers after the body, if it had some.
    pub async fn trailers(self) -> Trailers {
        drop(self.contents);
        self.trailers.await
    }

    /// The stream and its trailers, to be handed on.
    pub fn parts(self) -> (StreamReader<u8>, FutureReader<Trailers>) {
        (self.contents, self.trailers)
    }
}

/// Makes an async function the service's handler.
#[macro_export]
macro_rules! service {
    ($function:ident) => {
        struct Service;

        impl wasip3::exports::http::handler::Guest for Service {
            async fn handle(request: $crate::Request) -> $crate::Answer {
                $function(request).await
            }
        }

        wasip3::http::service::export!(Service);
    };
}
