//! `/STATUS/BYTES?LENGTH&LENGTH…`: a reply with these `content-length` fields and a body of so many bytes, or, for
//! `none`, no body at all. Goes on whatever it is refused.

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let target = request.path_with_query().unwrap_or_default();
    let fields = Fields::new();
    for length in target
        .split_once('?')
        .iter()
        .flat_map(|(_, all)| all.split('&'))
    {
        let _ = fields.append("content-length", length.as_bytes());
    }
    let response = OutgoingResponse::new(fields);
    let _ = response.set_status_code(guests::number(&request, 0, 200) as u16);
    if guests::segments(&request)[1] == "none" {
        return ResponseOutparam::set(out, Ok(response));
    }
    let body = response.body();
    ResponseOutparam::set(out, Ok(response));
    let Ok(body) = body else { return };
    let bytes = vec![b'x'; guests::number(&request, 1, 0) as usize];
    if let Ok(stream) = body.write() {
        for piece in bytes.chunks(4096) {
            let _ = stream.blocking_write_and_flush(piece);
        }
    }
    let _ = OutgoingBody::finish(body, None);
}
