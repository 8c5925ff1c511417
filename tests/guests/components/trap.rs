//! Panics: at once, or, for `/middle`, when its head and some of its body have left.

use guests::Reply;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    if guests::segments(&request)[0] == "middle" {
        let mut reply = Reply::begin(out, 200, &[]);
        reply.write(b"so far, so good");
        reply.flush();
    }
    panic!("this guest panics on purpose");
}
