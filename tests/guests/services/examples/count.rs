//! Counts the requests that its instance has met: `/MILLISECONDS` answers the number after a pause. `/trap` panics and
//! `/spin` goes round for ever. These answer at once: `/late/MILLISECONDS` ends its body after a pause,
//! `/hang/MILLISECONDS` as well, but with all of its promised bytes before; `/after/MILLISECONDS` pauses when its reply
//! was taken, and says so; `/trap-after` and `/spin-after` do then what they are named for. `/told` answers what the
//! request says of its trace, `/noise/MEBIBYTES` with so much text that hardly shrinks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static MET: AtomicU64 = AtomicU64::new(0);

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let met = (MET.fetch_add(1, Relaxed) + 1).to_string();
    println!("met {met}");
    let what = services::segments(&request)[0].clone();
    let number = services::number(&request, 1, 0);
    match what.as_str() {
        "trap" => panic!("this guest panics on purpose"),
        "spin" => spin(),
        "late" => {
            let (response, mut body) = services::begin(200, &[]);
            services::spawn_local(async move {
                body.write(met).await;
                services::pause(number).await;
                let _ = body.end(None).await;
            });
            Ok(response)
        }
        "hang" => {
            let (response, mut body) = services::begin(200, &[("content-length", "7")]);
            services::spawn_local(async move {
                body.write("for now").await;
                services::pause(number).await;
                let _ = body.end(None).await;
            });
            Ok(response)
        }
        "after" | "trap-after" | "spin-after" => {
            let (response, mut body) = services::begin(200, &[]);
            services::spawn_local(async move {
                body.write(met).await;
                let _ = body.end(None).await;
                // Now it was taken.
                match what.as_str() {
                    "trap-after" => panic!("this guest panics on purpose"),
                    "spin-after" => spin(),
                    _ => services::pause(number).await,
                }
                println!("worked on for {number} ms");
            });
            Ok(response)
        }
        "told" => {
            let told = request.get_headers().get("traceparent");
            let told = told.into_iter().next().unwrap_or_default();
            services::answer(200, &String::from_utf8_lossy(&told))
        }
        "noise" => {
            let (response, mut body) = services::begin(200, &[("content-type", "text/plain")]);
            services::spawn_local(async move {
                let mut noise = 1;
                for _ in 0..number * 16 {
                    if !body.write(piece(&mut noise)).await {
                        return;
                    }
                }
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

fn spin() -> ! {
    loop {
        std::hint::black_box(());
    }
}

/// 64 KiB of letters that follow no rule.
fn piece(noise: &mut u64) -> Vec<u8> {
    let letters = (0..8 << 10).flat_map(|_| {
        *noise ^= *noise << 13;
        *noise ^= *noise >> 7;
        *noise ^= *noise << 17;
        noise.to_le_bytes().map(|byte| b'a' + byte % 26)
    });
    letters.collect()
}
