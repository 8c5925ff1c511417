//! The way of changes to stores: from a worker to its supervisor and their outcomes back, over a pair of sockets of
//! their own, so that a value of megabytes holds up nothing else that the two have to say.
//!
//! A frame is its body's length (`u32`, little-endian) and its body (`postcard`).

use std::io;

use model::limits;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The most a frame may have: what may be changed together, and room for what is said about it.
const FRAME_BYTES: usize = limits::KV_BATCH.default.as_usize() + (1 << 20);

/// A whole frame.
pub fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
    let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// The next message; none at the end.
pub async fn receive<M: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES {
        let text = format!("a frame of {length} bytes was announced; one may have {FRAME_BYTES}");
        return Err(io::Error::other(text));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    postcard::from_bytes(&body)
        .map(Some)
        .map_err(io::Error::other)
}

/// Sends what was put into `frames` until nobody puts anything there any longer.
pub async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    mut frames: tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        to.write_all(&frame).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use model::pipe::StoreAsk;
    use model::{Expect, KvChange};

    use super::*;

    #[tokio::test]
    async fn what_is_sent_arrives_and_an_end_amid_it_is_an_error() {
        let ask = StoreAsk {
            id: 7,
            store: model::StoreId {
                owner: model::Owner {
                    app: "a/b".parse().unwrap(),
                    incarnation: 3,
                },
                store: "c".parse().unwrap(),
            },
            changes: vec![KvChange::Set {
                key: "k".to_owned(),
                value: vec![5; 100_000].into(),
                expires_ms: Some(1),
                expect: Expect::Revision(3),
            }],
        };
        let frame = frame(&ask).unwrap();
        let arrived = receive::<StoreAsk>(&mut frame.as_slice()).await.unwrap();
        assert_eq!(arrived, Some(ask));
        assert_eq!(receive::<StoreAsk>(&mut &b""[..]).await.unwrap(), None);
        let cut = &frame[..frame.len() - 1];
        assert!(receive::<StoreAsk>(&mut &cut[..]).await.is_err());
        let error = receive::<StoreAsk>(&mut &[255; 8][..]).await.unwrap_err();
        assert!(error.to_string().contains("announced"), "{error}");
    }
}
