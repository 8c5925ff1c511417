//! Writes lines for ever, as fast as they are taken.

services::service!(handle);

async fn handle(_request: services::Request) -> services::Answer {
    let (response, mut body) = services::begin(200, &[]);
    services::spawn_local(async move { while body.write([b'x'; 16 << 10]).await {} });
    Ok(response)
}
