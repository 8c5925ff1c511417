//! Counts the requests that its instance has met: `/MILLISECONDS` answers the number after a pause. `/trap` panics and
//! `/spin` goes round for ever; `/late/MILLISECONDS` answers at once and ends its body after a pause.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static MET: AtomicU64 = AtomicU64::new(0);

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let met = (MET.fetch_add(1, Relaxed) + 1).to_string();
    println!("met {met}");
    match services::segments(&request)[0].as_str() {
        "trap" => panic!("this guest panics on purpose"),
        "spin" => loop {
            std::hint::black_box(());
        },
        "late" => {
            let ms = services::number(&request, 1, 0);
            let (response, mut body) = services::begin(200, &[]);
            services::spawn_local(async move {
                body.write(met).await;
                services::pause(ms).await;
                let _ = body.end(None).await;
            });
            Ok(response)
        }
        _ => {
            services::pause(services::number(&request, 0, 0)).await;
            services::answer(200, &met)
        }
    }
}
