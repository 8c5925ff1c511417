//! What the guests of configuration share: an operation by path, told in one line.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use crate::{Body, Reply, answer, query, segments};

/// Configuration, whichever interface it is read by. Errors are told in the interface's own words.
pub trait Config {
    /// None if the interface has no error for what is not there.
    fn get(version: &str, name: String) -> Result<Option<String>, String>;

    fn all(_version: &str) -> Result<Vec<(String, String)>, String> {
        Err("this interface lists nothing".into())
    }
}

/// `/OPERATION[/VERSION]?NAME`, the name percent-encoded.
pub fn handle<C: Config>(request: IncomingRequest, out: ResponseOutparam) {
    let parts = segments(&request);
    let version = parts.get(1).map_or("", String::as_str);
    let get = || C::get(version, query(&request));
    let found = match parts[0].as_str() {
        "get" => get(),
        "all" => C::all(version).map(|all| {
            let lines: Vec<_> = all
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            Some(lines.join("\n"))
        }),
        // Reads once before the request's body has ended, and once after.
        "twice" => return twice(&request, out, get),
        // Writes it to its log.
        "print" => get().inspect(|value| println!("it is {value:?}")),
        _ => Err("there is no such operation".into()),
    };
    match found {
        Ok(Some(value)) => answer(out, 200, &value),
        Ok(None) => answer(out, 404, "none"),
        Err(text) => answer(out, 500, &text),
    }
}

fn twice(
    request: &IncomingRequest,
    out: ResponseOutparam,
    get: impl Fn() -> Result<Option<String>, String>,
) {
    let mut reply = Reply::begin(out, 200, &[]);
    reply.write(format!("{:?}\n", get()).as_bytes());
    reply.flush();
    let mut body = Body::of(request);
    while body.next(&mut [0; 64]).is_some() {}
    reply.write(format!("{:?}\n", get()).as_bytes());
    reply.end(None);
}
