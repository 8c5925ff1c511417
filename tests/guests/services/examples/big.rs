//! `/MEBIBYTES`: a reply of that length; each byte tells its place.

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let mebibytes = services::number(&request, 0, 1);
    let length = (mebibytes << 20).to_string();
    let (response, mut body) = services::begin(200, &[("content-length", &length)]);
    services::spawn_local(async move {
        let piece: Vec<u8> = (0..64 << 10)
            .map(|place: u32| (place % 251) as u8)
            .collect();
        for _ in 0..mebibytes * 16 {
            if !body.write(piece.clone()).await {
                return;
            }
        }
        let _ = body.end(None).await;
    });
    Ok(response)
}
