//! Sends the request's body back, piece by piece, as it comes.

use services::Received;

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let headers = [("content-type", "application/octet-stream")];
    let (response, mut body) = services::begin(200, &headers);
    services::spawn_local(async move {
        let mut received = Received::of(request);
        while let Some(piece) = received.next().await {
            if !body.write(piece).await {
                return;
            }
        }
        let _ = body.end(None).await;
    });
    Ok(response)
}
