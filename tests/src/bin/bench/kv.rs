//! What key-value stores cost: a read of a guest's beside one of the raw engine, and many writers at once, through guests and
//! straight at the stores, beside one flush for each write.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use capabilities::kv::KeyValue;
use capabilities::kv::embedded::Stores;
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions};
use model::{Expect, KvChange, Owner, StoreId, limits};
use tests::{Platform, cpu_seconds, guest};
use tokio::task::JoinSet;

use crate::row::{Row, median};

const ROUNDS: usize = 5;
/// Reads of one request: nearly as many as one may make.
const READS: u32 = 9_000;
const REQUESTS: u32 = 30;
const RAW_READS: u32 = 1_000_000;
const VALUE: [u8; 100] = [b'x'; 100];

const WRITERS: u32 = 64;
const WRITES: u32 = 30;
/// Of each writer straight at the stores.
const STRAIGHT_WRITES: u32 = 200;
const RAW_WRITES: u32 = 100;

pub fn measure() -> Vec<Row> {
    let platform = Platform::configured("workers = 1");
    let manifest = "grant = { kv = ['default'] }\nlimits = { cpu = '10s' }";
    platform.deploy_with("shop", &guest("kv_spin"), manifest);
    platform.post("shop", "/set/default?key", &VALUE).is(200);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let raw = Raw::open(folder.path());
    raw.write(b"key");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let straight = Straight::open(folder.path());

    let (mut reads, mut raw_reads, mut raw_writes) = (vec![], vec![], vec![]);
    let (mut writes, mut straight_writes) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let idle = worker_us(&platform, 0);
        reads.push((worker_us(&platform, READS) - idle) / f64::from(READS));
        raw_reads.push(raw.read_us());
        writes.push(write_us(&platform));
        straight_writes.push(straight.write_us());
        raw_writes.push(raw.write_us());
    }
    let (read, raw_read) = (median(reads), median(raw_reads));
    let (write, raw_write) = (median(writes), median(raw_writes));
    let straight_write = median(straight_writes);
    vec![
        Row {
            what: "a guest's key-value get of 100 bytes, beyond a get of the raw engine",
            figure: read - raw_read,
            bound: Some(2.0),
            unit: "µs",
            note: format!("{read:.2} µs of the worker's CPU time against {raw_read:.2} µs"),
        },
        Row {
            what: "a set of 64 writers' at once at the stores, against one flush for each write",
            figure: straight_write / raw_write,
            bound: Some(0.05),
            unit: "×",
            note: format!("{straight_write:.1} µs against {raw_write:.0} µs"),
        },
        Row {
            what: "the same of 64 clients through a guest, requests and replies included",
            figure: write / raw_write,
            bound: None,
            unit: "×",
            note: format!("{write:.0} µs against {raw_write:.0} µs"),
        },
    ]
}

/// The worker's CPU time for a request that reads so often.
fn worker_us(platform: &Platform, reads: u32) -> f64 {
    let worker = platform.workers()[0];
    let before = cpu_seconds(worker);
    for _ in 0..REQUESTS {
        platform
            .post("shop", &format!("/hot/default/{reads}?key"), b"")
            .is(200);
    }
    (cpu_seconds(worker) - before) * 1e6 / f64::from(REQUESTS)
}

/// The time of a write, where many write at once.
fn write_us(platform: &Platform) -> f64 {
    let began = Instant::now();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut connection = platform.connect("shop");
                for _ in 0..WRITES {
                    let path = format!("/set/default?{writer}");
                    let reply = connection.request("POST", &path, "", &VALUE);
                    reply.expect("the platform answers").is(200);
                }
            });
        }
    });
    began.elapsed().as_secs_f64() * 1e6 / f64::from(WRITERS * WRITES)
}

/// The stores without a platform around them.
struct Straight {
    stores: Stores,
    store: StoreId,
}

impl Straight {
    fn open(folder: &Path) -> Self {
        let now = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |now| now.as_millis() as u64)
        };
        let stores = Stores::open(folder, limits::KV_STORE.default, Arc::new(now));
        Self {
            stores: stores.expect("stores of this program's own"),
            store: StoreId {
                owner: Owner {
                    app: "default/shop".parse().expect("a name"),
                    incarnation: 0,
                },
                store: "default".parse().expect("a name"),
            },
        }
    }

    /// The time of a write, where many write at once.
    fn write_us(&self) -> f64 {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let began = Instant::now();
        runtime.expect("a runtime").block_on(async {
            let mut writers = JoinSet::new();
            for writer in 0..WRITERS {
                writers.spawn(write(self.stores.clone(), self.store.clone(), writer));
            }
            writers.join_all().await;
        });
        began.elapsed().as_secs_f64() * 1e6 / f64::from(WRITERS * STRAIGHT_WRITES)
    }
}

/// Writes one key again and again.
async fn write(stores: Stores, store: StoreId, writer: u32) {
    for _ in 0..STRAIGHT_WRITES {
        let change = KvChange::Set {
            key: writer.to_string(),
            value: VALUE.to_vec().into(),
            expires_ms: None,
            expect: Expect::Anything,
        };
        let made = stores.change(&store, vec![change]).await;
        made.expect("the stores are written");
    }
}

/// The engine below the stores, with nothing around it.
struct Raw {
    env: Env,
    table: Database<'static, Bytes, Bytes>,
}

impl Raw {
    fn open(folder: &Path) -> Self {
        let mut options = EnvOpenOptions::new();
        options.map_size(1 << 30);
        // SAFETY: the folder is this program's own.
        let env = unsafe { options.open(folder) }.expect("an environment");
        let txn = env.write_txn().expect("a transaction");
        let made = env.create_databases_and_commit(txn, |opener, txn| {
            let table = opener.create_database::<Bytes, Bytes>(txn, None)?;
            heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(table))
        });
        let table = made.expect("a database").unwrap_commit();
        Self { env, table }
    }

    fn write(&self, key: &[u8]) {
        let mut txn = self.env.write_txn().expect("a transaction");
        self.table.put(&mut txn, key, &VALUE).expect("a write");
        txn.commit().expect("a commit");
    }

    fn write_us(&self) -> f64 {
        let began = Instant::now();
        for number in 0..RAW_WRITES {
            self.write(&number.to_le_bytes());
        }
        began.elapsed().as_secs_f64() * 1e6 / f64::from(RAW_WRITES)
    }

    fn read_us(&self) -> f64 {
        let began = Instant::now();
        let mut sum = 0;
        for _ in 0..RAW_READS {
            let txn = self.env.read_txn().expect("a transaction");
            let value = self.table.get(&txn, b"key").expect("a read");
            sum += value.expect("it was written").to_vec().len();
        }
        assert_eq!(sum, VALUE.len() * RAW_READS as usize);
        began.elapsed().as_secs_f64() * 1e6 / f64::from(RAW_READS)
    }
}
