//! Ends its instance from within: `/CODE`.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, _out: ResponseOutparam) {
    std::process::exit(guests::number(&request, 0, 1) as i32);
}
