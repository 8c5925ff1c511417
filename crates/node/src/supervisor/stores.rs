//! The keeper's end of a worker's way to its stores, and what the operator hears of them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;

use capabilities::kv::KeyValue;
use futures_util::stream::{FuturesUnordered, StreamExt};
use model::limits;
use model::pipe::{StoreAnswer, StoreAsk};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::Notice;
use crate::store_pipe;

/// What a worker asked for and nobody looked at yet.
const ASKED: usize = 64;

/// Does what a worker asks for until it is gone. What it asked for and did not hear of is done all the same.
pub async fn serve(socket: OwnedFd, stores: Arc<dyn KeyValue>) -> io::Result<()> {
    let socket = StdStream::from(socket);
    socket.set_nonblocking(true)?;
    let (mut from, mut to) = UnixStream::from_std(socket)?.into_split();
    let (frames, answered) = mpsc::unbounded_channel();
    let (ask, mut asked) = mpsc::channel(ASKED);
    let listen = async {
        while let Some(asking) = store_pipe::receive::<StoreAsk>(&mut from).await? {
            // The other end lives as long as this.
            let _ = ask.send(asking).await;
        }
        Ok(())
    };
    let work = async {
        let mut under_way = FuturesUnordered::new();
        loop {
            let room = (under_way.len() as u64) < limits::KV_QUEUE.default;
            tokio::select! {
                Some(StoreAsk { id, store, changes }) = asked.recv(), if room => {
                    let stores = stores.clone();
                    under_way.push(async move {
                        let result = stores.change(&store, changes).await;
                        StoreAnswer { id, result }
                    });
                }
                Some(answer) = under_way.next(), if !under_way.is_empty() => {
                    // Its end is the worker's, which is heard of elsewhere.
                    let _ = frames.send(store_pipe::frame(&answer)?);
                }
            }
        }
    };
    tokio::select! {
        ended = listen => ended,
        failed = work => failed,
        sent = store_pipe::send(&mut to, answered) => sent,
    }
}

/// Tells the operator once of stores that take no more changes.
pub async fn tell_failed(failed: impl Future<Output = String>, notice: Notice) {
    let why = failed.await;
    notice(&format!(
        "the key-value stores take no more changes: what was written last may not have reached the disk ({why}). Apps are \
         served on and read what was acknowledged; see to the disk, then start midge again"
    ));
}
