//! The PROXY protocol, versions 1 and 2: what a proxy before us says of the client, ahead of everything else
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
//!
//! It is read byte for byte: what follows is the client's, and may be TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use model::limits;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest line of version 1, with its end.
const LINE: usize = 107;
/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The two ends as the proxy saw them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduced {
    pub peer: SocketAddr,
    pub server: SocketAddr,
}

/// Reads what the proxy says; none if it speaks for itself or does not know.
///
/// # Errors
/// What comes is no such header.
pub async fn introduced(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Introduced>> {
    let mut begin = [0; 6];
    io.read_exact(&mut begin).await?;
    if begin == *b"PROXY " {
        version_1(io).await
    } else if begin == SIGNATURE[..6] {
        version_2(io).await
    } else {
        Err(refused())
    }
}

async fn version_1(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Introduced>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() >= LINE - b"PROXY ".len() {
            return Err(refused());
        }
        line.push(io.read_u8().await?);
    }
    let line = std::str::from_utf8(&line).map_err(|_| refused())?;
    let words: Vec<&str> = line.trim_end_matches("\r\n").split(' ').collect();
    let (peer, server, ports) = match words[..] {
        ["UNKNOWN", ..] => return Ok(None),
        ["TCP4", peer, server, ref ports @ ..] => (
            IpAddr::V4(read::<Ipv4Addr>(peer)?),
            IpAddr::V4(read::<Ipv4Addr>(server)?),
            ports,
        ),
        ["TCP6", peer, server, ref ports @ ..] => (
            IpAddr::V6(read::<Ipv6Addr>(peer)?),
            IpAddr::V6(read::<Ipv6Addr>(server)?),
            ports,
        ),
        _ => return Err(refused()),
    };
    let &[peer_port, server_port] = ports else {
        return Err(refused());
    };
    Ok(Some(Introduced {
        peer: (peer, read(peer_port)?).into(),
        server: (server, read(server_port)?).into(),
    }))
}

async fn version_2(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Introduced>> {
    let mut rest = [0; 10];
    io.read_exact(&mut rest).await?;
    let [.., command, family, high, low] = rest;
    let length = u16::from_be_bytes([high, low]);
    let fits = u64::from(length) <= limits::PROXY_HEADER.default.bytes();
    if rest[..6] != SIGNATURE[6..] || command >> 4 != 2 || !fits {
        return Err(refused());
    }
    let mut said = vec![0; length.into()];
    io.read_exact(&mut said).await?;
    match (command & 15, family) {
        // The proxy itself, which looks whether we are well; or a kind of socket that has no such addresses.
        (0, _) | (1, 0) => Ok(None),
        (1, 0x11) => addresses::<4>(&said),
        (1, 0x21) => addresses::<16>(&said),
        _ => Err(refused()),
    }
}

/// Two addresses and two ports; what follows them says nothing that we ask for.
fn addresses<const N: usize>(said: &[u8]) -> io::Result<Option<Introduced>>
where
    IpAddr: From<[u8; N]>,
{
    let mut said = said;
    let mut next = |count: usize| {
        let (taken, rest) = said.split_at_checked(count).ok_or_else(refused)?;
        said = rest;
        Ok::<_, io::Error>(taken)
    };
    let address = |bytes: &[u8]| {
        let bytes: [u8; N] = bytes.try_into().expect("as many were taken");
        IpAddr::from(bytes)
    };
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let (peer, server) = (address(next(N)?), address(next(N)?));
    let (peer_port, server_port) = (port(next(2)?), port(next(2)?));
    Ok(Some(Introduced {
        peer: (peer, peer_port).into(),
        server: (server, server_port).into(),
    }))
}

fn read<T: std::str::FromStr>(word: &str) -> io::Result<T> {
    word.parse().map_err(|_| refused())
}

fn refused() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// What was said, and what is left for the client's protocol.
    fn check(bytes: &[u8], expected: Result<Option<(&str, &str)>, ()>, left: &[u8]) {
        let mut rest = bytes;
        let found = introduced(&mut rest)
            .now_or_never()
            .expect("all of it is there");
        let expected = expected.map(|ends| {
            ends.map(|(peer, server)| Introduced {
                peer: peer.parse().unwrap(),
                server: server.parse().unwrap(),
            })
        });
        assert_eq!(found.map_err(|_| ()), expected, "{bytes:?}");
        if expected.is_ok() {
            assert_eq!(rest, left);
        }
    }

    fn binary(command: u8, family: u8, said: &[u8]) -> Vec<u8> {
        let length = u16::try_from(said.len()).unwrap().to_be_bytes();
        [
            &SIGNATURE[..],
            &[0x20 | command, family],
            &length,
            said,
            b"GET",
        ]
        .concat()
    }

    #[test]
    fn a_line_names_both_ends() {
        let ends = Some(("1.2.3.4:5", "6.7.8.9:10"));
        check(b"PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\nGET", Ok(ends), b"GET");
        let ends = Some(("[2001:db8::1]:5", "[::1]:443"));
        check(
            b"PROXY TCP6 2001:db8::1 ::1 5 443\r\n\x16",
            Ok(ends),
            b"\x16",
        );
        check(b"PROXY UNKNOWN\r\nGET", Ok(None), b"GET");
        check(b"PROXY UNKNOWN a b c d\r\n", Ok(None), b"");
        for wrong in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 1.2.3.4 6.7.8.9 5\r\n",
            b"PROXY TCP4 1.2.3.4 6.7.8.9 5 10 11\r\n",
            b"PROXY TCP4 1.2.3.4 6.7.8.9 5 65536\r\n",
            b"PROXY TCP4 ::1 ::1 5 10\r\n",
            b"PROXY TCP6 1.2.3.4 6.7.8.9 5 10\r\n",
            b"PROXY TCP4  1.2.3.4 6.7.8.9 5 10\r\n",
            b"PROXY UDP4 1.2.3.4 6.7.8.9 5 10\r\n",
            b"PROXY TCP4 1.2.3.4 6.7.8.9 5 10",
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat(),
        ] {
            check(wrong, Err(()), b"");
        }
    }

    #[test]
    fn bytes_name_both_ends() {
        let four = [1, 2, 3, 4, 6, 7, 8, 9, 0, 5, 1, 187];
        let ends = Some(("1.2.3.4:5", "6.7.8.9:443"));
        check(&binary(1, 0x11, &four), Ok(ends), b"GET");
        let told = [&four[..], &[4, 0, 1, 0]].concat();
        check(&binary(1, 0x11, &told), Ok(ends), b"GET");
        let mut six = [0; 36];
        (six[15], six[31], six[33], six[35]) = (1, 2, 5, 10);
        check(
            &binary(1, 0x21, &six),
            Ok(Some(("[::1]:5", "[::2]:10"))),
            b"GET",
        );
        check(&binary(0, 0, &[]), Ok(None), b"GET");
        check(&binary(1, 0, b"anything"), Ok(None), b"GET");
        for wrong in [
            binary(1, 0x11, &four[..11]),
            binary(1, 0x12, &four),
            binary(2, 0x11, &four),
            binary(1, 0x11, &[0; 4096]),
            [&SIGNATURE[..], &[0x11, 0x11, 0, 12], &four].concat(),
            SIGNATURE[..8].to_vec(),
        ] {
            check(&wrong, Err(()), b"");
        }
    }
}
