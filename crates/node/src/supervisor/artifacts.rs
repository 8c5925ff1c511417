//! Native code for workers: found, verified once, and handed over as a read-only descriptor.
//!
//! Loading chosen bytes is running them, so nothing leaves here that the compile key has not signed. A file that was
//! verified is known by its device, inode, size and times; asking for it again costs an open and a stat.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use distribution::{Distribution, DistributionError};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use model::{
    ArtifactKey, BuildKey, Catalog, Digest, EngineSetting, Generation, Hasher, NativeHeader,
    PublicKey, SignatureError, Signed, Size, limits,
};
use tokio::sync::{Semaphore, watch};

/// Why native code is not handed over. Its text is for the operator and the app's owner.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NativeRefused {
    #[error("its native code is not on this node: {0}")]
    Missing(Arc<DistributionError>),
    #[error("its native code cannot be read: {0}")]
    Io(Arc<io::Error>),
    #[error("the header of its native code is refused: {0}")]
    Header(SignatureError),
    #[error("the header of its native code cannot be read: {0}")]
    Unreadable(String),
    #[error(
        "the header of its native code is for upload {wasm} and build `{build}`; deploy it again"
    )]
    Other { wasm: Digest, build: BuildKey },
    #[error("its native code has {found}; its header says {promised}")]
    Length { found: Size, promised: Size },
    #[error("its native code has another digest than its header says; the file is damaged")]
    Digest,
    #[error("its native code changed while it was being verified")]
    Changed,
    #[error("{why}; {error}")]
    NotMended {
        why: Box<NativeRefused>,
        error: Arc<DistributionError>,
    },
    #[error("the node is stopping")]
    Stopping,
}

/// The native code that this node may run.
pub struct Artifacts {
    distribution: Arc<dyn Distribution>,
    compile_key: PublicKey,
    /// What this machine's engine runs, by setting.
    build: fn(EngineSetting) -> BuildKey,
    known: Mutex<HashMap<Wanted, Known>>,
    verifying: Mutex<HashMap<Wanted, Verifying>>,
    /// How many may verify at once.
    permits: Arc<Semaphore>,
    /// The newest generation: what was refused is looked at again after a deploy.
    catalogs: watch::Receiver<Arc<Catalog>>,
}

type Wanted = (Digest, EngineSetting);
type Verifying = Shared<BoxFuture<'static, Result<(), NativeRefused>>>;

#[derive(Clone)]
enum Known {
    Good {
        path: Arc<Path>,
        stamp: Stamp,
    },
    /// Not looked at again before a while has passed or something was deployed: each look reads a whole file.
    Bad {
        since: Instant,
        generation: Generation,
        why: NativeRefused,
    },
}

/// What tells a file from every other, and from itself before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl Artifacts {
    pub fn new(
        distribution: Arc<dyn Distribution>,
        compile_key: PublicKey,
        build: fn(EngineSetting) -> BuildKey,
        catalogs: watch::Receiver<Arc<Catalog>>,
    ) -> Self {
        Self {
            distribution,
            compile_key,
            build,
            known: Mutex::default(),
            verifying: Mutex::default(),
            permits: Arc::new(Semaphore::new(limits::VERIFYING.default as usize)),
            catalogs,
        }
    }

    /// The native code's descriptor at once, if it was verified before; `None` if it has yet to be.
    pub fn ready(&self, wanted: Wanted) -> Option<Result<OwnedFd, NativeRefused>> {
        match self.known().get(&wanted).cloned()? {
            Known::Good { path, stamp } => {
                let file = File::open(path).ok()?;
                let same = Stamp::of(&file).is_ok_and(|found| found == stamp);
                same.then(|| Ok(file.into()))
            }
            Known::Bad {
                since,
                generation,
                why,
            } => {
                let fresh = since.elapsed() < limits::NATIVE_REFUSED.default.duration()
                    && generation == self.generation();
                fresh.then_some(Err(why))
            }
        }
    }

    /// The native code's descriptor, after it was verified. Who asks for the same meanwhile waits for the same.
    pub async fn native(self: Arc<Self>, wanted: Wanted) -> Result<OwnedFd, NativeRefused> {
        let verifying = self
            .verifying()
            .entry(wanted)
            .or_insert_with(|| self.clone().verify(wanted).boxed().shared())
            .clone();
        let verified = verifying.await;
        self.verifying().remove(&wanted);
        verified?;
        self.ready(wanted).unwrap_or(Err(NativeRefused::Changed))
    }

    /// Verifies everything once more when it is asked for next: what is mapped may have become unreadable since.
    pub fn doubt(&self) {
        self.known().clear();
    }

    /// Verifies, and what does not stand the test is made anew and verified once more.
    async fn verify(self: Arc<Self>, wanted: Wanted) -> Result<(), NativeRefused> {
        let generation = self.generation();
        let known = match self.look(wanted).await {
            Ok((path, stamp)) => Ok((path, stamp)),
            Err(NativeRefused::Stopping) => return Err(NativeRefused::Stopping),
            Err(why) => {
                let key = ArtifactKey::Native(wanted.0, (self.build)(wanted.1));
                match self.distribution.mend(&key).await {
                    Ok(()) => self.look(wanted).await,
                    Err(error) => Err(NativeRefused::NotMended {
                        why: Box::new(why),
                        error: Arc::new(error),
                    }),
                }
            }
        };
        let (known, verified) = match known {
            Ok((path, stamp)) => (Known::Good { path, stamp }, Ok(())),
            Err(why) => {
                let bad = Known::Bad {
                    since: Instant::now(),
                    generation,
                    why: why.clone(),
                };
                (bad, Err(why))
            }
        };
        self.known().insert(wanted, known);
        verified
    }

    /// The file of the native code, if everything about it is right.
    async fn look(&self, wanted: Wanted) -> Result<(Arc<Path>, Stamp), NativeRefused> {
        let (wasm, setting) = wanted;
        let build = (self.build)(setting);
        let fetch = async |key| {
            let path = self.distribution.fetch(&key).await;
            path.map_err(|error| NativeRefused::Missing(Arc::new(error)))
        };
        let header = fetch(ArtifactKey::NativeHeader(wasm, build.clone())).await?;
        let body = fetch(ArtifactKey::Native(wasm, build.clone())).await?;
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| NativeRefused::Stopping)?;
        let key = self.compile_key.clone();
        let path: Arc<Path> = body.into();
        let verified = tokio::task::spawn_blocking({
            let path = path.clone();
            move || {
                let _permit = permit;
                verify(&header, &path, &key, wasm, &build)
            }
        });
        let stamp = verified.await.map_err(|_| NativeRefused::Stopping)??;
        Ok((path, stamp))
    }

    fn generation(&self) -> Generation {
        self.catalogs.borrow().generation()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Wanted, Known>> {
        self.known
            .lock()
            .expect("nothing panics while what is known is locked")
    }

    fn verifying(&self) -> MutexGuard<'_, HashMap<Wanted, Verifying>> {
        self.verifying
            .lock()
            .expect("nothing panics while what is being verified is locked")
    }
}

/// The stamp of the file at `body`, if the header is signed for exactly its bytes, the upload and the build.
fn verify(
    header: &Path,
    body: &Path,
    key: &PublicKey,
    wasm: Digest,
    build: &BuildKey,
) -> Result<Stamp, NativeRefused> {
    let header = read_header(header)?.verify(key);
    let header = header.map_err(NativeRefused::Header)?;
    if header.wasm != wasm || header.build != *build {
        return Err(NativeRefused::Other {
            wasm: header.wasm,
            build: header.build,
        });
    }
    let mut file = File::open(body)?;
    let stamp = Stamp::of(&file)?;
    if stamp.size != header.body_bytes {
        return Err(NativeRefused::Length {
            found: Size(stamp.size),
            promised: Size(header.body_bytes),
        });
    }
    let digest = digest(&mut file)?;
    if Stamp::of(&file)? != stamp {
        return Err(NativeRefused::Changed);
    }
    if digest != header.body {
        return Err(NativeRefused::Digest);
    }
    Ok(stamp)
}

fn read_header(path: &Path) -> Result<Signed<NativeHeader>, NativeRefused> {
    // A header has about 500 bytes.
    const MOST_BYTES: u64 = 16 << 10;
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(|error| NativeRefused::Unreadable(error.to_string()))
}

fn digest(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&piece[..read]),
        }
    }
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let facts = file.metadata()?;
        Ok(Self {
            device: facts.dev(),
            inode: facts.ino(),
            size: facts.size(),
            changed: (facts.ctime(), facts.ctime_nsec()),
            modified: (facts.mtime(), facts.mtime_nsec()),
        })
    }
}

impl From<io::Error> for NativeRefused {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

#[cfg(test)]
mod tests {
    use distribution::embedded::Embedded;
    use model::{CpuClass, SecretKey};

    use super::*;
    use crate::supervisor::example;

    const WASM: Digest = Digest::from_bytes([1; 32]);
    const WANTED: Wanted = (WASM, EngineSetting::A);

    fn build(setting: EngineSetting) -> BuildKey {
        BuildKey {
            engine: "1.2.3-1".into(),
            setting,
            cpu: CpuClass::X86_64V2,
        }
    }

    struct Node {
        artifacts: Arc<Artifacts>,
        distribution: Arc<Embedded>,
        catalogs: watch::Sender<Arc<Catalog>>,
        folder: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let distribution = Arc::new(Embedded::new(folder.path().join("artifacts")).unwrap());
            let key = example::key(7).public();
            let catalogs = watch::Sender::new(Arc::new(Catalog::build(1, [])));
            Self {
                artifacts: Arc::new(Artifacts::new(
                    distribution.clone(),
                    key,
                    build,
                    catalogs.subscribe(),
                )),
                catalogs,
                distribution,
                folder,
            }
        }

        async fn put(&self, key: ArtifactKey, bytes: &[u8]) {
            let from = self.folder.path().join("from");
            std::fs::write(&from, bytes).unwrap();
            self.distribution.put(&key, &from).await.unwrap();
        }

        async fn put_native(&self, body: &[u8], header: &NativeHeader, key: &SecretKey) {
            let header = serde_json::to_vec(&Signed::sign(header, key)).unwrap();
            let build = build(EngineSetting::A);
            self.put(ArtifactKey::Native(WASM, build.clone()), body)
                .await;
            self.put(ArtifactKey::NativeHeader(WASM, build), &header)
                .await;
        }

        async fn native(&self) -> Result<String, String> {
            let native = match self.artifacts.ready(WANTED) {
                Some(native) => native,
                None => self.artifacts.clone().native(WANTED).await,
            };
            native
                .map(|file| io::read_to_string(File::from(file)).unwrap())
                .map_err(|refused| refused.to_string())
        }
    }

    fn header(body: &[u8]) -> NativeHeader {
        NativeHeader {
            wasm: WASM,
            build: build(EngineSetting::A),
            body: Digest::of(body),
            body_bytes: body.len() as u64,
        }
    }

    #[tokio::test]
    async fn native_code_is_handed_over_only_under_its_own_signed_header() {
        let (key, stranger) = (example::key(7), example::key(8));
        let good = header(b"code");
        let other_build = BuildKey {
            cpu: CpuClass::X86_64V3,
            ..good.build.clone()
        };
        type Case<'a> = (
            &'a [u8],
            NativeHeader,
            &'a SecretKey,
            Result<&'a str, &'a str>,
        );
        let cases: [Case; 6] = [
            (b"code", good.clone(), &key, Ok("code")),
            (b"edoc", good.clone(), &key, Err("another digest")),
            (
                b"cod",
                good.clone(),
                &key,
                Err("has 3B; its header says 4B"),
            ),
            (b"code", good.clone(), &stranger, Err("does not match")),
            (
                b"code",
                NativeHeader {
                    wasm: Digest::of(b"other"),
                    ..good.clone()
                },
                &key,
                Err("is for upload"),
            ),
            (
                b"code",
                NativeHeader {
                    build: other_build,
                    ..good.clone()
                },
                &key,
                Err("1.2.3-1-a-x86-64-v3"),
            ),
        ];
        for (body, header, key, expected) in cases {
            let node = Node::new();
            node.put_native(body, &header, key).await;
            match (node.native().await, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_found_when_it_comes() {
        let node = Node::new();
        let missing = node.native().await.unwrap_err();
        assert!(missing.contains("is not on this node"), "{missing}");
        node.put_native(b"code", &header(b"code"), &example::key(7))
            .await;
        // Who deploys what was missing meets no memory of it.
        node.catalogs.send_replace(Arc::new(Catalog::build(2, [])));
        assert_eq!(node.native().await.unwrap(), "code");
    }

    #[tokio::test]
    async fn a_file_that_changed_after_it_was_verified_is_verified_again() {
        let node = Node::new();
        let key = example::key(7);
        node.put_native(b"code", &header(b"code"), &key).await;
        assert_eq!(node.native().await.unwrap(), "code");
        assert!(node.artifacts.ready(WANTED).is_some());

        let native = ArtifactKey::Native(WASM, build(EngineSetting::A));
        node.put(native, b"evil").await;
        assert!(node.artifacts.ready(WANTED).is_none());
        let refused = node.native().await.unwrap_err();
        assert!(refused.contains("another digest"), "{refused}");
    }

    #[tokio::test]
    async fn what_is_damaged_is_made_anew_before_it_is_refused() {
        let node = Node::new();
        let key = example::key(7);
        node.put_native(b"evil", &header(b"code"), &key).await;
        let mut mends = node.distribution.mends();
        let mender = async {
            let mend = mends.recv().await.unwrap();
            assert_eq!(mend.key, ArtifactKey::Native(WASM, build(EngineSetting::A)));
            node.put_native(b"code", &header(b"code"), &key).await;
            mend.done.send(Ok(())).unwrap();
        };
        let (native, ()) = tokio::join!(node.native(), mender);
        assert_eq!(native.unwrap(), "code");

        node.put_native(b"evil", &header(b"code"), &key).await;
        let mender = async {
            let mend = mends.recv().await.unwrap();
            mend.done.send(Err("no upload".into())).unwrap();
        };
        let (native, ()) = tokio::join!(node.native(), mender);
        let refused = native.unwrap_err();
        assert!(
            refused.contains("another digest") && refused.contains("no upload"),
            "{refused}"
        );
        // Not asked for again at once.
        assert_eq!(node.native().await.unwrap_err(), refused);
        assert!(mends.try_recv().is_err());
    }

    #[tokio::test]
    async fn who_asks_at_once_waits_for_the_same_work() {
        let node = Node::new();
        let body = vec![b'x'; 4 << 20];
        node.put_native(&body, &header(&body), &example::key(7))
            .await;
        let asking: Vec<_> = (0..32)
            .map(|_| tokio::spawn(node.artifacts.clone().native(WANTED)))
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(node.artifacts.verifying().len(), 1);
        for asking in asking {
            asking.await.unwrap().unwrap();
        }
        assert!(node.artifacts.verifying().is_empty());
    }
}
