//! Hands the request's stream on as the reply's, and looks at no byte of it.

use services::Received;

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let (contents, _) = Received::of(request).parts();
    let (response, _, _) = services::respond(200, &[], Some(contents));
    Ok(response)
}
