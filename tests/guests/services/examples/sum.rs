//! Reads the whole body, slowly if the path says `/MILLISECONDS` for each piece, and answers with its length.

use services::Received;

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let ms = services::number(&request, 0, 0);
    let mut received = Received::of(request);
    let mut total = 0;
    while let Some(piece) = received.next().await {
        total += piece.len();
        if ms > 0 {
            services::pause(ms).await;
        }
    }
    services::answer(200, &total.to_string())
}
