//! `/MEBIBYTES`: a reply of that length; each byte tells its place.

use guests::Reply;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let mebibytes = guests::number(&request, 0, 1);
    let length = (mebibytes << 20).to_string();
    let mut reply = Reply::begin(out, 200, &[("content-length", &length)]);
    let piece: Vec<u8> = (0..64 << 10)
        .map(|place: u32| (place % 251) as u8)
        .collect();
    for _ in 0..mebibytes * 16 {
        if !reply.write(&piece) {
            return;
        }
    }
    reply.end(None);
}
