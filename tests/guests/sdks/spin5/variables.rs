//! Variables through Spin's SDK for WASI 0.2: `/variable/NAME`.

use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::{http_component, variables};

#[http_component]
fn handle(request: Request) -> impl IntoResponse {
    let name = request.path().trim_start_matches("/variable/");
    match variables::get(name) {
        Ok(value) => Response::new(200, value),
        Err(error) => Response::new(500, format!("{error:?}")),
    }
}
