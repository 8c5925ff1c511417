//! Answers, and then never returns: what is called after the handler, to free its result, does not end.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    guests::answer(out, 200, "answered, and on\n");
}

#[unsafe(export_name = "cabi_post_wasi:http/incoming-handler@0.2.12#handle")]
extern "C" fn after_the_handler() {
    let mut turns = 0u64;
    loop {
        turns = std::hint::black_box(turns + 1);
    }
}
