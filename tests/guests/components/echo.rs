//! Sends the request's body back, piece by piece, as it comes.

use guests::{Body, Reply};
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let mut reply = Reply::begin(out, 200, &[("content-type", "application/octet-stream")]);
    let mut body = Body::of(&request);
    let mut buffer = vec![0; 64 << 10];
    while let Some(length) = body.next(&mut buffer) {
        if !(reply.write(&buffer[..length]) && reply.flush()) {
            return;
        }
    }
    reply.end(None);
}
