//! What `wstd` offers, by path: `/fetch?URL` and `/post?URL`.

use wstd::http::{Body, Client, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let url = request.uri().query().unwrap_or_default().to_owned();
    let outgoing = match request.uri().path() {
        "/fetch" => Request::get(url).body(Body::empty())?,
        // The body goes on as it comes.
        "/post" => Request::post(url).body(request.into_body())?,
        _ => return Ok(Response::builder().status(404).body(Body::empty())?),
    };
    match Client::new().send(outgoing).await {
        Ok(fetched) => {
            let reply = Response::builder().status(fetched.status());
            Ok(reply.body(fetched.into_body())?)
        }
        Err(error) => {
            let reply = Response::builder().status(500);
            Ok(reply.body(format!("{error:?}").into())?)
        }
    }
}
