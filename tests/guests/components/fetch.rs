//! Sends requests, as headers of its own say: `x-scheme`, `x-authority`, `x-path`, `x-method`, `x-header: NAME=VALUE` and
//! `x-waits: CONNECT,HEAD,BODY` in nanoseconds. Says what became of them.
//!
//! `/fetch` sends one, `/many/N` sends N at once, `/turns/N` one after the other, `/quiet/N` so too without a look at the replies, `/hold/N` reads none of the replies,
//! `/leave` wants none, `/proxy` hands both bodies on, and `/chain/A/B` asks the app A for `/chain/B`; `/late/A` does so once
//! its own body has ended.

use std::collections::BTreeMap;
use std::io::Write;

use guests::{Body, Reply, answer, number, segments};
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::outgoing_handler::handle as send;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingRequest, IncomingResponse,
    Method, OutgoingBody, OutgoingRequest, RequestOptions, ResponseOutparam, Scheme,
    http_error_code,
};
use wasip2::io::streams::StreamError;

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let segments = segments(&request);
    let times = number(&request, 1, 1);
    let wanted = Wanted::of(&request);
    match segments[0].as_str() {
        "fetch" => {
            let text = match begin_with_body(&request) {
                Ok(future) => said(future),
                Err(code) => format!("refused {code:?}"),
            };
            answer(out, 200, &text);
        }
        "many" => {
            let begun: Vec<_> = (0..times).map(|_| wanted.begin()).collect();
            let ended = begun.into_iter().map(|begun| match begun {
                Ok(future) => said(future),
                Err(code) => format!("refused {code:?}"),
            });
            answer(out, 200, &tally(ended));
        }
        "turns" => {
            let ended = (0..times).map(|_| match wanted.begin() {
                Ok(future) => said(future),
                Err(code) => format!("refused {code:?}"),
            });
            answer(out, 200, &tally(ended));
        }
        "quiet" => {
            let read = (0..times).filter(|_| quiet(&wanted)).count();
            answer(out, 200, &read.to_string());
        }
        "hold" => {
            let held: Vec<_> = (0..times)
                .filter_map(|_| head(wanted.begin().ok()?).ok())
                .collect();
            let mut reply = Reply::begin(out, 200, &[]);
            reply.write(format!("held {}", held.len()).as_bytes());
            reply.flush();
            subscribe_duration(25_000_000_000).block();
            drop(held);
            reply.end(None);
        }
        "leave" => {
            let begun: Vec<_> = (0..times).map(|_| wanted.begin()).collect();
            subscribe_duration(200_000_000).block();
            drop(begun);
            answer(out, 200, "left");
        }
        "proxy" => proxy(&request, out),
        "chain" | "late" => {
            if segments[0] == "late" {
                let mut body = Body::of(&request);
                while body.next(&mut [0; 64]).is_some() {}
            }
            let rest = segments[2..].join("/");
            let text = match segments[1].as_str() {
                "" | "end" => "the end".to_owned(),
                next => {
                    let outgoing = OutgoingRequest::new(Fields::new());
                    let authority = format!("{next}.app.internal");
                    outgoing.set_scheme(Some(&Scheme::Http)).expect("a scheme");
                    outgoing
                        .set_authority(Some(&authority))
                        .expect("an authority");
                    let path = format!("/chain/{rest}");
                    outgoing.set_path_with_query(Some(&path)).expect("a path");
                    match send(outgoing, None) {
                        Ok(future) => said(future),
                        Err(code) => format!("refused {code:?}"),
                    }
                }
            };
            answer(out, 200, &text);
        }
        other => answer(out, 404, other),
    }
}

fn values(request: &IncomingRequest, name: &str) -> Vec<String> {
    let values = request.headers().get(name).into_iter();
    values
        .map(|value| String::from_utf8_lossy(&value).into_owned())
        .collect()
}

fn value(request: &IncomingRequest, name: &str) -> Option<String> {
    values(request, name).into_iter().next()
}

/// What the headers of a request ask for.
struct Wanted {
    scheme: Scheme,
    authority: String,
    path: String,
    method: Method,
    headers: Vec<(String, String)>,
    waits: Option<Vec<Option<u64>>>,
}

impl Wanted {
    fn of(request: &IncomingRequest) -> Self {
        let headers = values(request, "x-header").into_iter().map(|header| {
            let (name, value) = header.split_once('=').unwrap_or((&header, ""));
            (name.to_owned(), value.to_owned())
        });
        Self {
            scheme: match value(request, "x-scheme").as_deref() {
                None | Some("http") => Scheme::Http,
                Some("https") => Scheme::Https,
                Some(other) => Scheme::Other(other.to_owned()),
            },
            authority: value(request, "x-authority").unwrap_or_default(),
            path: value(request, "x-path").unwrap_or_else(|| "/".to_owned()),
            method: match value(request, "x-method").as_deref() {
                None | Some("GET") => Method::Get,
                Some("POST") => Method::Post,
                Some("HEAD") => Method::Head,
                Some(other) => Method::Other(other.to_owned()),
            },
            headers: headers.collect(),
            waits: value(request, "x-waits")
                .map(|waits| waits.split(',').map(|wait| wait.parse().ok()).collect()),
        }
    }

    /// The request; or which part of it the interface does not take.
    fn made(&self) -> Result<(OutgoingRequest, Option<RequestOptions>), String> {
        let fields = Fields::new();
        for (name, value) in &self.headers {
            fields
                .append(name, value.as_bytes())
                .map_err(|error| format!("header {error:?}"))?;
        }
        let outgoing = OutgoingRequest::new(fields);
        outgoing
            .set_scheme(Some(&self.scheme))
            .map_err(|()| "scheme")?;
        outgoing
            .set_authority(Some(&self.authority))
            .map_err(|()| "authority")?;
        outgoing
            .set_path_with_query(Some(&self.path))
            .map_err(|()| "path")?;
        outgoing.set_method(&self.method).map_err(|()| "method")?;
        let options = self.waits.as_ref().map(|waits| {
            let options = RequestOptions::new();
            options.set_connect_timeout(waits[0]).expect("it is taken");
            options
                .set_first_byte_timeout(waits[1])
                .expect("it is taken");
            options
                .set_between_bytes_timeout(waits[2])
                .expect("it is taken");
            options
        });
        Ok((outgoing, options))
    }

    fn begin(&self) -> Result<FutureIncomingResponse, String> {
        let (outgoing, options) = self.made()?;
        send(outgoing, options).map_err(|code| format!("{code:?}"))
    }
}

/// Sends what is wanted, with the body of the guest's own request if it is a POST.
fn begin_with_body(request: &IncomingRequest) -> Result<FutureIncomingResponse, String> {
    let wanted = Wanted::of(request);
    let (outgoing, options) = wanted.made()?;
    let mut body = None;
    if matches!(wanted.method, Method::Post) {
        body = Some(outgoing.body().map_err(|()| "body")?);
    }
    let future = send(outgoing, options).map_err(|code| format!("{code:?}"))?;
    if let Some(body) = body {
        let mut from = Body::of(request);
        let mut to = body.write().expect("the stream is taken once");
        let mut buffer = vec![0; 65536];
        while let Some(length) = from.next(&mut buffer) {
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        drop(to);
        OutgoingBody::finish(body, None).map_err(|code| format!("body {code:?}"))?;
    }
    Ok(future)
}

fn head(future: FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    future.subscribe().block();
    future.get().expect("it is here").expect("it was not told")
}

/// What came, in text.
fn said(future: FutureIncomingResponse) -> String {
    let response = match head(future) {
        Ok(response) => response,
        Err(code) => return format!("failed {code:?}"),
    };
    let mut text = format!("answered {}\n", response.status());
    for (name, value) in response.headers().entries() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
    }
    let body = response.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut bytes = Vec::new();
    let mut length = 0;
    loop {
        match stream.blocking_read(65536) {
            Ok(piece) => {
                length += piece.len();
                // Of a large one the length is enough.
                if bytes.len() < 1 << 20 {
                    bytes.extend(piece);
                }
            }
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                text += &format!("cut after {length} bytes: {:?}\n", http_error_code(&error));
                break;
            }
        }
    }
    drop(stream);
    let trailers = IncomingBody::finish(body);
    trailers.subscribe().block();
    match trailers.get() {
        Some(Ok(Ok(Some(fields)))) => {
            for (name, value) in fields.entries() {
                text += &format!("trailer {name}: {}\n", String::from_utf8_lossy(&value));
            }
        }
        Some(Ok(Ok(None))) => {}
        other => text += &format!("trailers {other:?}\n"),
    }
    text + "\n" + &String::from_utf8_lossy(&bytes)
}

/// Sends one, and reads its reply without a look at it; whether it came whole.
fn quiet(wanted: &Wanted) -> bool {
    let Some(response) = wanted.begin().ok().and_then(|future| head(future).ok()) else {
        return false;
    };
    let body = response.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    loop {
        match stream.blocking_read(65536) {
            Ok(_) => {}
            Err(StreamError::Closed) => return true,
            Err(StreamError::LastOperationFailed(_)) => return false,
        }
    }
}

/// How often each first line was said.
fn tally(texts: impl Iterator<Item = String>) -> String {
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

/// Hands the request on, and its reply back, piece by piece.
fn proxy(request: &IncomingRequest, out: ResponseOutparam) {
    let made = Wanted::of(request).made();
    let (outgoing, options) = made.expect("a request that can be made");
    let body = outgoing.body().expect("the body is taken once");
    let future = send(outgoing, options).expect("it is sent");
    let mut from = Body::of(request);
    let mut to = body.write().expect("the stream is taken once");
    let mut buffer = vec![0; 16384];
    while let Some(length) = from.next(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop(to);
    let _ = OutgoingBody::finish(body, None);
    match head(future) {
        Err(code) => answer(out, 502, &format!("{code:?}")),
        Ok(response) => {
            let mut reply = Reply::begin(out, response.status(), &[]);
            let body = response.consume().expect("the body is taken once");
            let stream = body.stream().expect("the stream is taken once");
            while let Ok(piece) = stream.blocking_read(16384) {
                if !reply.write(&piece) {
                    break;
                }
            }
            reply.end(None);
        }
    }
}
