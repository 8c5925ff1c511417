//! `/STATUS`: answers with that status and a body.

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let status = services::number(&request, 0, 200) as u16;
    services::answer(status, &format!("status {status}\n"))
}
