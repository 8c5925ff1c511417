//! Reads a configuration value and a secret by the names that `midge.toml` grants.

use std::io::Write;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wit_bindgen::generate!({
    inline: "
        package secrets:app;
        world app { import wasi:config/store@0.2.0-rc.1; }
        package wasi:config@0.2.0-rc.1 {
            interface store {
                variant error { upstream(string), io(string) }
                get: func(key: string) -> result<option<string>, error>;
                get-all: func() -> result<list<tuple<string, string>>, error>;
            }
        }
    ",
    generate_all,
});

use wasi::config::store;

/// What this app would charge with: the value of the secret, if somebody has set it.
fn answer() -> Result<String, store::Error> {
    let currency = store::get("currency")?.unwrap_or_else(|| "USD".into());
    Ok(match store::get("stripe-key")? {
        // Never the key itself: whatever an app answers or prints is for all to read.
        Some(key) => format!(
            "charging in {currency}, with a key of {} letters",
            key.len()
        ),
        None => format!("charging in {currency}, once `midge secret set stripe-key` was said"),
    })
}

struct Secrets;

wasip2::http::proxy::export!(Secrets);

impl Guest for Secrets {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let (status, text) = match answer() {
            Ok(text) => (200, text),
            Err(error) => (500, format!("{error:?}")),
        };
        let response = OutgoingResponse::new(Fields::new());
        response
            .set_status_code(status)
            .expect("a status that exists");
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));

        let mut stream = body.write().expect("the stream is taken once");
        // Who asked may have gone away: then there is nobody left to tell.
        let _ = writeln!(stream, "{text}");
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}
