//! Reads the request's body and tells whether it came whole: 200 and its length, else 422 and what the stream said.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};
use wasip2::io::streams::StreamError;

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut total = 0;
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(bytes) => total += bytes.len(),
            Err(StreamError::Closed) => return guests::answer(out, 200, &total.to_string()),
            Err(StreamError::LastOperationFailed(error)) => {
                return guests::answer(out, 422, &error.to_debug_string());
            }
        }
    }
}
