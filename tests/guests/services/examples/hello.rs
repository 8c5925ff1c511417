//! The least that answers: a 14-byte text. The guest of the benches.

use wasip3::{wit_future, wit_stream};

services::service!(handle);

async fn handle(_request: services::Request) -> services::Answer {
    let (mut contents, body) = wit_stream::new();
    // Dropped, it says that there are no trailers.
    let (_, trailers) = wit_future::new(|| Ok(None));
    let headers = services::Fields::new();
    headers
        .append("content-type", b"text/plain")
        .expect("a header that may be sent");
    let (response, _) = services::Response::new(headers, Some(body), trailers);
    services::spawn_local(async move {
        contents.write_all(b"Hello, Midge!\n".to_vec()).await;
    });
    Ok(response)
}
