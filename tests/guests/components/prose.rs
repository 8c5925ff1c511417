//! `/STATUS/BYTES`: text of that length, with whatever the request's `x-reply-NAME` headers say as the reply's own NAME;
//! `/STATUS/BYTES/trap` then traps, `/zeros/BYTES` is that many zeros. To a POST the body comes back as it comes, each
//! piece flushed, and its length as the trailer `x-length`.

use guests::{Body, Reply};
use wasip2::http::types::{Fields, IncomingRequest, Method, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let mut headers = Vec::new();
    for (name, value) in request.headers().entries() {
        if let Some(name) = name.strip_prefix("x-reply-") {
            headers.push((
                name.to_owned(),
                String::from_utf8_lossy(&value).into_owned(),
            ));
        }
    }
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let segments = guests::segments(&request);
    let status = guests::number(&request, 0, 200) as u16;
    let bytes = guests::number(&request, 1, 0) as usize;
    let mut reply = Reply::begin(out, status, &headers);
    if matches!(request.method(), Method::Post) {
        return echo(&request, reply);
    }
    if segments[0] == "zeros" {
        let zeros = vec![0; 64 << 10];
        let mut left = bytes;
        while left > 0 && reply.write(&zeros[..left.min(zeros.len())]) && reply.flush() {
            left -= left.min(zeros.len());
        }
    } else if !matches!(request.method(), Method::Head) {
        let mut text = String::new();
        for line in 1.. {
            text += &format!("line {line} of what goes on and on\n");
            if text.len() >= bytes {
                break;
            }
        }
        reply.write(&text.as_bytes()[..bytes]);
    }
    if segments.get(2).is_some_and(|last| last == "trap") {
        reply.flush();
        panic!("as asked");
    }
    reply.end(None);
}

fn echo(request: &IncomingRequest, mut reply: Reply) {
    let mut body = Body::of(request);
    let mut buffer = vec![0; 64 << 10];
    let mut whole = 0;
    while let Some(length) = body.next(&mut buffer) {
        if !(reply.write(&buffer[..length]) && reply.flush()) {
            return;
        }
        whole += length;
    }
    let trailers = Fields::new();
    trailers
        .set("x-length", &[whole.to_string().into_bytes()])
        .expect("a trailer that may be sent");
    reply.end(Some(trailers));
}
