//! What Spin's SDK for WASI 0.3 offers, by path: `/kv/STORE/KEY`, `/keys/STORE`, `/fetch?URL` and `/post?URL`.

use std::error::Error;

use http_body_util::BodyExt;
use spin_sdk::http::body::IncomingBodyExt;
use spin_sdk::http::{
    BoxBody, EmptyBody, FullBody, IntoResponse, Method, Request, Response, box_body, get, send,
};
use spin_sdk::http_service;
use spin_sdk::key_value::Store;

type Told = Result<(u16, Vec<u8>), Box<dyn Error>>;

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    let path = request.uri().path().to_owned();
    let url = request.uri().query().unwrap_or_default().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let fetched = match parts[..] {
        ["fetch"] => get(&url).await,
        ["post"] => post(&url, request).await,
        _ => return tell(stores(&parts, request).await),
    };
    match fetched {
        Ok(response) => response.map(box_body),
        Err(error) => tell(Err(error.into())),
    }
}

async fn stores(parts: &[&str], request: Request) -> Told {
    Ok(match (request.method(), parts) {
        (&Method::GET, ["kv", store, key]) => match Store::open(store).await?.get(key).await? {
            Some(value) => (200, value),
            None => (404, Vec::new()),
        },
        (&Method::HEAD, ["kv", store, key]) => match Store::open(store).await?.exists(key).await? {
            true => (200, Vec::new()),
            false => (404, Vec::new()),
        },
        (&Method::PUT, ["kv", store, key]) => {
            let value = request.into_body().bytes().await?;
            Store::open(store).await?.set(key, value).await?;
            (204, Vec::new())
        }
        (&Method::DELETE, ["kv", store, key]) => {
            Store::open(store).await?.delete(key).await?;
            (204, Vec::new())
        }
        (&Method::GET, ["keys", store]) => {
            let keys = Store::open(store).await?.get_keys().await;
            (200, keys.collect().await?.join("\n").into_bytes())
        }
        _ => (404, b"there is no such operation".to_vec()),
    })
}

/// Sends the body of `request` on as it comes.
async fn post(
    url: &str,
    request: Request,
) -> Result<Response, spin_sdk::wasip3::http::types::ErrorCode> {
    let body = request
        .into_body()
        .map_err(Box::<dyn Error + Send + Sync>::from);
    let outgoing = spin_sdk::http::Request::post(url).body(body);
    match outgoing {
        Ok(outgoing) => send(outgoing).await,
        Err(_) => Err(spin_sdk::wasip3::http::types::ErrorCode::HttpRequestUriInvalid),
    }
}

fn tell(told: Told) -> Response<BoxBody> {
    let (status, body) = told.unwrap_or_else(|error| (500, format!("{error:?}").into_bytes()));
    let body = match body.is_empty() {
        true => box_body(EmptyBody::new()),
        false => box_body(FullBody::new(body.into())),
    };
    let mut reply = Response::new(body);
    *reply.status_mut() = status.try_into().expect("a status that exists");
    reply
}
