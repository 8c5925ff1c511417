//! `/MEBIBYTES`: holds that much memory and touches each page of it; answers with what it got, traps if there is no more.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let wanted = guests::number(&request, 0, 1);
    let mut held = Vec::new();
    for _ in 0..wanted {
        held.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
    guests::answer(out, 200, &format!("{} MiB\n", held.len()));
}
