//! The whole process tree killed at random moments of writes to key-value stores: what was acknowledged is there.

use std::thread;
use std::time::Duration;

use super::Chance;
use crate::{Connection, Platform, guest};

/// How many times `stores` kills everything in full.
pub const STORE_CRASHES: u32 = 500;

/// Each writes keys of its own.
const CLIENTS: usize = 8;
const KEYS: usize = 20;

/// The most microseconds from a start to the kill.
const MOMENTS: usize = 300_000;

/// Kills all processes `count` times while clients write through a guest, and starts again each time: each key holds what
/// was acknowledged last, or what was under way when everything died; each counter is no lower than was acknowledged, and
/// no higher than was asked.
pub fn stores(count: u32, seed: u64) -> String {
    let mut platform = Platform::configured("workers = 2");
    platform.deploy_with("shop", &guest("kv_draft2"), "grant = { kv = ['default'] }");
    let mut chance = Chance(seed);
    let mut clients: [Client; CLIENTS] = std::array::from_fn(Client::new);
    for crash in 1..=count {
        let moment = Duration::from_micros(chance.below(MOMENTS) as u64);
        thread::scope(|scope| {
            for client in &mut clients {
                let mut chance =
                    Chance(chance.0 ^ u64::from(crash) ^ ((client.number as u64) << 32));
                let mut connection = platform.connect("shop");
                scope.spawn(move || while client.act(&mut connection, &mut chance) {});
            }
            thread::sleep(moment);
            platform.kill_tree();
        });
        let when =
            format!("after crash {crash} of {count}, {moment:?} from its start (seed {seed})");
        let started = platform.try_start_again();
        started.unwrap_or_else(|said| panic!("{when}: {said}"));
        for client in &mut clients {
            client.audit(&platform, &when);
        }
    }
    let sum = |part: fn(&Client) -> u64| clients.iter().map(part).sum::<u64>();
    format!(
        "stores: all processes killed {count} times; {} writes acknowledged, none lost, and {} under way, {} of which came to be (seed {seed})",
        sum(|client| client.acknowledged),
        sum(|client| client.cut_off),
        sum(|client| client.came_to_be)
    )
}

struct Client {
    number: usize,
    /// What each key holds; 0 is nothing.
    values: [u64; KEYS],
    counter: u64,
    /// Grows with each write.
    next: u64,
    under_way: Option<Write>,
    acknowledged: u64,
    cut_off: u64,
    came_to_be: u64,
}

#[derive(Clone, Copy)]
enum Write {
    Set(usize, u64),
    Count,
}

impl Client {
    fn new(number: usize) -> Self {
        Self {
            number,
            values: [0; KEYS],
            counter: 0,
            next: 0,
            under_way: None,
            acknowledged: 0,
            cut_off: 0,
            came_to_be: 0,
        }
    }

    /// Writes once; false if that was not acknowledged.
    fn act(&mut self, connection: &mut Connection, chance: &mut Chance) -> bool {
        self.next += 1;
        let write = match chance.below(4) {
            0 => Write::Count,
            _ => Write::Set(chance.below(KEYS), self.next),
        };
        let (path, value) = match write {
            Write::Set(key, value) => (
                self.path("set/default", &key.to_string()),
                value.to_string(),
            ),
            Write::Count => (self.path("increment/default/1", "count"), String::new()),
        };
        let reply = connection.request("POST", &path, "", value.as_bytes());
        if !reply.is_ok_and(|reply| reply.status() == 200) {
            self.under_way = Some(write);
            return false;
        }
        self.acknowledged += 1;
        self.hold(write);
        true
    }

    fn hold(&mut self, write: Write) {
        match write {
            Write::Set(key, value) => self.values[key] = value,
            Write::Count => self.counter += 1,
        }
    }

    /// Compares with what is there, and knows from then on what came to be of the write that was under way.
    fn audit(&mut self, platform: &Platform, when: &str) {
        let read = |key: &str| {
            let text = platform
                .post("shop", &self.path("get/default", key), b"")
                .is(200)
                .text();
            let value = text.strip_prefix("value ").unwrap_or("0");
            value
                .parse::<u64>()
                .unwrap_or_else(|_| panic!("{when}: `{text}` under {key}"))
        };
        let values: Vec<u64> = (0..KEYS).map(|key| read(&key.to_string())).collect();
        let counter = read("count");
        let under_way = self.under_way.take();
        self.cut_off += u64::from(under_way.is_some());
        let matches = |client: &Self| client.values[..] == values[..] && client.counter == counter;
        if !matches(self)
            && let Some(write) = under_way
        {
            self.hold(write);
            self.came_to_be += 1;
        }
        assert!(
            matches(self),
            "{when}: client {} finds {values:?} and {counter}, and was acknowledged {:?} and {}",
            self.number,
            self.values,
            self.counter
        );
    }

    fn path(&self, operation: &str, key: &str) -> String {
        format!("/{operation}?{}-{key}", self.number)
    }
}
