//! Asks another host for something, and answers with what became of that.

use wasip3::http::client;
use wasip3::http::types::Scheme;
use wasip3::wit_future;

services::service!(handle);

async fn handle(_request: services::Request) -> services::Answer {
    let (trailers, ending) = wit_future::new(|| Ok(None));
    let (request, _) = services::Request::new(services::Fields::new(), None, ending, None);
    drop(trailers);
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request
        .set_authority(Some("127.0.0.1:1"))
        .expect("an authority");
    let text = match client::send(request).await {
        Ok(_) => "it went out".to_owned(),
        Err(code) => format!("{code:?}"),
    };
    services::answer(200, &text)
}
