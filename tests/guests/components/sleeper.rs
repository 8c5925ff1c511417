//! Well behaved, but for two paths. `/bad`: floods its output, takes all the memory there is, and spins for ever.
//! `/panic`: panics.

use std::io::Write;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    match guests::segments(&request)[0].as_str() {
        "bad" => {
            for _ in 0..32 {
                let _ = std::io::stdout().write_all(&[b'x'; 4 << 10]);
            }
            let mut at = 0;
            loop {
                let pages = core::arch::wasm32::memory_grow::<0>(1);
                if pages != usize::MAX {
                    at = pages << 16;
                }
                // SAFETY: the page was just got, and belongs to nobody; or it is the last of those, once more.
                unsafe { (at as *mut u8).write_volatile(7) };
            }
        }
        "panic" => panic!("as asked"),
        _ => guests::answer(out, 200, "good\n"),
    }
}
