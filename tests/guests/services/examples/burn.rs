//! `/COUNT`: goes round COUNT thousand times, then answers. `/after/COUNT`: answers, then goes round.

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let after = services::segments(&request)[0] == "after";
    let count = services::number(&request, usize::from(after), 1);
    let burn = move || {
        let mut turns = 0u64;
        while turns < 1000 * count {
            turns = std::hint::black_box(turns + 1);
        }
    };
    if !after {
        burn();
        return services::answer(200, "burnt\n");
    }
    let (response, mut body) = services::begin(200, &[]);
    services::spawn_local(async move {
        body.write("to be burnt\n").await;
        let _ = body.end(None).await;
        burn();
    });
    Ok(response)
}
