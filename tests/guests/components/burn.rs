//! `/COUNT`: goes round COUNT thousand times, then answers.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let end = 1000 * guests::number(&request, 0, 1);
    let mut turns = 0u64;
    while turns < end {
        turns = std::hint::black_box(turns + 1);
    }
    guests::answer(out, 200, "burnt\n");
}
