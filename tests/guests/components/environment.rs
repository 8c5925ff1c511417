//! Answers with every environment variable and every configuration value, a line each.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

mod config {
    wit_bindgen::generate!({
        inline: "
            package guests:environment;
            world environment { import wasi:config/store@0.2.0-rc.1; }
            package wasi:config@0.2.0-rc.1 {
                interface store {
                    variant error { upstream(string), io(string) }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }
        ",
        generate_all,
    });
}

guests::handler!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    let mut lines: Vec<_> = std::env::vars()
        .map(|(name, value)| format!("env {name}={value}\n"))
        .collect();
    let values = config::wasi::config::store::get_all().expect("configuration can be read");
    lines.extend(
        values
            .into_iter()
            .map(|(name, value)| format!("config {name}={value}\n")),
    );
    lines.sort();
    guests::answer(out, 200, &lines.concat());
}
