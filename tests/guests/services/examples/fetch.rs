//! Sends requests as its namesake of 0.2 does, by the client of 0.3. `/relay` hands the request itself on, and the reply
//! itself back.

use std::collections::BTreeMap;

use services::{Answer, Fields, Request, Response, answer};
use wasip3::http::client::send;
use wasip3::http::types::{ErrorCode, Method, RequestOptions, Scheme};
use wasip3::wit_future;

services::service!(handle);

async fn handle(request: Request) -> Answer {
    let path = request.get_path_with_query().unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let times = segments
        .get(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    match segments[0] {
        "fetch" => {
            let text = one(&Wanted::of(&request), Some(request)).await;
            answer(200, &text)
        }
        "many" => {
            let wanted = Wanted::of(&request);
            let all = (0..times).map(|_| one(&wanted, None));
            let texts = futures::future::join_all(all).await;
            answer(200, &tally(texts))
        }
        "turns" => {
            let wanted = Wanted::of(&request);
            let mut texts = Vec::new();
            for _ in 0..times {
                texts.push(one(&wanted, None).await);
            }
            answer(200, &tally(texts))
        }
        "relay" => {
            let wanted = Wanted::of(&request);
            wanted.put(&request).expect("what can be asked for");
            send(request).await
        }
        "chain" => {
            let text = match segments[1] {
                "" | "end" => "the end".to_owned(),
                next => {
                    let wanted = Wanted {
                        authority: format!("{next}.app.internal"),
                        path: format!("/chain/{}", segments[2..].join("/")),
                        ..Wanted::default()
                    };
                    one(&wanted, None).await
                }
            };
            answer(200, &text)
        }
        other => answer(404, other),
    }
}

/// What is to be asked for.
#[derive(Default)]
struct Wanted {
    scheme: String,
    authority: String,
    path: String,
    method: String,
    headers: Vec<(String, String)>,
    waits: Option<[Option<u64>; 3]>,
}

impl Wanted {
    fn of(request: &Request) -> Self {
        let headers = request.get_headers();
        let values = |name: &str| {
            let values = headers.get(name).into_iter();
            values.map(|value| String::from_utf8_lossy(&value).into_owned())
        };
        let value = |name: &str| values(name).next().unwrap_or_default();
        let pairs = values("x-header").map(|header| {
            let (name, value) = header.split_once('=').unwrap_or((&header, ""));
            (name.to_owned(), value.to_owned())
        });
        let waits = values("x-waits").next().map(|waits| {
            let mut waits = waits.split(',').map(|wait| wait.parse().ok());
            [0; 3].map(|_| waits.next().flatten())
        });
        Self {
            scheme: value("x-scheme"),
            authority: value("x-authority"),
            path: value("x-path"),
            method: value("x-method"),
            headers: pairs.collect(),
            waits,
        }
    }

    /// Says where a request goes.
    fn put(&self, request: &Request) -> Result<(), String> {
        let scheme = match self.scheme.as_str() {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => Scheme::Other(other.to_owned()),
        };
        request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
        request
            .set_authority(Some(&self.authority))
            .map_err(|()| "authority")?;
        let path = match self.path.as_str() {
            "" => "/",
            path => path,
        };
        request
            .set_path_with_query(Some(path))
            .map_err(|()| "path")?;
        let method = match self.method.as_str() {
            "" | "GET" => Method::Get,
            "POST" => Method::Post,
            "HEAD" => Method::Head,
            other => Method::Other(other.to_owned()),
        };
        request.set_method(&method).map_err(|()| "method")?;
        Ok(())
    }
}

/// Sends one; with the body of `from` if it is a POST.
async fn one(wanted: &Wanted, from: Option<Request>) -> String {
    match try_one(wanted, from).await {
        Ok(text) | Err(text) => text,
    }
}

async fn try_one(wanted: &Wanted, from: Option<Request>) -> Result<String, String> {
    let fields = Fields::new();
    for (name, value) in &wanted.headers {
        fields
            .append(name, value.as_bytes())
            .map_err(|error| format!("refused header {error:?}"))?;
    }
    let options = wanted.waits.map(|[connect, head, body]| {
        let options = RequestOptions::new();
        options.set_connect_timeout(connect).expect("it is taken");
        options.set_first_byte_timeout(head).expect("it is taken");
        options
            .set_between_bytes_timeout(body)
            .expect("it is taken");
        options
    });
    let contents = match from {
        Some(from) if wanted.method == "POST" => {
            let (_, done) = wit_future::new(|| Ok(()));
            Some(Request::consume_body(from, done).0)
        }
        _ => None,
    };
    let (trailers, ending) = wit_future::new(|| Ok(None));
    let (request, _) = Request::new(fields, contents, ending, options);
    drop(trailers);
    wanted
        .put(&request)
        .map_err(|part| format!("refused {part}"))?;
    match send(request).await {
        Ok(response) => Ok(said(response).await),
        Err(code) => Err(format!("failed {code:?}")),
    }
}

/// What came, in text.
async fn said(response: Response) -> String {
    let mut text = format!("answered {}\n", response.get_status_code());
    for (name, value) in response.get_headers().copy_all() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
    }
    let (_, done) = wit_future::new(|| Ok(()));
    let (contents, trailers) = Response::consume_body(response, done);
    let bytes = contents.collect().await;
    let trailers: Result<Option<Fields>, ErrorCode> = trailers.await;
    match trailers {
        Ok(Some(fields)) => {
            for (name, value) in fields.copy_all() {
                text += &format!("trailer {name}: {}\n", String::from_utf8_lossy(&value));
            }
        }
        Ok(None) => {}
        Err(code) => text += &format!("cut after {} bytes: {code:?}\n", bytes.len()),
    }
    text + "\n" + &String::from_utf8_lossy(&bytes)
}

/// How often each first line was said.
fn tally(texts: Vec<String>) -> String {
    let mut counts = BTreeMap::<String, u32>::new();
    for text in texts {
        let first = text.lines().next().unwrap_or_default().to_owned();
        *counts.entry(first).or_default() += 1;
    }
    let lines = counts
        .into_iter()
        .map(|(text, count)| format!("{count} x {text}\n"));
    lines.collect()
}
