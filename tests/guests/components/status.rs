//! `/STATUS`: answers with that status and a body.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let status = guests::number(&request, 0, 200) as u16;
    guests::answer(out, status, &format!("status {status}\n"));
}
