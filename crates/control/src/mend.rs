//! Native code that a node misses or finds damaged, made anew while its request waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use distribution::Mend;
use model::{ArtifactKey, Digest, limits};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::control::Platform;
use crate::natives;

/// Why an upload's native code could not be made, and when that was found.
type Failed = HashMap<Digest, (Instant, String)>;

/// Fulfils the wishes of nodes until none can come any more.
pub(crate) async fn run(platform: Arc<Platform>, mut mends: mpsc::Receiver<Mend>) {
    let mut failed = Failed::new();
    let mut making = JoinSet::new();
    loop {
        tokio::select! {
            mend = mends.recv() => {
                let Some(mend) = mend else { return };
                begin(&platform, &failed, &mut making, mend);
            }
            Some(made) = making.join_next() => match made {
                Ok((wasm, Err(why))) => {
                    failed.retain(|_, (since, _)| is_fresh(*since));
                    failed.insert(wasm, (Instant::now(), why));
                }
                Ok((wasm, Ok(()))) => drop(failed.remove(&wasm)),
                Err(_) => {}
            },
        }
    }
}

type Made = (Digest, Result<(), String>);

fn begin(platform: &Arc<Platform>, failed: &Failed, making: &mut JoinSet<Made>, mend: Mend) {
    let Mend { key, done } = mend;
    // Who asked may have gone; what is made is made for the next all the same.
    let answer = |result| drop(done.send(result));
    let wasm = match key {
        ArtifactKey::Native(wasm, _) | ArtifactKey::NativeHeader(wasm, _) => wasm,
        ArtifactKey::Wasm(_) => {
            return answer(Err("an upload is its tenant's to upload again".into()));
        }
    };
    if let Some((since, why)) = failed.get(&wasm)
        && is_fresh(*since)
    {
        return answer(Err(why.clone()));
    }
    let platform = platform.clone();
    making.spawn(async move {
        let made = make(&platform, wasm).await;
        answer(made.clone());
        (wasm, made)
    });
}

async fn make(platform: &Platform, wasm: Digest) -> Result<(), String> {
    let _pin = platform.pins.pin(wasm).await;
    let made = platform.natives.ensure(None, wasm).await;
    match made {
        Ok(_) => {
            platform.notice(natives::made_anew(&wasm));
            Ok(())
        }
        Err(error) => {
            platform.notice(natives::not_made(&wasm, &error));
            Err(error.to_string())
        }
    }
}

fn is_fresh(since: Instant) -> bool {
    since.elapsed() < limits::NATIVE_FAILED.default.duration()
}
