//! What every distribution promises, held against each backend.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::api::NodeStatus;
use model::{
    AppLimits, ArtifactKey, Catalog, Change, Digest, Entry, GuestKind, Owner, Replies, Revision,
    SecretKey, Signed, VersionNumber, limits,
};

use crate::{Changed, Distribution, DistributionError, NodeReport, Publication};

/// Fails unless `distribution`, which is new and empty, keeps every promise of the trait.
pub async fn holds(distribution: impl Distribution) {
    let distribution: &dyn Distribution = &distribution;
    who_waits_is_told_the_first_generation_whole(distribution).await;
    who_has_a_generation_is_told_the_steps_from_there(distribution).await;
    who_lags_too_far_is_told_the_whole(distribution).await;
    a_generation_published_again_is_no_news(distribution).await;
    a_missing_step_leaves_no_way_but_the_whole(distribution).await;
    an_artifact_is_kept_whole_and_read_only(distribution).await;
    an_artifact_put_again_replaces_the_first(distribution).await;
    an_artifact_that_cannot_be_put_is_not_kept(distribution).await;
    a_removed_artifact_is_gone(distribution).await;
    what_is_to_be_mended_reaches_who_mends(distribution).await;
    the_newest_report_of_each_node_counts(distribution).await;
    a_follower_sees_each_line_once(distribution).await;
}

fn key() -> SecretKey {
    SecretKey::from_seed([7; 32])
}

fn entry(app: &str, revision: Revision) -> Change {
    Change::Put(Arc::new(Entry {
        id: format!("alice/{app}").parse().unwrap(),
        incarnations: Default::default(),
        version: VersionNumber::new(1).unwrap(),
        revision,
        kind: GuestKind::HttpComponent,
        wasm: Digest::of(app.as_bytes()),
        routes: Vec::new(),
        grant: Default::default(),
        limits: AppLimits::default(),
        reply: Replies::default(),
        reuse: None,
    }))
}

/// Publishes the generation after `catalog`.
async fn publish_next(distribution: &dyn Distribution, catalog: &Catalog) -> Catalog {
    let (next, delta) = catalog.change(vec![entry("shop", catalog.generation())]);
    publish(distribution, &next, Some(Signed::sign(&delta, &key()))).await;
    next
}

async fn publish(
    distribution: &dyn Distribution,
    catalog: &Catalog,
    delta: Option<Signed<model::Delta>>,
) {
    let publication = Publication {
        delta,
        head: Signed::sign(&catalog.head(), &key()),
        catalog: catalog.clone(),
    };
    distribution.publish(publication).await.unwrap();
}

/// The newest catalog, followed from `known`, and how many steps led there (0: it came whole).
async fn follow(distribution: &dyn Distribution, known: &Catalog) -> (Catalog, usize) {
    let public = key().public();
    match distribution.changed(known.generation()).await.unwrap() {
        Changed::Deltas(deltas) => {
            let mut catalog = known.clone();
            for delta in &deltas {
                catalog = catalog.apply(&delta.verify(&public).unwrap()).unwrap();
            }
            (catalog, deltas.len())
        }
        Changed::Whole { head, entries } => {
            let head = head.verify(&public).unwrap();
            (Catalog::from_entries(&head, entries).unwrap(), 0)
        }
    }
}

async fn newest(distribution: &dyn Distribution) -> Catalog {
    follow(distribution, &Catalog::default()).await.0
}

async fn who_waits_is_told_the_first_generation_whole(distribution: &dyn Distribution) {
    let mut waiting = distribution.changed(0);
    let early = tokio::time::timeout(Duration::from_millis(20), &mut waiting).await;
    assert!(early.is_err(), "nothing was published");
    let first = Catalog::build(4, Vec::new());
    publish(distribution, &first, None).await;
    let changed = waiting.await.unwrap();
    assert!(matches!(changed, Changed::Whole { .. }), "{changed:?}");
    assert_eq!(newest(distribution).await.head(), first.head());
}

async fn who_has_a_generation_is_told_the_steps_from_there(distribution: &dyn Distribution) {
    let start = newest(distribution).await;
    let mut catalog = start.clone();
    let mut known = Vec::new();
    for _ in 0..5 {
        known.push(catalog.clone());
        catalog = publish_next(distribution, &catalog).await;
    }
    for (before, known) in known.iter().enumerate() {
        let (reached, steps) = follow(distribution, known).await;
        assert_eq!((reached.head(), steps), (catalog.head(), 5 - before));
    }
    let (whole, steps) = follow(distribution, &Catalog::default()).await;
    assert_eq!((whole.head(), steps), (catalog.head(), 0));
}

async fn who_lags_too_far_is_told_the_whole(distribution: &dyn Distribution) {
    let start = newest(distribution).await;
    let mut catalog = publish_next(distribution, &start).await;
    let second = catalog.clone();
    for _ in 0..limits::DELTAS_KEPT.default {
        catalog = publish_next(distribution, &catalog).await;
    }
    let all = limits::DELTAS_KEPT.default as usize;
    assert_eq!(follow(distribution, &second).await.1, all);
    let (reached, steps) = follow(distribution, &start).await;
    assert_eq!((reached.head(), steps), (catalog.head(), 0));
}

async fn a_generation_published_again_is_no_news(distribution: &dyn Distribution) {
    let start = newest(distribution).await;
    let one = publish_next(distribution, &start).await;
    publish_next(distribution, &start).await;
    let (reached, steps) = follow(distribution, &start).await;
    assert_eq!((reached.head(), steps), (one.head(), 1));
    let mut waiting = distribution.changed(one.generation());
    let early = tokio::time::timeout(Duration::from_millis(20), &mut waiting).await;
    assert!(early.is_err(), "the same generation is no news");
}

async fn a_missing_step_leaves_no_way_but_the_whole(distribution: &dyn Distribution) {
    let start = newest(distribution).await;
    let (lost, _) = start.change(vec![entry("lost", 1)]);
    let after = publish_next(distribution, &lost).await;
    let (reached, steps) = follow(distribution, &start).await;
    assert_eq!((reached.head(), steps), (after.head(), 0));
}

async fn put(distribution: &dyn Distribution, key: &ArtifactKey, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("upload");
    std::fs::write(&from, bytes).unwrap();
    distribution.put(key, &from).await.unwrap();
    assert!(!from.exists(), "the file is used up");
}

async fn an_artifact_is_kept_whole_and_read_only(distribution: &dyn Distribution) {
    let key = ArtifactKey::Wasm(Digest::of(b"one"));
    put(distribution, &key, b"one").await;
    let path = distribution.fetch(&key).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"one");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
    let kept = distribution.list().await.unwrap();
    let [only] = &kept[..] else {
        panic!("{kept:?}");
    };
    assert_eq!((&only.key, only.bytes), (&key, 3));
    assert!(only.put_ms > 1_500_000_000_000);
}

async fn an_artifact_put_again_replaces_the_first(distribution: &dyn Distribution) {
    let key = ArtifactKey::Wasm(Digest::of(b"one"));
    let before = std::fs::File::open(distribution.fetch(&key).await.unwrap()).unwrap();
    put(distribution, &key, b"another").await;
    let path = distribution.fetch(&key).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"another");
    assert_eq!(std::io::read_to_string(before).unwrap(), "one");
}

async fn an_artifact_that_cannot_be_put_is_not_kept(distribution: &dyn Distribution) {
    let key = ArtifactKey::Wasm(Digest::of(b"nowhere"));
    let nowhere = std::path::Path::new("/nonexistent/upload");
    let refused = distribution.put(&key, nowhere).await;
    assert!(
        matches!(refused, Err(DistributionError::Io { .. })),
        "{refused:?}"
    );
    let missing = distribution.fetch(&key).await;
    assert!(
        matches!(&missing, Err(DistributionError::NoArtifact(named)) if *named == key),
        "{missing:?}"
    );
}

async fn a_removed_artifact_is_gone(distribution: &dyn Distribution) {
    let key = ArtifactKey::Wasm(Digest::of(b"one"));
    distribution.remove(&key).await.unwrap();
    distribution.remove(&key).await.unwrap();
    assert!(distribution.fetch(&key).await.is_err());
    assert_eq!(distribution.list().await.unwrap(), []);
}

async fn what_is_to_be_mended_reaches_who_mends(distribution: &dyn Distribution) {
    let key = ArtifactKey::Wasm(Digest::of(b"mended"));
    let refused = |error| matches!(error, Err(DistributionError::NotMended(_)));
    assert!(refused(distribution.mend(&key).await), "nobody mends yet");

    let mut mends = distribution.mends();
    for (answer, good) in [
        (Some(Ok(())), true),
        (Some(Err("no".into())), false),
        (None, false),
    ] {
        let mender = async {
            let mend = mends.recv().await.unwrap();
            assert_eq!(mend.key, key);
            if let Some(answer) = answer {
                mend.done.send(answer).unwrap();
            }
        };
        let (mended, ()) = tokio::join!(distribution.mend(&key), mender);
        assert_eq!((mended.is_ok(), refused(mended)), (good, !good));
    }
    drop(mends);
    assert!(
        refused(distribution.mend(&key).await),
        "nobody mends any more"
    );
}

async fn the_newest_report_of_each_node_counts(distribution: &dyn Distribution) {
    let report = |name: &str, generation| NodeReport {
        status: NodeStatus {
            name: name.into(),
            generation,
            secrets: 0,
            limits: 0,
            workers: 1,
            worker_restarts: 0,
            listen: String::new(),
        },
        refusals: Vec::new(),
    };
    let mut reports = distribution.reports();
    for (name, generation) in [("a", 1), ("b", 1), ("a", 2)] {
        distribution.report(report(name, generation));
    }
    let both = reports.wait_for(|reports| {
        let told = reports.values().map(|report| report.status.generation);
        told.eq([2, 1])
    });
    tokio::time::timeout(Duration::from_secs(5), both)
        .await
        .expect("both nodes' newest reports arrive")
        .unwrap();
    distribution.forget("a");
    distribution.forget("c");
    let one = reports.wait_for(|reports| reports.keys().eq(["b"]));
    tokio::time::timeout(Duration::from_secs(5), one)
        .await
        .expect("a node that was forgotten is waited for no longer")
        .unwrap();
}

async fn a_follower_sees_each_line_once(distribution: &dyn Distribution) {
    let (shop, blog): (Owner, Owner) = ("a/shop".parse().unwrap(), "a/blog".parse().unwrap());
    let line = |text: &'static str| Bytes::from_static(text.as_bytes());
    distribution.log(&shop, line("1"));
    distribution.log(&blog, line("x"));
    distribution.log(&shop, line("2"));
    let mut tail = distribution.logs(&shop);
    distribution.log(&shop, line("3"));
    distribution.log(&blog, line("y"));
    distribution.log(&shop, line("4"));
    assert_eq!(tail.recent, ["1", "2"]);
    for expected in ["3", "4"] {
        let next = tokio::time::timeout(Duration::from_secs(5), tail.live.recv()).await;
        assert_eq!(next.expect("the line arrives").unwrap(), expected);
    }
    assert_eq!(distribution.logs(&shop).recent, ["1", "2", "3", "4"]);
    // Nor does the next app of the name see any of them.
    for other in ["a/none", "a/shop/1"] {
        let other = other.parse().unwrap();
        assert!(distribution.logs(&other).recent.is_empty(), "{other}");
    }
}
