//! The least that answers: a 14-byte text. The guest of the benches.

services::service!(handle);

async fn handle(_request: services::Request) -> services::Answer {
    services::answer(200, "Hello, Midge!\n")
}
