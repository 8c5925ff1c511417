//! Makes noise in its log. `/print/MEBIBYTES`: that much on standard output; `/fake`: lines that look like records of
//! others, and what a terminal would obey; `/panic/BYTES`: a panic with a message of that length.

use std::io::Write;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

const TRICKS: &[&[u8]] = &[
    b"first\ndefault/hello\t{\"time_ms\":1,\"tenant\":\"default\",\"app\":\"hello\",\"stream\":\"request\"}\n",
    b"{\"time_ms\":1,\"tenant\":\"default\",\"app\":\"hello\",\"text\":\"fake\"}\n",
    b"quote \" backslash \\ end\",\"app\":\"hello\"\n",
    b"\x1b[2J\x1b[31mcolour\x1b]0;title\x07\x1b]8;;http://x\x1b\\\x9b31m\n",
    b"over\rwritten\x08\x08\x7f\0\n",
    b"\xe2\x80\xa8line\xe2\x80\xa9paragraph\xe2\x80\xaeturned\xc2\x85next\n",
    b"\xff\xfe\x80 not utf-8 \xc0\xaf\xed\xa0\x80\n",
];

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let count = guests::number(&request, 1, 0) as usize;
    match guests::segments(&request)[0].as_str() {
        "print" => {
            let piece = [b'x'; 64 << 10];
            for _ in 0..count * 16 {
                std::io::stdout().write_all(&piece).expect("a log takes it");
            }
        }
        "fake" => {
            for trick in TRICKS {
                std::io::stderr().write_all(trick).expect("a log takes it");
                std::io::stdout().write_all(trick).expect("a log takes it");
            }
        }
        _ => panic!("{}", "p".repeat(count)),
    }
    guests::answer(out, 200, "said\n");
}
