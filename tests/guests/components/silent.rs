//! Ends without an answer.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(_request: IncomingRequest, _out: ResponseOutparam) {}
