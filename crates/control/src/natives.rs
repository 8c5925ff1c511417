//! Native code: made once per upload and build, by one compile child at a time, signed, and handed to distribution.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use distribution::{Distribution, DistributionError};
use model::pipe::Inspection;
use model::{ArtifactKey, BuildKey, Digest, Hasher, NativeHeader, Signed, TenantName};

use crate::compile::{CompileError, Compiled, compile};
use crate::keys::Keys;
use crate::records::{Records, RecordsError, uploads};
use crate::temporary;
use crate::turns::{TurnError, Turns};

/// Why there is no native code for an upload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NativeError {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Turn(#[from] TurnError),
    #[error("the kept upload `{0}` is damaged on disk; upload it again")]
    DamagedUpload(Digest),
    #[error(transparent)]
    Distribution(#[from] DistributionError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Who makes native code, and all that it takes.
pub(crate) struct Natives {
    pub records: Records,
    pub distribution: Arc<dyn Distribution>,
    pub keys: Arc<Keys>,
    /// What starts a compile child.
    pub command: Vec<OsString>,
    /// What uploads are compiled for: those of one engine and class of processors follow each other, and what an
    /// upload is decides on one of them.
    pub builds: Vec<BuildKey>,
    /// For files that are not yet artifacts.
    pub temporary: PathBuf,
    pub turns: Turns,
}

/// Native code that is kept, good or not.
struct KeptNative {
    inspection: Inspection,
    body: PathBuf,
    header: PathBuf,
}

impl Natives {
    /// Sees to it that there is native code for every class of processors, for a tenant's request or, without one, for
    /// the platform itself. The upload is pinned by the caller.
    pub async fn ensure(
        &self,
        tenant: Option<&TenantName>,
        wasm: Digest,
    ) -> Result<Inspection, NativeError> {
        let mut known = None;
        for builds in self.targets() {
            let inspection = match self.find(wasm, builds).await? {
                Some(inspection) => inspection,
                None => self.make_in_turn(tenant, wasm, builds).await?,
            };
            known.get_or_insert(inspection);
        }
        Ok(known.expect("the platform wants at least one build"))
    }

    /// The builds of each engine and class of processors, of which an upload has one.
    fn targets(&self) -> impl Iterator<Item = &[BuildKey]> {
        let alike = |a: &BuildKey, b: &BuildKey| a.engine == b.engine && a.cpu == b.cpu;
        self.builds.chunk_by(alike)
    }

    /// As [`Self::ensure`] for the platform itself; whether some was there and damaged.
    pub async fn repair(&self, wasm: Digest) -> Result<bool, NativeError> {
        let mut damaged = false;
        for builds in self.targets() {
            if self.find(wasm, builds).await?.is_none() {
                damaged |= self.any_kept(wasm, builds).await?;
                self.make_in_turn(None, wasm, builds).await?;
            }
        }
        Ok(damaged)
    }

    /// Whether there is native code for every class of processors. Its bytes are not looked at.
    pub async fn is_kept(&self, wasm: Digest) -> Result<bool, NativeError> {
        for builds in self.targets() {
            if !self.any_kept(wasm, builds).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn any_kept(&self, wasm: Digest, builds: &[BuildKey]) -> Result<bool, NativeError> {
        for build in builds {
            if self.kept(wasm, build).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What an upload is, if there is native code of it that is what it should be.
    async fn find(
        &self,
        wasm: Digest,
        builds: &[BuildKey],
    ) -> Result<Option<Inspection>, NativeError> {
        for build in builds {
            let Some(kept) = self.kept(wasm, build).await? else {
                continue;
            };
            // Damaged code is as good as none: it is made again.
            if let Some(header) = self.signed_header(&kept.header, wasm, build).await
                && has_digest(kept.body, header.body).await
            {
                return Ok(Some(kept.inspection));
            }
        }
        Ok(None)
    }

    /// What an upload is and where its native code lies, if there is any.
    async fn kept(
        &self,
        wasm: Digest,
        build: &BuildKey,
    ) -> Result<Option<KeptNative>, NativeError> {
        let wanted = build.clone();
        let known = self
            .records
            .read(move |c| uploads::inspection(c, &wasm, &wanted))
            .await?;
        let Some(inspection) = known else {
            return Ok(None);
        };
        let body = self
            .fetched(&ArtifactKey::Native(wasm, build.clone()))
            .await?;
        let header = self
            .fetched(&ArtifactKey::NativeHeader(wasm, build.clone()))
            .await?;
        let (Some(body), Some(header)) = (body, header) else {
            return Ok(None);
        };
        Ok(Some(KeptNative {
            inspection,
            body,
            header,
        }))
    }

    async fn fetched(&self, key: &ArtifactKey) -> Result<Option<PathBuf>, NativeError> {
        match self.distribution.fetch(key).await {
            Ok(path) => Ok(Some(path)),
            Err(DistributionError::NoArtifact(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The header at `path`, if it is signed with the present key and means this code.
    async fn signed_header(
        &self,
        path: &Path,
        wasm: Digest,
        build: &BuildKey,
    ) -> Option<NativeHeader> {
        let bytes = tokio::fs::read(path).await.ok()?;
        serde_json::from_slice::<Signed<NativeHeader>>(&bytes)
            .ok()
            .and_then(|header| header.verify(&self.keys.compile.public()).ok())
            .filter(|header| header.wasm == wasm && header.build == *build)
    }

    async fn make_in_turn(
        &self,
        tenant: Option<&TenantName>,
        wasm: Digest,
        builds: &[BuildKey],
    ) -> Result<Inspection, NativeError> {
        let _turn = self.turns.take(tenant).await?;
        // Whoever had the turn before may have made it.
        if let Some(inspection) = self.find(wasm, builds).await? {
            return Ok(inspection);
        }
        let upload = self.distribution.fetch(&ArtifactKey::Wasm(wasm)).await?;
        if digested(upload.clone()).await? != wasm {
            return Err(NativeError::DamagedUpload(wasm));
        }
        let compiled = compile(&self.command, &upload, &self.temporary).await?;
        if !builds.contains(&compiled.build) {
            let wanted: Vec<String> = builds.iter().map(|build| format!("`{build}`")).collect();
            let wanted = wanted.join(" or ");
            let how = format!("it built for `{}`; {wanted} is wanted", compiled.build);
            let stderr = String::new();
            return Err(CompileError::Failed { how, stderr }.into());
        }
        self.keep(wasm, compiled).await
    }

    /// Hands over the body, then the header that vouches for it, then remembers what the upload is.
    async fn keep(&self, wasm: Digest, compiled: Compiled) -> Result<Inspection, NativeError> {
        let Compiled {
            inspection,
            build,
            body,
            body_bytes,
            file,
        } = compiled;
        let header = NativeHeader {
            wasm,
            build: build.clone(),
            body,
            body_bytes,
        };
        let header = Signed::sign(&header, &self.keys.compile);
        let header = serde_json::to_vec(&header).expect("a signed header always has a JSON form");
        let kept = |error| {
            let doing = "keeping the native code";
            CompileError::Io { doing, error }
        };
        let mut header_file = temporary::file_in(&self.temporary).map_err(kept)?;
        header_file.write_all(&header).map_err(kept)?;
        let key = ArtifactKey::Native(wasm, build.clone());
        self.distribution.put(&key, file.path()).await?;
        let key = ArtifactKey::NativeHeader(wasm, build.clone());
        self.distribution.put(&key, header_file.path()).await?;
        let known = inspection.clone();
        self.records
            .write(move |t| uploads::set_inspection(t, &wasm, &build, &known))
            .await?;
        Ok(inspection)
    }
}

/// What the operator is told of native code that was made again.
pub(crate) fn made_anew(wasm: &Digest) -> String {
    let short = wasm.short();
    format!("the native code of the upload `{short}` was missing or damaged and was made anew")
}

/// What the operator is told where it could not be made.
pub(crate) fn not_made(wasm: &Digest, error: &NativeError) -> String {
    format!("the upload `{}` has no native code: {error}", wasm.short())
}

/// Whether a file is what its digest says. One that cannot be read is not.
pub(crate) async fn has_digest(path: PathBuf, digest: Digest) -> bool {
    digested(path).await.is_ok_and(|found| found == digest)
}

async fn digested(path: PathBuf) -> Result<Digest, CompileError> {
    let digested = tokio::task::spawn_blocking(move || digest_of(&path)).await;
    let digested = digested.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)));
    digested.map_err(|error| CompileError::Io {
        doing: "reading the upload",
        error,
    })
}

/// The digest of a file's content.
pub(crate) fn digest_of(path: &Path) -> std::io::Result<Digest> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut piece) = (Hasher::new(), vec![0; 256 << 10]);
    loop {
        match std::io::Read::read(&mut file, &mut piece)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&piece[..count]),
        }
    }
}
