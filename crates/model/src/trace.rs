//! Traces: the context that a request brings and its guest is handed (W3C Trace Context), and what a worker tells of a
//! request that is traced.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AppId, RequestRecord, VersionNumber};

/// An id that is none: not of that many digits, or zero.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no id of a trace or a span")]
pub struct IdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $id:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $id([u8; $bytes]);

        impl $id {
            /// None if all of the bytes are 0.
            pub fn new(bytes: [u8; $bytes]) -> Option<Self> {
                (bytes != [0; $bytes]).then_some(Self(bytes))
            }

            pub fn bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// Its digits.
            pub fn hex(&self) -> [u8; 2 * $bytes] {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let mut hex = [0; 2 * $bytes];
                for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
                    pair[0] = DIGITS[usize::from(byte >> 4)];
                    pair[1] = DIGITS[usize::from(byte & 15)];
                }
                hex
            }

            /// Reads its digits and nothing else.
            fn read(hex: &[u8]) -> Option<Self> {
                let mut bytes = [0; $bytes];
                if hex.len() != 2 * $bytes {
                    return None;
                }
                for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
                    *byte = read_byte(pair)?;
                }
                Self::new(bytes)
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let hex = self.hex();
                f.write_str(std::str::from_utf8(&hex).expect("digits are ASCII"))
            }
        }

        impl From<$id> for String {
            fn from(id: $id) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $id {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                Self::read(text.as_bytes()).ok_or(IdError(text))
            }
        }
    };
}

id! {
    /// Which trace something belongs to; written as 32 digits of lower-case hexadecimal.
    TraceId, 16
}

id! {
    /// One span of a trace; written as 16 digits of lower-case hexadecimal.
    SpanId, 8
}

/// Two digits of lower-case hexadecimal.
fn read_byte(pair: &[u8]) -> Option<u8> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

/// A `traceparent` header: the trace, the span that asks, and whether its spans are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: TraceId,
    pub span: SpanId,
    pub sampled: bool,
}

impl TraceParent {
    /// Bytes of the header's value in version 00.
    pub const LENGTH: usize = 55;

    /// Reads a header's value: version 00, or the part of a later version that is the same.
    pub fn read(value: &[u8]) -> Option<Self> {
        let (known, more) = value.split_at_checked(Self::LENGTH)?;
        let version = read_byte(&known[..2])?;
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let ends = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more[0] == b'-',
        };
        if !(dashes && ends) {
            return None;
        }
        Some(Self {
            trace: TraceId::read(&known[3..35])?,
            span: SpanId::read(&known[36..52])?,
            sampled: read_byte(&known[53..])? & 1 == 1,
        })
    }

    /// The header's value, in version 00 and with no flag but the one that it has.
    pub fn value(&self) -> [u8; Self::LENGTH] {
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
        value[3..35].copy_from_slice(&self.trace.hex());
        value[36..52].copy_from_slice(&self.span.hex());
        value[54] = b'0' + u8::from(self.sampled);
        value
    }
}

/// Which share of requests is traced, from none to all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct SampleRatio(f64);

/// A share that is none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0} is no share of requests; write a number from 0 to 1, such as 0.1 for a tenth of them")]
pub struct RatioError(f64);

impl SampleRatio {
    /// Whether the request that drew this number is traced.
    pub fn takes(self, random: u64) -> bool {
        // 53 bits, which a float holds exactly: below 1, whatever was drawn.
        ((random >> 11) as f64) < self.0 * (1u64 << 53) as f64
    }
}

impl TryFrom<f64> for SampleRatio {
    type Error = RatioError;

    fn try_from(share: f64) -> Result<Self, RatioError> {
        if (0.0..=1.0).contains(&share) {
            Ok(Self(share))
        } else {
            Err(RatioError(share))
        }
    }
}

impl From<SampleRatio> for f64 {
    fn from(ratio: SampleRatio) -> Self {
        ratio.0
    }
}

/// A request that was traced, when it is over. Times are nanoseconds from its beginning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Traced {
    pub trace: TraceId,
    /// The span that asked, if the request named one.
    pub parent: Option<SpanId>,
    /// The request's own span.
    pub span: SpanId,
    /// The span of its guest, which the guest was told.
    pub guest: SpanId,
    /// The request's `tracestate`.
    pub state: String,
    /// When its head had come, in nanoseconds since 1970-01-01T00:00:00Z.
    pub begun_ns: u64,
    pub routed_ns: u64,
    /// When it had a slot.
    pub slot_ns: Option<u64>,
    /// The app had to be loaded.
    pub load: Option<Stretch>,
    /// The instance was made, if it was for this request.
    pub instantiate: Option<Stretch>,
    /// When the guest was handed the request.
    pub guest_began_ns: Option<u64>,
    /// When everything of the guest was freed, or a guest with other requests was through with this one.
    pub guest_ended_ns: Option<u64>,
    pub ended_ns: u64,
    /// The guest's calls to its capabilities, at most [`crate::limits::TRACE_CALLS`].
    pub calls: Vec<Call>,
    /// Those beyond.
    pub calls_dropped: u64,
    /// The request's id.
    pub request: String,
    pub app: AppId,
    pub version: VersionNumber,
    pub scheme: String,
    pub done: RequestRecord,
}

/// From when to when something went on, in nanoseconds from the request's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    pub from_ns: u64,
    pub to_ns: u64,
}

/// One call of a guest to a capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Such as `config.get`.
    pub name: String,
    pub stretch: Stretch,
    /// What those whom it asked were told of it, if it asked elsewhere.
    pub span: Option<SpanId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_traceparent_is_read_by_the_rules_of_w3c_and_by_no_others() {
        let check = |value: String, expected: Option<bool>| {
            let found = TraceParent::read(value.as_bytes());
            assert_eq!(found.map(|found| found.sampled), expected, "{value}");
            if let Some(found) = found {
                assert_eq!(found.trace.to_string(), TRACE);
                assert_eq!(found.span.to_string(), SPAN);
            }
        };
        let of = |version: &str, flags: &str| format!("{version}-{TRACE}-{SPAN}-{flags}");
        check(of("00", "01"), Some(true));
        check(of("00", "00"), Some(false));
        // Other flags are nobody's yet.
        check(of("00", "03"), Some(true));
        check(of("00", "fe"), Some(false));
        // A later version may say more after what is known.
        check(of("01", "01"), Some(true));
        check(of("cc", "01-what-comes"), Some(true));
        check(of("cc", "01."), None);
        check(of("00", "01-more"), None);
        check(of("ff", "01"), None);
        check(of("0", "01"), None);
        check(of("00", "1"), None);
        check(of("00", "0g"), None);
        check(of("00", "0F"), None);
        check(of("0A", "01"), None);
        check(String::new(), None);
        check(of("00", "01 "), None);
        check(format!(" {}", of("00", "01")), None);
        check(format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None);
        check(format!("00-{}-{SPAN}-01", "0".repeat(32)), None);
        check(format!("00-{TRACE}-{}-01", "0".repeat(16)), None);
        check(format!("00-{TRACE}-{}-01", SPAN.to_uppercase()), None);
        check(format!("00_{TRACE}-{SPAN}-01"), None);
        check(format!("00-{TRACE}_{SPAN}-01"), None);
        check(format!("00-{TRACE}-{SPAN}_01"), None);
        check(format!("00-{SPAN}-{TRACE}-01"), None);
        check(format!("{}, {}", of("00", "01"), of("00", "01")), None);
        check("é".repeat(30), None);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for sampled in [true, false] {
            let parent = TraceParent {
                trace: TraceId::new([0xab; 16]).unwrap(),
                span: SpanId::new([0, 0, 0, 0, 0, 0, 0, 1]).unwrap(),
                sampled,
            };
            assert_eq!(TraceParent::read(&parent.value()), Some(parent));
        }
    }

    #[test]
    fn ids_are_text_on_the_wire() {
        let id: TraceId = serde_json::from_str(&format!("\"{TRACE}\"")).unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{TRACE}\""));
        for wrong in ["\"\"", "\"00f067aa0ba902b7\"", "7"] {
            assert!(serde_json::from_str::<TraceId>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_ratio_takes_none_all_or_its_share() {
        let ratio = |share: f64| SampleRatio::try_from(share).unwrap();
        for random in [0, 1 << 63, u64::MAX] {
            assert!(ratio(1.0).takes(random) && !ratio(0.0).takes(random));
        }
        assert!(ratio(0.1).takes(u64::MAX / 11) && !ratio(0.1).takes(u64::MAX / 9));
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(SampleRatio::try_from(wrong).is_err(), "{wrong}");
        }
    }
}
