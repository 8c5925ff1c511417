//! `/COUNT/MILLISECONDS`: a head at once, then COUNT lines, a pause before each. `/wait/MILLISECONDS`: a pause before
//! the head.

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let ms = services::number(&request, 1, 100);
    if services::segments(&request)[0] == "wait" {
        services::pause(ms).await;
        return services::answer(200, "waited\n");
    }
    let count = services::number(&request, 0, 10);
    let (response, mut body) = services::begin(200, &[("content-type", "text/plain")]);
    services::spawn_local(async move {
        for line in 1..=count {
            services::pause(ms).await;
            if !body.write(format!("line {line}\n")).await {
                return;
            }
        }
        let _ = body.end(None).await;
    });
    Ok(response)
}
