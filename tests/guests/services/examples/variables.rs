//! Configuration through `spin:variables@3.0.0`: `/get?NAME`.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guests:variables;
            world variables { import spin:variables/variables@3.0.0; }
            package spin:variables@3.0.0 {
                interface variables {
                    variant error { invalid-name(string), undefined(string), provider(string), other(string) }
                    get: async func(name: string) -> result<string, error>;
                }
            }
        ",
        generate_all,
    });
}

use bindings::spin::variables::variables::{self, Error};
use services::answer;

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let path = request.get_path_with_query().unwrap_or_default();
    let name = path.split_once('?').map_or("", |(_, name)| name).to_owned();
    match variables::get(name).await {
        Ok(value) => answer(200, &value),
        Err(Error::InvalidName(name)) => answer(500, &format!("invalid-name {name}")),
        Err(Error::Undefined(name)) => answer(500, &format!("undefined {name}")),
        Err(Error::Provider(text) | Error::Other(text)) => answer(500, &text),
    }
}
