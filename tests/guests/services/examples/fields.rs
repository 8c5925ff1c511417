//! Tries what header fields may be: each field of the body (`name U+001F value`, apart by U+001E) in three ways, a line
//! of results for each. `/trailers`: sends the body's fields as trailers.

use services::{Fields, HeaderError, Received};

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let sends = services::segments(&request)[0] == "trailers";
    let pairs = pairs(request).await;
    if sends {
        return trailers(&pairs);
    }
    let lines = pairs.iter().map(|(name, value)| try_field(name, value));
    services::answer(200, &lines.collect::<String>())
}

async fn pairs(request: services::Request) -> Vec<(String, Vec<u8>)> {
    let mut received = Received::of(request);
    let mut whole = Vec::new();
    while let Some(piece) = received.next().await {
        whole.extend(piece);
    }
    let pair = |field: &[u8]| {
        let mut parts = field.splitn(2, |byte| *byte == 0x1f);
        let name = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        (name, parts.next().unwrap_or_default().to_vec())
    };
    whole.split(|byte| *byte == 0x1e).map(pair).collect()
}

fn try_field(name: &str, value: &[u8]) -> String {
    let field = (name.to_owned(), value.to_vec());
    format!(
        "{} {} {}\n",
        outcome(Fields::new().append(name, value)),
        outcome(Fields::new().set(name, &[value.to_vec()])),
        outcome(Fields::from_list(&[field]).map(drop)),
    )
}

fn outcome(result: Result<(), HeaderError>) -> &'static str {
    match result {
        Ok(()) => "taken",
        Err(HeaderError::InvalidSyntax) => "invalid",
        Err(HeaderError::Forbidden) => "forbidden",
        Err(HeaderError::Immutable) => "immutable",
        Err(HeaderError::SizeExceeded) => "too-large",
        Err(HeaderError::Other(_)) => "other",
    }
}

fn trailers(pairs: &[(String, Vec<u8>)]) -> services::Answer {
    let trailers = Fields::new();
    let mut names = Vec::new();
    for (name, value) in pairs {
        if trailers.append(name, value).is_ok() {
            names.push(name.as_str());
        }
    }
    let (response, mut body) = services::begin(200, &[("trailer", &names.join(", "))]);
    services::spawn_local(async move {
        body.write("body").await;
        let _ = body.end(Some(trailers)).await;
    });
    Ok(response)
}
