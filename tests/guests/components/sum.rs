//! Reads the whole body, slowly if the path says `/MILLISECONDS` for each piece, and answers with its length.

use std::time::Duration;

use guests::Body;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let pause = Duration::from_millis(guests::number(&request, 0, 0));
    let mut body = Body::of(&request);
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    while let Some(length) = body.next(&mut buffer) {
        total += length;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    guests::answer(out, 200, &total.to_string());
}
