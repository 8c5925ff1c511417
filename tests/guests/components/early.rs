//! Answers at once and never looks at the request's body.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    guests::answer(out, 413, "no, thank you\n");
}
