//! Never ends: at once, or, for `/after`, once its whole reply has been written.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    if guests::segments(&request)[0] == "after" {
        guests::answer(out, 200, "answered, and on\n");
    }
    let mut turns = 0u64;
    loop {
        turns = std::hint::black_box(turns + 1);
    }
}
