//! What Spin's SDK for WASI 0.2 offers, by path: `/kv/STORE/KEY`, `/keys/STORE`, `/fetch?URL` and `/post?URL`.

use std::error::Error;

use futures::{Sink, SinkExt, Stream, StreamExt};
use http::Uri;
use spin_sdk::http::{
    Headers, IncomingRequest, IncomingResponse, Method, OutgoingRequest, OutgoingResponse, Request,
    ResponseOutparam, Scheme, send,
};
use spin_sdk::http_component;
use spin_sdk::key_value::Store;

type Told = Result<(u16, Vec<u8>), Box<dyn Error>>;

#[http_component]
async fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let target = request.path_with_query().unwrap_or_default();
    let (path, url) = target.split_once('?').unwrap_or((&target, ""));
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let fetched = match parts[..] {
        ["fetch"] => fetch(url).await,
        ["post"] => post(url, request).await,
        _ => return tell(out, stores(&parts, request).await).await,
    };
    match fetched {
        Ok(response) => pass_on(response, out).await,
        Err(error) => tell(out, Err(error)).await,
    }
}

async fn stores(parts: &[&str], request: IncomingRequest) -> Told {
    Ok(match (request.method(), parts) {
        (Method::Get, ["kv", store, key]) => match Store::open(store)?.get(key)? {
            Some(value) => (200, value),
            None => (404, Vec::new()),
        },
        (Method::Head, ["kv", store, key]) => match Store::open(store)?.exists(key)? {
            true => (200, Vec::new()),
            false => (404, Vec::new()),
        },
        (Method::Put, ["kv", store, key]) => {
            let value = request.into_body().await?;
            Store::open(store)?.set(key, &value)?;
            (204, Vec::new())
        }
        (Method::Delete, ["kv", store, key]) => {
            Store::open(store)?.delete(key)?;
            (204, Vec::new())
        }
        (Method::Get, ["keys", store]) => {
            let keys = Store::open(store)?.get_keys()?;
            (200, keys.join("\n").into_bytes())
        }
        _ => (404, b"there is no such operation".to_vec()),
    })
}

async fn fetch(url: &str) -> Result<IncomingResponse, Box<dyn Error>> {
    Ok(send(Request::get(url)).await?)
}

/// Sends the body of `request` on as it comes.
async fn post(url: &str, request: IncomingRequest) -> Result<IncomingResponse, Box<dyn Error>> {
    let url: Uri = url.parse()?;
    let outgoing = OutgoingRequest::new(Headers::new());
    let scheme = match url.scheme_str() {
        Some("https") => Scheme::Https,
        _ => Scheme::Http,
    };
    let path = url.path_and_query().map(|path| path.as_str());
    let made = outgoing
        .set_method(&Method::Post)
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(url.authority().map(|authority| authority.as_str())))
        .and_then(|()| outgoing.set_path_with_query(path));
    made.map_err(|()| "the URL cannot be asked")?;
    let to = outgoing.take_body();
    let (response, _) = futures::join!(send(outgoing), copy(request.into_body_stream(), to));
    Ok(response?)
}

async fn pass_on(response: IncomingResponse, out: ResponseOutparam) {
    let reply = OutgoingResponse::new(Headers::new());
    reply
        .set_status_code(response.status())
        .expect("a status that was received");
    let to = reply.take_body();
    out.set(reply);
    copy(response.take_body_stream(), to).await;
}

/// Copies a body until either side ends it.
async fn copy<E, F>(
    from: impl Stream<Item = Result<Vec<u8>, E>>,
    to: impl Sink<Vec<u8>, Error = F>,
) {
    let (mut from, mut to) = (std::pin::pin!(from), std::pin::pin!(to));
    while let Some(Ok(piece)) = from.next().await {
        if to.send(piece).await.is_err() {
            return;
        }
    }
}

async fn tell(out: ResponseOutparam, told: Told) {
    let (status, body) = told.unwrap_or_else(|error| (500, format!("{error:?}").into_bytes()));
    let reply = OutgoingResponse::new(Headers::new());
    reply.set_status_code(status).expect("a status that exists");
    // A client that is gone is told nothing.
    let _ = out.set_with_body(reply, body).await;
}
