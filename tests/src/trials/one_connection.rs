//! A client that never closes its connection: it may ask as often as it likes, and costs no more each time.

use crate::{Platform, anonymous_bytes, guest};

/// How many requests `one_connection` makes in full.
pub const REQUESTS: u32 = 1_000_000;

/// Requests that are on their way at once.
const AT_ONCE: u32 = 50;

/// What a worker may hold more than after the first thousand.
const MORE: u64 = 16 << 20;

/// Asks `count` times on one connection: each request is answered, and the worker holds no more than before.
pub fn one_connection(count: u32, _seed: u64) -> String {
    let platform = Platform::configured("workers = 1");
    platform.deploy("hello", &guest("hello"));
    let more = ask_often(&platform, count);
    format!("{count} requests on one connection, all answered; {more} bytes more in the end")
}

/// The same of a running platform, whose first worker is watched.
pub fn ask_often(platform: &Platform, count: u32) -> u64 {
    let worker = platform.workers()[0];
    let mut connection = platform.connect("hello");
    let mut held = 0;
    for turn in 0..count / AT_ONCE {
        for _ in 0..AT_ONCE {
            connection.send_head("GET", "/", "").unwrap();
        }
        for _ in 0..AT_ONCE {
            let reply = connection.reply("GET").unwrap().is(200);
            assert_eq!(reply.text(), "Hello, Midge!\n");
        }
        if turn == 20 {
            held = anonymous_bytes(worker);
        }
    }
    let more = anonymous_bytes(worker).saturating_sub(held);
    assert!(more < MORE, "{more} bytes more after {count} requests");
    more
}
