//! Writes lines for ever, as fast as they are taken.

use guests::Reply;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    let mut reply = Reply::begin(out, 200, &[]);
    while reply.write(&[b'x'; 16 << 10]) && reply.flush() {}
}
