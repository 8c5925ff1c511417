//! Answers with the environment variable `RELEASE`: tells the versions of an app apart.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    let release = std::env::var("RELEASE").unwrap_or_else(|_| "none".into());
    guests::answer(out, 200, &release);
}
