//! Tries one thing of the host. `/method/BYTES`, `/path/BYTES`, `/authority/BYTES`: whether a request of its own may have
//! one so long. `/timeouts`: makes requests with timeouts that are none. `/clocks`: whether its clocks tell more than
//! whole milliseconds. `/bodies/COUNT`, `/fields/COUNT`, `/copies/COUNT`, `/paths/COUNT`: has its host hold so many;
//! `/dropped/COUNT`: one after the other; `/emptied/COUNT`: header
//! fields that were many; `/heedless/COUNT`: bodies, without asking how much may be written.

use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingRequest, RequestOptions, ResponseOutparam, Scheme,
};

guests::handler!(handle);

const MILLISECOND: u64 = 1_000_000;

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let long = "a".repeat(guests::number(&request, 1, 0) as usize);
    let own = OutgoingRequest::new(Fields::new());
    let taken = |result: Result<(), ()>| if result.is_ok() { "taken" } else { "refused" };
    let said = match guests::segments(&request)[0].as_str() {
        "method" => taken(own.set_method(&Method::Other(long))).into(),
        "path" => taken(own.set_path_with_query(Some(&format!("/{long}?x")))).into(),
        "authority" => taken(own.set_authority(Some(&long))).into(),
        "timeouts" => timeouts(),
        "clocks" => clocks().into(),
        what => return hold(what, guests::number(&request, 1, 0), out),
    };
    guests::answer(out, 200, &said);
}

/// Answers while it holds `count` of them.
fn hold(what: &str, count: u64, out: ResponseOutparam) {
    let all = 0..count;
    let full = || {
        let fields = Fields::new();
        fields.append("x", &[b'a'; 60_000]).expect("a field");
        fields
    };
    let request = || OutgoingRequest::new(Fields::new());
    let _held: Box<dyn std::any::Any> = match what {
        "bodies" => Box::new(Vec::from_iter(all.map(|_| {
            let request = request();
            let body = request.body().expect("a body");
            let stream = body.write().expect("its stream");
            let room = stream.check_write().expect("room");
            stream.write(&vec![7; room as usize]).expect("to write");
            (stream, body, request)
        }))),
        "fields" => Box::new(Vec::from_iter(all.map(|_| full()))),
        "copies" => {
            let fields = full();
            Box::new(Vec::from_iter(all.map(|_| fields.clone())))
        }
        "paths" => Box::new(Vec::from_iter(all.map(|_| {
            let request = request();
            let path = "/".repeat(16_000);
            request.set_path_with_query(Some(&path)).expect("a path");
            request
        }))),
        "heedless" => Box::new(Vec::from_iter(all.map(|_| {
            let request = request();
            let body = request.body().expect("a body");
            let stream = body.write().expect("its stream");
            stream.write(&[7; 1 << 20]).expect("to write");
            (stream, body, request)
        }))),
        "emptied" => Box::new(Vec::from_iter(all.map(|_| {
            let fields = Fields::new();
            let names = Vec::from_iter((0..256).map(|number| format!("x-{number}")));
            names
                .iter()
                .for_each(|name| fields.append(name, b"").expect("a field"));
            names
                .iter()
                .for_each(|name| fields.delete(name).expect("a field"));
            fields
        }))),
        "dropped" => Box::new(all.for_each(|_| drop(full()))),
        _ => panic!("there is no `{what}` to hold"),
    };
    guests::answer(out, 200, "held");
}

fn timeouts() -> String {
    let ask = |time: Option<u64>| {
        let request = OutgoingRequest::new(Fields::new());
        let _ = request.set_scheme(Some(&Scheme::Http));
        let _ = request.set_authority(Some("127.0.0.1"));
        let options = RequestOptions::new();
        let _ = options.set_connect_timeout(time);
        let _ = options.set_first_byte_timeout(time);
        let _ = options.set_between_bytes_timeout(time);
        match outgoing_handler::handle(request, Some(options)) {
            Err(error) => format!("{error:?}\n"),
            Ok(_) => "sent\n".into(),
        }
    };
    [None, Some(0), Some(1), Some(u64::MAX)].map(ask).concat()
}

fn clocks() -> &'static str {
    let whole = |nanoseconds: u64| nanoseconds.is_multiple_of(MILLISECOND);
    let coarse = |_| whole(monotonic_clock::now()) && whole(wall_clock::now().nanoseconds.into());
    let honest = monotonic_clock::resolution() == MILLISECOND;
    // Some hundreds of microseconds: a finer clock would show one of them.
    if (0..1_000).all(coarse) && honest {
        "whole milliseconds"
    } else {
        "finer than milliseconds"
    }
}
