//! The least that answers: a 14-byte text. The guest of the benches.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    guests::answer(out, 200, "Hello, Midge!\n");
}
