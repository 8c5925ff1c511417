//! The API's connections: bounded in number and in time, and finished before the platform ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use model::limits;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::{Peer, Platform};

/// Answers requests until `shutdown`, then finishes those in flight.
pub(crate) async fn serve(
    platform: Arc<Platform>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) {
    let router = super::router(platform.clone());
    let permits = Arc::new(Semaphore::new(limits::API_CONNECTIONS.default as usize));
    let (connections, draining) = (TaskTracker::new(), CancellationToken::new());
    let cut = CancellationToken::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Ok((stream, peer, permit)) = accepted else {
            // No descriptor is free, most likely: one will be when a connection ends.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let router = router.clone().layer(Extension(Peer(peer)));
        let (draining, cut) = (draining.clone(), cut.clone());
        connections.spawn(async move {
            let _permit = permit;
            let connection = converse(stream, router, draining);
            // What is cut was given its time; what failed, failed the client.
            let _ = cut.run_until_cancelled(connection).await;
        });
    }
    drop(listener);
    platform.closing().cancel();
    draining.cancel();
    connections.close();
    let grace = limits::GRACE.default.duration();
    if tokio::time::timeout(grace, connections.wait())
        .await
        .is_err()
    {
        cut.cancel();
        connections.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await;
    let permit = permit.expect("no one closes the semaphore");
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    // A client that takes nothing for this long is gone: the kernel ends the connection.
    let wait = limits::BODY_WAIT.default.0 as u32;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, wait)?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&stream, Duration::from_secs(60))?;
    Ok((stream, peer, permit))
}

async fn converse(
    stream: TcpStream,
    router: axum::Router,
    draining: CancellationToken,
) -> hyper::Result<()> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_WAIT.default.duration())
        .max_buf_size(limits::REQUEST_HEAD.default.as_usize())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
