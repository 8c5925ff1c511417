//! Answers in ways that it should not; the path says which.

use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    match guests::segments(&request)[0].as_str() {
        "never" => {}
        "dropped" => drop(out),
        "error" => ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("no".repeat(50))))),
        "error-long" => {
            let long = Some("long ".repeat(100_000));
            ResponseOutparam::set(out, Err(ErrorCode::InternalError(long)));
        }
        "error-twice" => {
            let again = copy(&out);
            ResponseOutparam::set(out, Err(ErrorCode::DestinationNotFound));
            ResponseOutparam::set(again, Err(ErrorCode::ConfigurationError));
        }
        "twice" => {
            let again = copy(&out);
            let body = begin(out);
            let _ = OutgoingBody::finish(body, None);
            begin(again);
        }
        "twice-unfinished" => {
            let again = copy(&out);
            let _open = begin(out);
            begin(again);
        }
        "unfinished" => drop(begin(out)),
        "forgotten" => std::mem::forget(begin(out)),
        "trap" => {
            let _open = begin(out);
            panic!("trapped in the middle of its body");
        }
        "exit" => {
            let body = begin(out);
            let _ = OutgoingBody::finish(body, None);
            std::process::exit(0);
        }
        "exit-unfinished" => {
            let _open = begin(out);
            std::process::exit(0);
        }
        "exit-badly" => {
            let _open = begin(out);
            std::process::exit(1);
        }
        "body-twice" => {
            let response = OutgoingResponse::new(Fields::new());
            let body = response.body().expect("the body is taken once");
            let second = response.body().is_err();
            ResponseOutparam::set(out, Ok(response));
            let stream = body.write().expect("the stream is taken once");
            let _ = stream.blocking_write_and_flush(if second { b"refused" } else { b"taken" });
            drop(stream);
            let _ = OutgoingBody::finish(body, None);
        }
        "stream-alive" => {
            let response = OutgoingResponse::new(Fields::new());
            let body = response.body().expect("the body is taken once");
            ResponseOutparam::set(out, Ok(response));
            let stream = body.write().expect("the stream is taken once");
            let _ = OutgoingBody::finish(body, None);
            let _ = stream.blocking_write_and_flush(b"after the end");
        }
        other => panic!("there is no way `{other}`"),
    }
}

/// The same handle a second time, which the bindings would not allow.
fn copy(out: &ResponseOutparam) -> ResponseOutparam {
    // SAFETY: there is none; the platform must bear it.
    unsafe { ResponseOutparam::from_handle(out.handle()) }
}

/// A head and some of a body.
fn begin(out: ResponseOutparam) -> OutgoingBody {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    let _ = stream.blocking_write_and_flush(b"so far");
    drop(stream);
    body
}
