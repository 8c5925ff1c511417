//! Answers, and works on: `/MILLISECONDS` after its reply was taken it says so in its log, with what became of it.

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let ms = services::number(&request, 0, 0);
    let (response, mut body) = services::begin(200, &[("content-length", "7")]);
    services::spawn_local(async move {
        body.write("for now").await;
        let sent = body.end(None).await;
        services::pause(ms).await;
        println!("afterwards: {sent:?}");
    });
    Ok(response)
}
