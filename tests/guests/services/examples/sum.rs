//! Reads the whole body and answers with its length; `/MILLISECONDS/BYTES`: slowly, and so many bytes at once.

use services::Received;

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let ms = services::number(&request, 0, 0);
    let most = services::number(&request, 1, 64 << 10) as usize;
    let mut received = Received::of(request);
    let mut total = 0;
    while let Some(piece) = received.next_of(most).await {
        total += piece.len();
        if ms > 0 {
            services::pause(ms).await;
        }
    }
    services::answer(200, &total.to_string())
}
