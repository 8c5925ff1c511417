//! `/STATUS/BYTES?LENGTH&LENGTH…`: a reply with these `content-length` fields and a body of so many bytes, or, for
//! `none`, no body at all; `/STATUS/fail`: a body that is given up. Goes on whatever it is refused.

use services::{Fields, Response};
use wasip3::{wit_future, wit_stream};

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let target = request.get_path_with_query().unwrap_or_default();
    let query = target.split_once('?').map(|(_, query)| query.to_owned());
    let fields = Fields::new();
    for length in query.iter().flat_map(|all| all.split('&')) {
        let _ = fields.append("content-length", length.as_bytes());
    }
    let status = services::number(&request, 0, 200) as u16;
    let what = services::segments(&request)[1].clone();
    if what == "fail" {
        let (response, mut body) = services::begin(status, &[]);
        services::spawn_local(async move {
            body.write("so far, so good").await;
            body.fail().await;
        });
        return Ok(response);
    }
    let (mut contents, reader) = wit_stream::new();
    let (trailers, ending) = wit_future::new(|| Ok(None));
    let reader = (what != "none").then_some(reader);
    let (response, _) = Response::new(fields, reader, ending);
    let _ = response.set_status_code(status);
    let bytes = services::number(&request, 1, 0) as usize;
    services::spawn_local(async move {
        contents.write_all(vec![b'x'; bytes]).await;
        drop(contents);
        let _ = trailers.write(Ok(None)).await;
    });
    Ok(response)
}
