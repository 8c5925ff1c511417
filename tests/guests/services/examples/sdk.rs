//! What the crate `wasip3` offers, by path: `/fetch?URL` and `/post?URL`.

use services::{ErrorCode, Fields, Received, Request, Response, answer, segments};
use wasip3::http::client;
use wasip3::http::types::{Method, Scheme};
use wasip3::wit_future;

services::service!(handle);

async fn handle(request: Request) -> services::Answer {
    let path = request.get_path_with_query().unwrap_or_default();
    let url = path.split_once('?').map_or("", |(_, url)| url).to_owned();
    let body = match segments(&request)[0].as_str() {
        "fetch" => None,
        "post" => Some(request),
        _ => return answer(404, "there is no such operation"),
    };
    match send(&url, body).await {
        Ok(fetched) => {
            let status = fetched.get_status_code();
            let (_, handled) = wit_future::new(|| Ok(()));
            let (contents, _) = Response::consume_body(fetched, handled);
            let (reply, ..) = services::respond(status, &[], Some(contents));
            Ok(reply)
        }
        Err(code) => answer(500, &format!("{code:?}")),
    }
}

/// Asks for `url`: posts the body of a request as it comes, if there is one.
async fn send(url: &str, body: Option<Request>) -> Result<Response, ErrorCode> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = match scheme {
        "https" => Scheme::Https,
        _ => Scheme::Http,
    };
    let (method, contents, trailers) = match body {
        Some(request) => {
            let (contents, trailers) = Received::of(request).parts();
            (Method::Post, Some(contents), trailers)
        }
        None => (Method::Get, None, wit_future::new(|| Ok(None)).1),
    };
    let (outgoing, _) = Request::new(Fields::new(), contents, trailers, None);
    let path = if path.is_empty() { "/" } else { path };
    outgoing
        .set_method(&method)
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(Some(authority)))
        .and_then(|()| outgoing.set_path_with_query(Some(path)))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    client::send(outgoing).await
}
