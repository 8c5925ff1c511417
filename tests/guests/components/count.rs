//! Counts its own requests in a static, and answers with the count: 1, if each request has an instance of its own.

use std::sync::atomic::{AtomicU32, Ordering};

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

static COUNT: AtomicU32 = AtomicU32::new(0);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    guests::answer(out, 200, &format!("{count}\n"));
}
