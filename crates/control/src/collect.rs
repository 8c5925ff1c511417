//! The collector: forgets what no version names and whose grace is over, and replies and tokens that are of no use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use distribution::{DistributionError, Kept};
use model::{ArtifactKey, Digest, limits};

use crate::control::Platform;
use crate::records::{RecordsError, replies, tokens, uploads};

const EVERY: Duration = Duration::from_secs(600);
/// After some of it was in use.
const SOON: Duration = Duration::from_secs(5);

/// Why nothing, or not everything, was collected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Distribution(#[from] DistributionError),
}

/// Collects now and then, for as long as the platform runs.
pub(crate) async fn run(platform: Arc<Platform>) {
    loop {
        let pause = match collect(&platform).await {
            Ok(Collected::All) => EVERY,
            Ok(Collected::ButWhatIsPinned) => SOON,
            Err(error) => {
                platform.notice(format!("old artifacts were not collected: {error}"));
                EVERY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// What was collected.
pub(crate) enum Collected {
    All,
    ButWhatIsPinned,
}

/// Collects once.
pub(crate) async fn collect(platform: &Platform) -> Result<Collected, CollectError> {
    let mut collected = Collected::All;
    let kept = platform.distribution.list().await?;
    let now = platform.now();
    let wanted = platform
        .records
        .write(move |t| {
            replies::forget(t, now)?;
            tokens::forget(t, now)?;
            uploads::forget(t, now)
        })
        .await?;
    for (digest, keys) in collectable(kept, &wanted, &platform.natives.builds, now) {
        // What is pinned is being made into a version, or compiled: next time, perhaps.
        let Some(_removal) = platform.pins.remove(digest) else {
            collected = Collected::ButWhatIsPinned;
            continue;
        };
        let still_wanted = platform
            .records
            .read(move |c| uploads::is_wanted(c, &digest))
            .await?;
        for key in keys {
            if !(still_wanted && is_current(&key, &platform.natives.builds)) {
                platform.distribution.remove(&key).await?;
            }
        }
    }
    Ok(collected)
}

/// What may go, by the upload it belongs to: everything of an unwanted one, and native code of builds past.
fn collectable(
    kept: Vec<Kept>,
    wanted: &BTreeSet<Digest>,
    builds: &[model::BuildKey],
    now_ms: u64,
) -> BTreeMap<Digest, Vec<ArtifactKey>> {
    let mut gone: BTreeMap<Digest, Vec<ArtifactKey>> = BTreeMap::new();
    for artifact in kept {
        let digest = match &artifact.key {
            ArtifactKey::Wasm(digest)
            | ArtifactKey::Native(digest, _)
            | ArtifactKey::NativeHeader(digest, _) => *digest,
        };
        let old = artifact.put_ms + limits::ARTIFACT_GRACE.default.0 <= now_ms;
        if old && !(wanted.contains(&digest) && is_current(&artifact.key, builds)) {
            gone.entry(digest).or_default().push(artifact.key);
        }
    }
    gone
}

/// Whether this midge would ask for it.
fn is_current(key: &ArtifactKey, builds: &[model::BuildKey]) -> bool {
    match key {
        ArtifactKey::Wasm(_) => true,
        ArtifactKey::Native(_, build) | ArtifactKey::NativeHeader(_, build) => {
            builds.contains(build)
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{BuildKey, CpuClass, EngineSetting};

    use super::*;

    #[test]
    fn what_is_old_and_unwanted_goes_and_the_rest_stays() {
        let (served, dropped) = (Digest::of(b"served"), Digest::of(b"dropped"));
        let build = |engine: &str| BuildKey {
            engine: engine.into(),
            setting: EngineSetting::A,
            cpu: CpuClass::X86_64V2,
        };
        let grace = limits::ARTIFACT_GRACE.default.0;
        let kept = |key: ArtifactKey, put_ms: u64| Kept {
            key,
            bytes: 1,
            put_ms,
        };
        let gone = collectable(
            vec![
                kept(ArtifactKey::Wasm(served), 0),
                kept(ArtifactKey::Native(served, build("2")), 0),
                kept(ArtifactKey::Native(served, build("1")), 0),
                kept(ArtifactKey::NativeHeader(served, build("1")), 1),
                kept(ArtifactKey::Wasm(dropped), 0),
                kept(ArtifactKey::Wasm(Digest::of(b"young")), 1),
            ],
            &BTreeSet::from([served]),
            &[build("2")],
            grace,
        );
        let expected = BTreeMap::from([
            (served, vec![ArtifactKey::Native(served, build("1"))]),
            (dropped, vec![ArtifactKey::Wasm(dropped)]),
        ]);
        assert_eq!(gone, expected);
    }
}
