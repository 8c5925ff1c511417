//! Very many requests that sleep at once: each keeps its place, and others are served beside them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use model::{DeploymentCause, Digest, Version};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::Chance;
use crate::platform::manifest_of;
use crate::{Platform, anonymous_bytes, guest, raise_descriptors, variant};

/// How many requests `parked` has asleep at once in full; an app has ten of them.
pub const PARKED: u32 = 10_000;

const WORKERS: u32 = 2;

/// How many artifacts the apps share.
const ARTIFACTS: u32 = 8;

/// Has `count` requests of a tenth as many apps asleep at once in two workers: another app is answered meanwhile, and
/// every one of them gets its full reply.
pub fn parked(count: u32, seed: u64) -> String {
    // Each request has a connection of its own.
    raise_descriptors(20_000);
    // Connections are spread by chance: the fuller worker has some more than its share.
    let slots = count / WORKERS + count / 16 + 50;
    let platform = Platform::configured(&format!(
        "workers = {WORKERS}\n[node]\nslots = {slots}\ntenant-slots = {slots}"
    ));
    platform.deploy("hello", &guest("hello"));
    let mut hosts = deploy(&platform, count / 10);
    // So that each worker has loaded what it runs before its memory is measured.
    let mut chance = Chance(seed);
    for _ in 0..ARTIFACTS * WORKERS * 4 {
        let mut connection = platform.connect("hello");
        connection.get("/").expect("it is answered").is(200);
        connection.host(&hosts[chance.below(hosts.len())]);
        connection.get("/wait/0").expect("it is answered").is(200);
    }
    chance.shuffle(&mut hosts);
    let workers = platform.workers();
    let memory = || workers.iter().map(|id| anonymous_bytes(*id)).sum::<u64>();
    let before = memory();

    // They all wake at one time, which leaves enough for the last of them to fall asleep.
    let began = Instant::now();
    let wake = began + Duration::from_secs(10) + Duration::from_millis(4) * count;
    let asleep = ask_all(platform.listen, hosts, count, wake);
    let live = || platform.metric("midge_live_instances") as u32;
    while live() < count && Instant::now() < wake && !asleep.is_finished() {
        thread::sleep(Duration::from_millis(50));
    }
    let (most, fell_asleep) = (live(), began.elapsed());
    if most < count {
        let failures = failures(asleep);
        panic!(
            "only {most} of {count} requests slept at once (seed {seed}): {:#?}",
            &failures[..failures.len().min(5)]
        );
    }
    let asked = Instant::now();
    platform.get("hello", "/").is(200).says("Hello, Midge!\n");
    let next = asked.elapsed();
    let each = memory().saturating_sub(before) / u64::from(count);
    assert!(
        Instant::now() < wake,
        "they woke before they were looked at (seed {seed})"
    );

    let failures = failures(asleep);
    let woke = wake.elapsed();
    let shown = &failures[..failures.len().min(5)];
    assert!(
        shown.is_empty(),
        "{} of {count} requests got no full reply (seed {seed}): {shown:#?}",
        failures.len()
    );
    assert_eq!(platform.workers(), workers, "a worker ended (seed {seed})");
    format!(
        "parked: {count} requests of {} apps asleep at once in {WORKERS} workers after {:.1} s, {} KiB for each; another app answered in {:.1} ms meanwhile; all had their full reply {:.1} s after they woke (seed {seed})",
        count / 10,
        fell_asleep.as_secs_f64(),
        each >> 10,
        next.as_secs_f64() * 1000.0,
        woke.as_secs_f64()
    )
}

/// Deploys so many apps, and returns their hosts.
fn deploy(platform: &Platform, count: u32) -> Vec<String> {
    let artifacts: Vec<Digest> = (0..ARTIFACTS)
        .map(|number| {
            let wasm = variant(&guest("slow"), number);
            platform.api.upload(&wasm).is(204);
            Digest::of(&wasm)
        })
        .collect();
    let deploy = |number: u32| {
        let app = format!("slow-{number}");
        let manifest = manifest_of(&app, "[limits]\nwall = '5m'");
        let wasm = artifacts[(number % ARTIFACTS) as usize];
        let version: Version = platform.api.new_version(&manifest, wasm).body();
        let deploy = DeploymentCause::Deploy;
        platform.api.serve(&app, version.number, deploy);
        platform.host(&app)
    };
    (0..count).map(deploy).collect()
}

/// Asks `count` times for a reply that comes at `wake`, from one thread; the app of each is the next one of `hosts`.
fn ask_all(
    address: SocketAddr,
    hosts: Vec<String>,
    count: u32,
    wake: Instant,
) -> JoinHandle<Vec<anyhow::Result<()>>> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime can be made").block_on(async {
            // A backlog holds only so many that come at once.
            let opening = Arc::new(Semaphore::new(64));
            let ask = |(_, host): (u32, &String)| {
                let asked = ask(address, host.clone(), wake, opening.clone());
                tokio::spawn(async move {
                    let patience = wake + Duration::from_secs(60);
                    tokio::time::timeout_at(patience.into(), asked).await?
                })
            };
            let asked: Vec<_> = (0..count).zip(hosts.iter().cycle()).map(ask).collect();
            let mut replies = Vec::new();
            for reply in asked {
                replies.push(reply.await.expect("a client does not panic"));
            }
            replies
        })
    })
}

async fn ask(
    address: SocketAddr,
    host: String,
    wake: Instant,
    opening: Arc<Semaphore>,
) -> anyhow::Result<()> {
    let turn = opening.acquire().await?;
    let stream = TcpStream::connect(address).await.context("opening")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    drop(turn);
    let pause = wake.saturating_duration_since(Instant::now());
    let request = Request::get(format!("/wait/{}", pause.as_millis()))
        .header("host", host)
        .body(Empty::<Bytes>::new())?;
    let reply = sender.send_request(request).await.context("waiting")?;
    let status = reply.status();
    let body = reply.into_body().collect().await.context("reading")?;
    let body = body.to_bytes();
    ensure!(
        status == 200 && body == "waited\n",
        "{status} {}",
        String::from_utf8_lossy(&body)
    );
    Ok(())
}

/// What became of those who got no full reply.
fn failures(asleep: JoinHandle<Vec<anyhow::Result<()>>>) -> Vec<String> {
    let replies = asleep.join().expect("the clients do not panic");
    let failures = replies.into_iter().filter_map(Result::err);
    failures.map(|error| format!("{error:#}")).collect()
}
