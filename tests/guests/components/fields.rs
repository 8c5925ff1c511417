//! Tries what header fields may be. `/`: each field of the body (`name U+001F value`, apart by U+001E) in three ways, a
//! line of results for each. `/many/COUNT`, `/list/COUNT` and `/large/MEBIBYTES`: how many fields, or how large a value.
//! `/trailers`: sends the body's fields as trailers.

use guests::{Body, Reply};
use wasip2::http::types::{Fields, HeaderError, IncomingRequest, ResponseOutparam};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let segments = guests::segments(&request);
    let count = guests::number(&request, 1, 0) as usize;
    let text = match segments[0].as_str() {
        "many" => many(count),
        "list" => list(count),
        "large" => outcome(Fields::new().append("x", &vec![b'a'; count << 20])),
        "trailers" => return trailers(&request, out),
        _ => pairs(&request)
            .iter()
            .map(|(name, value)| try_field(name, value) + "\n")
            .collect(),
    };
    guests::answer(out, 200, &text);
}

fn pairs(request: &IncomingRequest) -> Vec<(String, Vec<u8>)> {
    let mut body = Body::of(request);
    let (mut buffer, mut whole) = (vec![0; 64 << 10], Vec::new());
    while let Some(length) = body.next(&mut buffer) {
        whole.extend_from_slice(&buffer[..length]);
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
        "{} {} {}",
        outcome(Fields::new().append(name, value)),
        outcome(Fields::new().set(name, &[value.to_vec()])),
        outcome(Fields::from_list(&[field]).map(drop)),
    )
}

fn outcome(result: Result<(), HeaderError>) -> String {
    match result {
        Ok(()) => "taken".into(),
        Err(HeaderError::InvalidSyntax) => "invalid".into(),
        Err(HeaderError::Forbidden) => "forbidden".into(),
        Err(HeaderError::Immutable) => "immutable".into(),
    }
}

/// How many of `count` fields were taken, the same name in two spellings among them.
fn many(count: usize) -> String {
    let fields = Fields::new();
    let spelled = |number| match number % 2 {
        0 => format!("x-{}", number / 2),
        _ => format!("X-{}", number / 2),
    };
    let taken = (0..count)
        .filter(|number| fields.append(&spelled(*number), b"1").is_ok())
        .count();
    format!("{taken} taken")
}

fn list(count: usize) -> String {
    let field = |number| (format!("x-{number}"), b"1".to_vec());
    let all: Vec<_> = (0..count).map(field).collect();
    outcome(Fields::from_list(&all).map(drop))
}

fn trailers(request: &IncomingRequest, out: ResponseOutparam) {
    let trailers = Fields::new();
    let mut names = Vec::new();
    for (name, value) in pairs(request) {
        if trailers.append(&name, &value).is_ok() {
            names.push(name);
        }
    }
    let mut reply = Reply::begin(out, 200, &[("trailer", &names.join(", "))]);
    reply.write(b"body");
    reply.end(Some(trailers));
}
