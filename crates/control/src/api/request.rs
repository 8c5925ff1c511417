//! What a request carries, read strictly: places from the path, bodies as JSON, queries without surprises.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use axum::body::HttpBody as _;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Uri};
use http_body_util::BodyExt;
use model::{AppId, Size, TenantName, limits};
use serde::de::DeserializeOwned;

use super::problem::Refused;
use crate::auth::Caller;
use crate::control::Platform;
use crate::tokens;

/// What stands in the request's path.
pub(crate) struct Place(Vec<(String, String)>);

impl Place {
    /// The part of the path that is called `name`.
    pub fn part<T>(&self, name: &str) -> Result<T, Refused>
    where
        T: FromStr,
        T::Err: Display,
    {
        let found = self.0.iter().find(|(key, _)| key == name);
        let (_, text) = found.expect("every route names the parts that its handler reads");
        text.parse().map_err(|error: T::Err| {
            let title = "the path names nothing that can be";
            Refused::new(400, "path-malformed", title, error.to_string())
        })
    }

    pub fn tenant(&self) -> Result<TenantName, Refused> {
        self.part("tenant")
    }

    pub fn app(&self) -> Result<AppId, Refused> {
        Ok(AppId::new(self.part("tenant")?, self.part("app")?))
    }
}

impl FromRequestParts<Arc<Platform>> for Place {
    type Rejection = Refused;
    async fn from_request_parts(
        parts: &mut Parts,
        platform: &Arc<Platform>,
    ) -> Result<Self, Refused> {
        let found = RawPathParams::from_request_parts(parts, platform).await;
        let found = found.map_err(|error| {
            let title = "the path cannot be read";
            Refused::new(400, "path-malformed", title, error.to_string())
        })?;
        let owned = found.iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
        Ok(Self(owned.collect()))
    }
}

impl FromRequestParts<Arc<Platform>> for Caller {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, _: &Arc<Platform>) -> Result<Self, Refused> {
        let caller = parts.extensions.get::<Self>();
        Ok(caller
            .expect("every route with a caller lies behind the gate")
            .clone())
    }
}

/// A body of JSON that is exactly a `T`.
pub(crate) struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Platform>> for Json<T> {
    type Rejection = Refused;
    async fn from_request(request: Request, platform: &Arc<Platform>) -> Result<Self, Refused> {
        check_media(request.headers(), &["application/json"])?;
        let (parts, body) = request.into_parts();
        let bytes = read(platform, &parts, body).await?;
        parse(&bytes).map(Self)
    }
}

/// The same of a body that holds a secret: what is wrong with it is told without a word of it.
pub(crate) struct Confidential<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Platform>> for Confidential<T> {
    type Rejection = Refused;
    async fn from_request(request: Request, platform: &Arc<Platform>) -> Result<Self, Refused> {
        match Json::from_request(request, platform).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(refused) => Err(refused.without_the_body()),
        }
    }
}

/// The query as a `T`; what is not part of one is refused.
pub(crate) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Refused> {
    let parsed = axum::extract::Query::<T>::try_from_uri(uri);
    parsed.map(|query| query.0).map_err(|error| {
        let title = "the query cannot be read";
        Refused::new(400, "query-malformed", title, error.body_text())
    })
}

/// Whether the body is of one of these kinds, and not compressed.
pub(crate) fn check_media(headers: &HeaderMap, kinds: &[&str]) -> Result<(), Refused> {
    let refuse = |what: String| {
        let title = "this kind of body is not understood";
        Err(Refused::new(415, "media-type", title, what))
    };
    if headers.contains_key(CONTENT_ENCODING) {
        return refuse("compressed bodies are not taken; leave out `Content-Encoding`".into());
    }
    let sent = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let kind = sent.and_then(|text| text.split(';').next());
    let kind = kind.unwrap_or("").trim().to_ascii_lowercase();
    if kinds.contains(&kind.as_str()) {
        Ok(())
    } else {
        let wanted = kinds.join("` or `");
        refuse(format!("send the body as `Content-Type: {wanted}`"))
    }
}

/// Whether the length that the request announces is within `limit`.
pub(crate) fn check_length(headers: &HeaderMap, limit: Size) -> Result<(), Refused> {
    match announced(headers) {
        Some(size) if size > limit => Err(too_large(size, limit)),
        _ => Ok(()),
    }
}

/// How long the body is, if the head says so.
pub(crate) fn announced(headers: &HeaderMap) -> Option<Size> {
    let text = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    text.parse().ok().map(Size)
}

pub(crate) fn too_large(found: Size, limit: Size) -> Refused {
    let detail = format!("the body has {found} or more; this may have {limit}");
    Refused::new(413, "body-too-large", "the body is too large", detail)
}

/// A body that did not come, or not in time.
pub(crate) fn broken_off(why: impl Display) -> Refused {
    let detail = format!("the body did not arrive whole: {why}");
    Refused::new(408, "body-incomplete", "the body did not arrive", detail)
}

/// A whole body of the size that API requests may have, of a caller whose token still holds when it has come.
pub(crate) async fn read(platform: &Platform, parts: &Parts, body: Body) -> Result<Bytes, Refused> {
    let bytes = read_within(body, limits::API_BODY.default).await?;
    let caller = parts.extensions.get::<Caller>();
    let caller = caller.expect("every body is read behind the gate");
    tokens::still_holds(platform, caller).await?;
    Ok(bytes)
}

/// A whole body of at most `limit`.
pub(crate) async fn read_within(body: Body, limit: Size) -> Result<Bytes, Refused> {
    let mut body = http_body_util::Limited::new(body, limit.as_usize());
    let whole = async {
        let announced = body.size_hint().exact().unwrap_or(0);
        let mut bytes = Vec::with_capacity(announced.min(limit.bytes()) as usize);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                    return Err(too_large(limit, limit));
                }
                Err(error) => return Err(broken_off(error)),
            }
        }
        Ok(Bytes::from(bytes))
    };
    let wait = limits::BODY_WAIT.default;
    match tokio::time::timeout(wait.duration(), whole).await {
        Ok(bytes) => bytes,
        Err(_) => Err(broken_off(format!("it took longer than {wait}"))),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    let title = "the body is not what is expected here";
    let most = limits::API_DEPTH.default;
    if depth(bytes) > most {
        let detail = format!("the JSON is nested more than {most} deep");
        return Err(Refused::new(400, "json-too-deep", title, detail));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let text: String = error.to_string().chars().take(1000).collect();
        match error.classify() {
            serde_json::error::Category::Data => Refused::new(422, "body-unfit", title, text),
            _ => Refused::new(400, "json-malformed", title, text),
        }
    })
}

/// How deep arrays and objects are nested.
fn depth(json: &[u8]) -> u64 {
    let (mut now, mut most, mut in_text, mut escaped) = (0u64, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                now += 1;
                most = most.max(now);
            }
            b'}' | b']' if !in_text => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_what_is_nested_and_not_what_is_text() {
        for (json, expected) in [
            ("1", 0),
            ("[]", 1),
            ("[[],{\"a\":[1]}]", 3),
            (r#"["[[[[", "\"[["]"#, 1),
            (r#"{"\\":[]}"#, 2),
            ("[[[[[[", 6),
        ] {
            assert_eq!(depth(json.as_bytes()), expected, "{json}");
        }
    }
}
