//! `/TEXT`: says whether TEXT matches `(a+)+b`, the way a careless pattern matcher finds out: by trying every way.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let text = guests::segments(&request).swap_remove(0);
    let says = if matches(text.as_bytes()) {
        "it matches\n"
    } else {
        "it does not match\n"
    };
    guests::answer(out, 200, says);
}

/// A group of one or more `a`, then either another group or the `b` at the end.
fn matches(text: &[u8]) -> bool {
    let most = text.iter().take_while(|byte| **byte == b'a').count();
    (1..=most).rev().any(|length| {
        let rest = &text[length..];
        matches(rest) || rest == b"b"
    })
}
