//! Echoes the body and sends the request's trailers back as its own, with `x-length` added.

use services::{Fields, Received};

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let mut received = Received::of(request);
    let mut whole = Vec::new();
    while let Some(piece) = received.next().await {
        whole.extend(piece);
    }
    let trailers = Fields::new();
    let came = received.trailers().await?;
    for (name, value) in came.map(|fields| fields.copy_all()).unwrap_or_default() {
        trailers
            .append(&name, &value)
            .expect("a trailer that may be sent");
    }
    let length = whole.len().to_string();
    trailers
        .set("x-length", &[length.into_bytes()])
        .expect("a trailer that may be sent");
    let names: Vec<String> = trailers
        .copy_all()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let (response, mut body) = services::begin(200, &[("trailer", &names.join(", "))]);
    services::spawn_local(async move {
        body.write(whole).await;
        let _ = body.end(Some(trailers)).await;
    });
    Ok(response)
}
