//! G22: `/streams`, `/futures`, `/tasks`: as many as it gets; `/read`: a read of more than there is memory.

use wasip3::{wit_future, wit_stream};

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let what = services::segments(&request)[0].clone();
    let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
    for _ in 0..1_000_000 {
        match what.as_str() {
            "streams" => kept.push(Box::new(wit_stream::new::<u8>())),
            "futures" => kept.push(Box::new(
                wit_future::new::<Result<(), services::ErrorCode>>(|| Ok(())),
            )),
            _ => drop(services::spawn_local(async {
                services::pause(60_000).await;
            })),
        }
    }
    services::answer(200, &kept.len().to_string())
}
