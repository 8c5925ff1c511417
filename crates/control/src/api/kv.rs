//! Key-value stores over the API: what an app has, and its keys and values one by one.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode, Uri};
use model::api::{KvItem, KvStoreSummary, Verb};
use model::{Expect, KeyPage, KvChange, KvDone, KvError, Millis, Owner, StoreId, limits};
use serde::Deserialize;

use super::apps;
use super::problem::Refused;
use super::request::{self, Place, query};
use crate::auth::{Caller, Reach};
use crate::control::Platform;
use crate::deploy::DeployError;
use crate::tokens;

type Control = State<Arc<Platform>>;

/// When what it holds ends, in milliseconds since 1970-01-01T00:00:00Z.
const EXPIRES: &str = "midge-expires-ms";
/// The change that wrote it.
const REVISION: &str = "midge-revision";

/// `GET …/kv`: the stores that hold anything.
pub(super) async fn stores(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<axum::Json<Vec<KvStoreSummary>>, Refused> {
    let owner = owner(&platform, &caller, &place, Verb::Read).await?;
    let found = platform.settings.kv.stores_of(&owner).await?;
    let summary = |(store, usage): (_, model::StoreUsage)| KvStoreSummary {
        store,
        keys: usage.keys,
        bytes: usage.bytes,
    };
    Ok(axum::Json(found.into_iter().map(summary).collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: Option<u64>,
}

/// `GET …/kv/{store}`
pub(super) async fn keys(
    State(platform): Control,
    caller: Caller,
    place: Place,
    uri: Uri,
) -> Result<axum::Json<KeyPage>, Refused> {
    let store = store(&platform, &caller, &place, Verb::Read).await?;
    let Listing {
        prefix,
        after,
        limit,
    } = query(&uri)?;
    let most = limit.unwrap_or(u64::MAX).min(limits::KV_PAGE.default);
    let kv = &platform.settings.kv;
    let page = kv.list(&store, &prefix, after.as_deref(), most).await?;
    Ok(axum::Json(page))
}

/// `GET …/kv/{store}/{key}`: the value as it is.
pub(super) async fn get(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<Response, Refused> {
    let store = store(&platform, &caller, &place, Verb::Read).await?;
    let key: String = place.part("key")?;
    let Some(item) = platform.settings.kv.get(&store, &key).await? else {
        return Err(nothing(&key));
    };
    let mut response = Response::new(Body::from(item.value));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(REVISION, item.revision.into());
    if let Some(expires_ms) = item.expires_ms {
        headers.insert(EXPIRES, expires_ms.into());
    }
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    /// How long it stays.
    ttl: Option<Millis>,
    /// Only if the key holds what this revision wrote; 0: only if it holds nothing.
    revision: Option<u64>,
}

/// `PUT …/kv/{store}/{key}`: the body is the value.
pub(super) async fn set(
    State(platform): Control,
    caller: Caller,
    place: Place,
    request: Request,
) -> Result<axum::Json<KvItem>, Refused> {
    let store = store(&platform, &caller, &place, Verb::Deploy).await?;
    let key: String = place.part("key")?;
    let Setting { ttl, revision } = query(request.uri())?;
    request::check_media(request.headers(), &["application/octet-stream"])?;
    let limit = limits::KV_VALUE.default;
    request::check_length(request.headers(), limit)?;
    let size = request::announced(request.headers()).unwrap_or(limit);
    let room = platform.receiving.take(&store.owner.app.tenant, size);
    // Held until it is written.
    let _room = room.ok_or(KvError::Busy)?;
    let value = request::read_within(request.into_body(), limit).await?;
    // Token and app may have ended while the body came.
    tokens::still_holds(&platform, &caller).await?;
    let app = store.owner.app.clone();
    if apps::present(&platform, app.clone()).await? != store.owner {
        return Err(DeployError::NoApp(app).into());
    }
    let bytes = value.len() as u64;
    let expires_ms = ttl.map(|ttl| platform.now().saturating_add(ttl.0));
    let expect = match revision {
        None => Expect::Anything,
        Some(0) => Expect::Absent,
        Some(revision) => Expect::Revision(revision),
    };
    let change = KvChange::Set {
        key: key.clone(),
        value,
        expires_ms,
        expect,
    };
    match platform.settings.kv.change(&store, vec![change]).await?[..] {
        [KvDone::Set { revision }] => Ok(axum::Json(KvItem {
            key,
            bytes,
            revision,
            expires_ms,
        })),
        ref other => Err(Refused::internal(format!("a store answered {other:?}"))),
    }
}

/// `DELETE …/kv/{store}/{key}`
pub(super) async fn delete(
    State(platform): Control,
    caller: Caller,
    place: Place,
) -> Result<StatusCode, Refused> {
    let store = store(&platform, &caller, &place, Verb::Deploy).await?;
    let key: String = place.part("key")?;
    let change = KvChange::Delete {
        key: key.clone(),
        expect: Expect::Anything,
    };
    match platform.settings.kv.change(&store, vec![change]).await?[..] {
        [KvDone::Deleted { existed: true }] => Ok(StatusCode::NO_CONTENT),
        _ => Err(nothing(&key)),
    }
}

/// The app that the path names, if the caller may do this to it and there is one.
async fn owner(
    platform: &Platform,
    caller: &Caller,
    place: &Place,
    verb: Verb,
) -> Result<Owner, Refused> {
    let app = place.app()?;
    caller.check(verb, Reach::App(&app))?;
    apps::present(platform, app).await
}

async fn store(
    platform: &Platform,
    caller: &Caller,
    place: &Place,
    verb: Verb,
) -> Result<StoreId, Refused> {
    let owner = owner(platform, caller, place, verb).await?;
    let store = place.part("store")?;
    Ok(StoreId { owner, store })
}

fn nothing(key: &str) -> Refused {
    let detail = format!("the store holds nothing under `{}`", key.escape_debug());
    Refused::new(404, "key-not-found", "the key holds nothing", detail)
}

impl From<KvError> for Refused {
    fn from(error: KvError) -> Self {
        let (status, code) = match error {
            KvError::KeyEmpty | KvError::KeyTooLong(_) => (400, "key-malformed"),
            KvError::ValueTooLarge(_) | KvError::BatchTooLarge(_) | KvError::TooManyKeys(_) => {
                (413, "value-too-large")
            }
            KvError::Changed => (409, "key-changed"),
            KvError::NotANumber | KvError::Overflow => (422, "value-unfit"),
            KvError::StoreFull { .. } => (507, "store-full"),
            KvError::NodeFull(text) => {
                return Self::new(507, "disk-full", "the stores have no room", text);
            }
            KvError::Busy => (503, "stores-busy"),
            KvError::Failed(text) => return Self::internal(text),
        };
        Self::new(status, code, "the store refuses", error.to_string())
    }
}
