//! Answers with what it sees of the request, a line each: `scheme`, `authority`, `method`, `path`, then `name: value`.

use std::fmt::Write;

use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam, Scheme};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let scheme = match request.scheme() {
        Some(Scheme::Http) => "http".into(),
        Some(Scheme::Https) => "https".into(),
        Some(Scheme::Other(other)) => other,
        None => "-".into(),
    };
    let method = match request.method() {
        Method::Other(other) => other,
        known => format!("{known:?}").replace("Method::", "").to_uppercase(),
    };
    let mut text = format!(
        "scheme {scheme}\nauthority {}\nmethod {method}\npath {}\n",
        request.authority().unwrap_or_default(),
        request.path_with_query().unwrap_or_default(),
    );
    for (name, value) in request.headers().entries() {
        let _ = writeln!(text, "{name}: {}", String::from_utf8_lossy(&value));
    }
    guests::answer(out, 200, &text);
}
