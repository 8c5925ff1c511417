//! CPU time of one request over HTTP/2, 100 at once over one connection: against HTTP/1.1 over 100 connections to the same
//! platform, and against plain hyper that speaks HTTP/2.
//!
//! Servers and load generators share one core; CPU time is the operating system's, summed over supervisor and worker.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{Request, StatusCode};
use tests::{Settings, guest, pin};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

use crate::request;
use crate::row::{Row, median};
use crate::servers::{CORE, Plain, ROUNDS, cpu_us_each, platform, processes};

/// Requests at once over the connection: as many as the platform takes.
const STREAMS: usize = 100;

const HELLO: &[u8] = b"Hello, Midge!\n";

pub fn measure() -> Vec<Row> {
    pin(CORE);
    let plain = Plain::start(&["http2"]);
    let platform = platform(Settings::default());
    platform.deploy("component", &guest("hello"));
    platform
        .get("component", "/")
        .is(200)
        .says("Hello, Midge!\n");
    let (ours, host) = (processes(&platform), platform.host("component"));

    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let old = cpu_us_each(&ours, || request::load(platform.listen, &host, STREAMS));
        let new = cpu_us_each(&ours, || load(platform.listen, &host));
        let bare = cpu_us_each(&plain.processes(), || load(plain.address, "localhost"));
        rounds.push([old, new, bare]);
    }
    let of = |index: usize| median(rounds.iter().map(|round| round[index]).collect());
    let against =
        |index: usize| median(rounds.iter().map(|round| round[1] / round[index]).collect());
    let row = |what, index: usize, other: &str| Row {
        what,
        figure: against(index),
        bound: None,
        unit: "×",
        note: format!("{:.1} µs against {other} {:.1} µs", of(1), of(index)),
    };
    vec![
        row(
            "CPU per request of a fresh-instance hello over HTTP/2, 100 at once over a connection, against HTTP/1.1 over 100 connections",
            0,
            "HTTP/1.1's",
        ),
        row(
            "the same, against plain hyper over HTTP/2",
            2,
            "plain hyper's",
        ),
    ]
}

/// Asks over one connection for three seconds, [`STREAMS`] requests at a time; how many replies came.
fn load(address: SocketAddr, host: &str) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("an event loop can be made");
    let uri = format!("http://{host}/");
    LocalSet::new().block_on(&runtime, async {
        let tcp = TcpStream::connect(address)
            .await
            .expect("the server accepts");
        tcp.set_nodelay(true).expect("a socket takes options");
        let (sender, connection) = client::handshake(tcp).await.expect("it speaks HTTP/2");
        // Its errors are those of its streams.
        let connection = tokio::task::spawn_local(connection);
        let end = Instant::now() + Duration::from_secs(3);
        let mut asking = JoinSet::new();
        for _ in 0..STREAMS {
            asking.spawn_local(ask_until(end, sender.clone(), uri.clone()));
        }
        drop(sender);
        let replies: u64 = asking.join_all().await.into_iter().sum();
        connection.abort();
        replies as f64
    })
}

/// Asks for one reply after the other.
async fn ask_until(end: Instant, mut sender: SendRequest<Bytes>, uri: String) -> u64 {
    let mut replies = 0;
    while Instant::now() < end {
        sender = sender.ready().await.expect("the connection stays");
        let request = Request::get(&uri).body(()).expect("a request can be made");
        let (reply, _) = sender.send_request(request, true).expect("it can be sent");
        let reply = reply.await.expect("it is answered");
        assert_eq!(reply.status(), StatusCode::OK);
        let mut body = reply.into_body();
        let mut length = 0;
        while let Some(piece) = body.data().await {
            let piece = piece.expect("the body comes whole");
            length += piece.len();
            let flow = body.flow_control();
            flow.release_capacity(piece.len()).expect("it was taken");
        }
        assert_eq!(length, HELLO.len());
        replies += 1;
    }
    replies
}
