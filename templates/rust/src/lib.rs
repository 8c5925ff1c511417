//! Greets whoever asks, with the word that `midge.toml` grants.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    let path = request.uri().path();
    let response = Response::builder()
        .header("content-type", "text/plain; charset=utf-8")
        .body(format!("{greeting}! You asked for {path}\n").into())?;
    Ok(response)
}
