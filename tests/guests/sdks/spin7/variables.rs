//! Variables through Spin's SDK for WASI 0.3: `/variable/NAME`.

use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::{http_service, variables};

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    let name = request.uri().path().trim_start_matches("/variable/");
    match variables::get(name).await {
        Ok(value) => Response::new(value),
        Err(error) => {
            let mut reply = Response::new(format!("{error:?}"));
            *reply.status_mut() = spin_sdk::http::StatusCode::INTERNAL_SERVER_ERROR;
            reply
        }
    }
}
