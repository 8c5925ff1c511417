//! Writes for ever, as fast as it is taken, `/BYTES` at once.

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let piece = vec![b'x'; services::number(&request, 0, 16 << 10) as usize];
    let (response, mut body) = services::begin(200, &[]);
    services::spawn_local(async move { while body.write(piece.clone()).await {} });
    Ok(response)
}
