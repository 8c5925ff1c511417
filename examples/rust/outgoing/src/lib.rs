//! Asks another app of the tenant, and hands its answer on. Deploy `hello` beside it.

use wstd::http::{Body, Client, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let path = request.uri().path();
    let outgoing = Request::get(format!("http://hello.app.internal{path}")).body(Body::empty())?;
    let mut reply = Client::new().send(outgoing).await?;
    let said = reply.body_mut().str_contents().await?.to_owned();
    Ok(Response::new(format!("hello says: {said}").into()))
}
