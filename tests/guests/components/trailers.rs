//! Echoes the body and sends the request's trailers back as its own, with `x-length` added.

use guests::{Body, Reply};
use wasip2::http::types::{Fields, IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let mut body = Body::of(&request);
    let mut buffer = vec![0; 64 << 10];
    let mut whole = Vec::new();
    while let Some(length) = body.next(&mut buffer) {
        whole.extend_from_slice(&buffer[..length]);
    }
    let trailers = Fields::new();
    for (name, value) in body
        .trailers()
        .map(|fields| fields.entries())
        .unwrap_or_default()
    {
        trailers
            .append(&name, &value)
            .expect("a trailer that may be sent");
    }
    let length = whole.len().to_string();
    trailers
        .set("x-length", &[length.into_bytes()])
        .expect("a trailer that may be sent");
    let names: Vec<String> = trailers
        .entries()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut reply = Reply::begin(out, 200, &[("trailer", &names.join(", "))]);
    reply.write(&whole);
    reply.end(Some(trailers));
}
