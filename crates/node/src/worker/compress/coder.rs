//! Three encoders alike: bytes in, at any time what has come of them out.

use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use model::{Coding, limits};
use zstd::stream::raw::CParameter;

/// How far encoders look back, as a power of two.
const WINDOW_LOG: u32 = limits::COMPRESS_WINDOW.default.bytes().ilog2();

/// Levels at which text loses most of its bytes for little CPU time: a reply is compressed for one client.
const BROTLI_LEVEL: i32 = 4;
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 5;

/// Bytes that brotli hands on at once.
const BROTLI_BUFFER: usize = 4096;

/// One reply's encoder.
pub enum Coder {
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Coder {
    /// # Errors
    /// There is no memory for it.
    pub fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Brotli => {
                let parameters = BrotliEncoderParams {
                    quality: BROTLI_LEVEL,
                    lgwin: WINDOW_LOG as i32,
                    ..BrotliEncoderParams::default()
                };
                let writer = CompressorWriter::with_params(Vec::new(), BROTLI_BUFFER, &parameters);
                Self::Brotli(Box::new(writer))
            }
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
                Self::Zstd(encoder)
            }
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL))),
        })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Brotli(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
        }
    }

    /// Makes all that was written readable for who has what came out so far.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Brotli(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Gzip(encoder) => encoder.flush(),
        }
    }

    /// The rest, to the very end.
    pub fn finish(self) -> io::Result<Bytes> {
        let rest = match self {
            Self::Brotli(encoder) => encoder.into_inner(),
            Self::Zstd(encoder) => encoder.finish()?,
            Self::Gzip(encoder) => encoder.finish()?,
        };
        Ok(rest.into())
    }

    /// How many bytes have come out.
    pub fn ready(&self) -> usize {
        match self {
            Self::Brotli(encoder) => encoder.get_ref().len(),
            Self::Zstd(encoder) => encoder.get_ref().len(),
            Self::Gzip(encoder) => encoder.get_ref().len(),
        }
    }

    /// Takes them.
    pub fn take(&mut self) -> Bytes {
        let ready = match self {
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
        };
        std::mem::take(ready).into()
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::Read;

    use super::*;

    /// What a client reads of `bytes`, which may break off after a flush.
    pub fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut reader: Box<dyn Read + '_> = match coding {
            Coding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        };
        let (mut whole, mut piece) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            whole.extend_from_slice(&piece[..count]);
        }
        whole
    }

    #[test]
    fn what_was_flushed_can_be_read_before_anything_follows() {
        for coding in Coding::ALL {
            let mut coder = Coder::new(coding).unwrap();
            let (mut out, mut written) = (Vec::new(), Vec::new());
            for event in 1..=5 {
                let event = format!("data: {event}\n\n");
                coder.write(event.as_bytes()).unwrap();
                written.extend_from_slice(event.as_bytes());
                coder.flush().unwrap();
                out.extend_from_slice(&coder.take());
                assert_eq!(decoded(coding, &out), written, "{coding}");
            }
            out.extend_from_slice(&coder.finish().unwrap());
            assert_eq!(decoded(coding, &out), written, "{coding}");
        }
    }

    #[test]
    fn text_gets_shorter_and_comes_back() {
        let text = "a line that says much the same as the one before\n".repeat(20_000);
        for coding in Coding::ALL {
            let mut coder = Coder::new(coding).unwrap();
            let mut out = Vec::new();
            for piece in text
                .as_bytes()
                .chunks(limits::COMPRESS_TURN.default.as_usize())
            {
                coder.write(piece).unwrap();
                // An encoder keeps back a block or two, and no more comes out of one piece.
                assert!(coder.ready() < 128 << 10, "{coding}: {}", coder.ready());
                out.extend_from_slice(&coder.take());
            }
            out.extend_from_slice(&coder.finish().unwrap());
            assert!(out.len() * 20 < text.len(), "{coding}: {}", out.len());
            assert!(decoded(coding, &out) == text.as_bytes(), "{coding}");
        }
    }
}
