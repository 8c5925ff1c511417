//! Writes to standard output and standard error; for `/COUNT`, that many lines of 100 bytes.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    println!("to standard output");
    eprintln!("to standard error, with \x1b[31mcolour\x1b[0m");
    for line in 0..guests::number(&request, 0, 0) {
        println!("{line:0100}");
    }
    guests::answer(out, 200, "printed\n");
}
