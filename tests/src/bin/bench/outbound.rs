//! What requests cost that guests send: over a connection that is kept, beside hyper's own client, all on one core; and to
//! another app of the tenant, beside a request that comes by the front door.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use capabilities::http::client::{Call, Client as _, Network, Waits};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use model::pipe::EgressSettings;
use model::{
    AppLimits, Destination, Digest, Entry, Granted, GuestKind, HttpScheme, Incarnations, Replies,
    VersionNumber,
};
use tests::{Platform, Settings, cpu_seconds, guest, pin};
use tokio::task::LocalSet;

use crate::request::load;
use crate::row::{Row, median};
use crate::servers::{CORE, Plain, ROUNDS, cpu_us_each, platform, processes};

/// As many as one invocation may send, but for two.
const SENT: u32 = 30;
const REQUESTS: u32 = 200;
/// Of hyper's client.
const ASKED: u32 = 6_000;

pub fn measure() -> Vec<Row> {
    let plain = Plain::start(&["http1"]);
    let platform = platform(Settings {
        config: "[egress]\nallow = ['127.0.0.1/32']".to_owned(),
        ..Settings::default()
    });
    let grant = format!(
        "grant = {{ http = ['http://{}', 'http://hello.app.internal'] }}",
        plain.address
    );
    platform.deploy_with("fetch", &guest("fetch"), &grant);
    platform.deploy("hello", &guest("hello"));
    let outside = plain.address.to_string();
    let ours = processes(&platform);

    let (mut sent, mut asked, mut inside, mut door) = (vec![], vec![], vec![], vec![]);
    let mut taken = vec![];
    for _ in 0..ROUNDS {
        let idle = request_us(&platform, &outside, 0);
        sent.push((request_us(&platform, &outside, SENT) - idle) / f64::from(SENT));
        asked.push(elsewhere_us(|| hyper(plain.address)));
        taken.push(elsewhere_us(|| network(plain.address)));
        let called = request_us(&platform, "hello.app.internal", SENT);
        inside.push((called - idle) / f64::from(SENT));
        door.push(cpu_us_each(&ours, || {
            load(platform.listen, &platform.host("hello"), 16)
        }));
    }
    let ratio = |ours: &[f64], theirs: &[f64]| {
        let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
        median(ratios.collect())
    };
    vec![
        Row {
            what: "CPU of a request that a guest sends over a connection that is kept, its calls included, against hyper's client",
            figure: ratio(&sent, &asked),
            bound: Some(2.5),
            unit: "×",
            note: format!(
                "{:.1} µs against {:.1} µs",
                median(sent),
                median(asked.clone())
            ),
        },
        Row {
            what: "of that, what the worker's client takes, against hyper's client",
            figure: ratio(&taken, &asked),
            bound: Some(1.5),
            unit: "×",
            note: format!("{:.1} µs against {:.1} µs", median(taken), median(asked)),
        },
        Row {
            what: "CPU of a call to another app of the tenant, against a request from outside",
            figure: ratio(&inside, &door),
            bound: Some(1.3),
            unit: "×",
            note: format!("{:.1} µs against {:.1} µs", median(inside), median(door)),
        },
    ]
}

/// The worker's CPU time for a request that sends so many.
fn request_us(platform: &Platform, authority: &str, sent: u32) -> f64 {
    let headers = format!("x-authority: {authority}\r\n");
    let mut connection = platform.connect("fetch");
    let mut ask = || {
        let path = format!("/quiet/{sent}");
        connection
            .send_head("GET", &path, &headers)
            .expect("it is open");
        let reply = connection.reply("GET").expect("the platform answers");
        reply.is(200).says(&format!("{sent}"));
    };
    ask();
    let worker = platform.workers()[0];
    let before = cpu_seconds(worker);
    for _ in 0..REQUESTS {
        ask();
    }
    (cpu_seconds(worker) - before) * 1e6 / f64::from(REQUESTS)
}

/// The CPU time of a request that `ask` sends over a connection that is kept, on a thread of its own on the bench's core: there
/// the server runs as well, so that waiting for it costs as much as it costs a worker.
fn elsewhere_us<F: AsyncFn() -> usize>(client: impl FnOnce() -> F + Send) -> f64 {
    std::thread::scope(|scope| {
        let measured = scope.spawn(|| {
            pin(CORE);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let local = LocalSet::new();
            local.block_on(&runtime.expect("a runtime can be made"), async {
                let ask = client();
                assert_eq!(ask().await, 14);
                let before = thread_seconds();
                for _ in 0..ASKED {
                    assert_eq!(ask().await, 14);
                }
                (thread_seconds() - before) * 1e6 / f64::from(ASKED)
            })
        });
        measured.join().expect("it can be asked")
    })
}

/// Asks as hyper's own client does; the length of the reply.
fn hyper(address: SocketAddr) -> impl AsyncFn() -> usize {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(15))
        .build(connector);
    let uri: http::Uri = format!("http://{address}/")
        .parse()
        .expect("it is an address");
    async move || {
        let response = client.get(uri.clone()).await.expect("the server answers");
        let body = response.into_body().collect().await.expect("it is whole");
        body.to_bytes().len()
    }
}

/// Asks as a worker does for its guests.
fn network(address: SocketAddr) -> impl AsyncFn() -> usize {
    let settings = EgressSettings {
        allow: vec!["127.0.0.1/32".parse().expect("a network")],
        ..EgressSettings::default()
    };
    let network = Network::new(&settings).expect("it has roots");
    let caller = Arc::new(app());
    let to = Destination::parse(HttpScheme::Http, &address.to_string()).expect("an address");
    async move || {
        let call = Call {
            caller: caller.clone(),
            to: to.clone(),
            method: http::Method::GET,
            target: "/".parse().expect("a path"),
            headers: http::HeaderMap::new(),
            body: None,
            waits: Waits::within(None, None, None),
            hops: 1,
        };
        let response = network.send(call).await.expect("the server answers");
        let body = response.into_body().expect("it has a body");
        body.collect().await.expect("it is whole").to_bytes().len()
    }
}

/// Whose the requests are.
fn app() -> Entry {
    Entry {
        id: "default/fetch".parse().expect("a name"),
        incarnations: Incarnations::default(),
        version: VersionNumber::new(1).expect("a number"),
        revision: 1,
        kind: GuestKind::HttpComponent,
        wasm: Digest::of(b""),
        routes: Vec::new(),
        grant: Granted::default(),
        limits: AppLimits::default(),
        reply: Replies::default(),
        reuse: None,
    }
}

/// The CPU time of this thread.
fn thread_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one such value.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(told, 0, "the clock of a thread can be read");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
