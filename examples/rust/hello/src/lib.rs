//! Greets whoever asks, with the words that `midge.toml` grants.

use std::io::Write;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".into());
        let path = request.path_with_query().unwrap_or_else(|| "/".into());

        let headers = Fields::new();
        headers
            .set("content-type", &[b"text/plain; charset=utf-8".to_vec()])
            .expect("this header may be set");
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));

        let mut stream = body.write().expect("the stream is taken once");
        // Who asked may have gone away: then there is nobody left to tell.
        let _ = writeln!(stream, "{greeting}! You asked for {path}");
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}
