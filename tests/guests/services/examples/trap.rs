//! Panics: at once, or, for `/middle`, when its head and some of its body have left.

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    if services::segments(&request)[0] != "middle" {
        panic!("this guest panics on purpose");
    }
    let (response, mut body) = services::begin(200, &[]);
    services::spawn_local(async move {
        body.write("so far, so good").await;
        // What fails before its head has left is answered with the failure.
        services::pause(50).await;
        panic!("this guest panics on purpose");
    });
    Ok(response)
}
