//! `/COUNT/MILLISECONDS`: a head at once, then COUNT lines, a pause before each. `/wait/MILLISECONDS`: a pause before
//! the head.

use std::time::Duration;

use guests::Reply;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let pause = Duration::from_millis(guests::number(&request, 1, 100));
    if guests::segments(&request)[0] == "wait" {
        std::thread::sleep(pause);
        return guests::answer(out, 200, "waited\n");
    }
    let mut reply = Reply::begin(out, 200, &[("content-type", "text/plain")]);
    reply.flush();
    for line in 1..=guests::number(&request, 0, 10) {
        std::thread::sleep(pause);
        if !(reply.write(format!("line {line}\n").as_bytes()) && reply.flush()) {
            return;
        }
    }
    reply.end(None);
}
