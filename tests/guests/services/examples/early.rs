//! Answers at once and never looks at the request's body.

services::service!(handle);

async fn handle(_request: services::Request) -> services::Answer {
    services::answer(413, "no, thank you\n")
}
