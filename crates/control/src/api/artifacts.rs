//! Uploads: what is missing, and the bytes, digested while they come. What does not end well leaves nothing behind.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use http::StatusCode;
use http_body_util::BodyExt;
use model::api::{Missing, Verb};
use model::{ArtifactKey, Digest, Hasher, Size, limits};
use tempfile::TempPath;
use tokio::io::AsyncWriteExt;

use super::problem::Refused;
use super::request::{self, Json, Place};
use super::tenants;
use crate::auth::{Caller, Reach};
use crate::control::Platform;
use crate::natives::has_digest;
use crate::records::{tenants as records, uploads};
use crate::temporary;
use crate::tokens;
use crate::versions::VersionError;

type Control = State<Arc<Platform>>;

/// `POST …/artifacts/missing`
pub(super) async fn missing(
    State(platform): Control,
    caller: Caller,
    place: Place,
    Json(mut asked): Json<Missing>,
) -> Result<axum::Json<Missing>, Refused> {
    let tenant = place.tenant()?;
    caller.check(Verb::Deploy, Reach::Within(&tenant))?;
    tenants::check(&platform, &tenant).await?;
    let all = std::mem::take(&mut asked.digests);
    let most = limits::MISSING.default;
    if all.len() as u64 > most {
        let detail = format!(
            "{} digests are asked for; one request may name {most}",
            all.len()
        );
        let title = "too many digests";
        return Err(Refused::new(422, "too-many-digests", title, detail));
    }
    let all: BTreeSet<Digest> = all.into_iter().collect();
    // What is looked at whole, in one request.
    let mut left = limits::WASM.ceiling.bytes();
    for digest in all {
        let tenant = tenant.clone();
        let known = platform
            .records
            .read(move |c| uploads::find(c, &tenant, &digest))
            .await?;
        let kept = platform
            .distribution
            .fetch(&ArtifactKey::Wasm(digest))
            .await;
        let (Some(bytes), Ok(path)) = (known, kept) else {
            asked.digests.push(digest);
            continue;
        };
        // What is damaged on disk is as good as missing, and sent anew.
        if let Some(rest) = left.checked_sub(bytes) {
            left = rest;
            if !has_digest(path, digest).await {
                asked.digests.push(digest);
            }
        }
    }
    Ok(axum::Json(asked))
}

/// `PUT …/artifacts/{digest}`
pub(super) async fn upload(
    State(platform): Control,
    caller: Caller,
    place: Place,
    request: Request,
) -> Result<StatusCode, Refused> {
    let (tenant, digest): (_, Digest) = (place.tenant()?, place.part("digest")?);
    caller.check(Verb::Deploy, Reach::Within(&tenant))?;
    tenants::check(&platform, &tenant).await?;
    let limit = platform.settings.wasm_limit;
    let kinds = ["application/wasm", "application/octet-stream"];
    request::check_media(request.headers(), &kinds)?;
    request::check_length(request.headers(), limit)?;

    let _pin = platform.pins.pin(digest).await;
    let (file, bytes, found) = receive(&platform, request.into_body(), limit).await?;
    if found != digest {
        let detail = format!(
            "the body's SHA-256 is `{found}`, the address says `{digest}`; it was changed on its way, or the digest is of another file"
        );
        let title = "the body has another digest";
        return Err(Refused::new(422, "digest-mismatch", title, detail));
    }
    // The token may have ended while the body came.
    tokens::still_holds(&platform, &caller).await?;
    let key = ArtifactKey::Wasm(digest);
    platform.distribution.put(&key, &file).await?;
    let now = platform.now();
    platform
        .records
        .write(move |t| {
            // The tenant may have gone while the body came.
            if !records::exists(t, &tenant)? {
                return Err(VersionError::NoTenant(tenant));
            }
            Ok(uploads::add(t, &tenant, &digest, bytes, now)?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes a body to a temporary file, which is gone when it is dropped.
async fn receive(
    platform: &Platform,
    mut body: Body,
    limit: Size,
) -> Result<(TempPath, u64, Digest), Refused> {
    let (file, path) = temporary::file_in(&platform.temporary)?.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let (mut hasher, mut bytes) = (Hasher::new(), 0);
    let wait = limits::BODY_WAIT.default;
    loop {
        let frame = match tokio::time::timeout(wait.duration(), body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(request::broken_off(error)),
            Err(_) => return Err(request::broken_off(format!("nothing came for {wait}"))),
        };
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        bytes += piece.len() as u64;
        if bytes > limit.bytes() {
            return Err(request::too_large(Size(bytes), limit));
        }
        hasher.update(&piece);
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    Ok((path, bytes, hasher.finish()))
}
