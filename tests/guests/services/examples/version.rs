//! Answers with the environment variable `RELEASE`: tells the versions of an app apart.

services::service!(handle);

async fn handle(_request: services::Request) -> services::Answer {
    let release = std::env::var("RELEASE").unwrap_or_else(|_| "none".into());
    services::answer(200, &release)
}
