//! Which of an app's log lines are wanted: by the status of their request, by their time.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::Millis;

/// Statuses of requests, as a list such as `404`, `5xx` or `4xx,503`; `0` is a request to which none was sent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Statuses {
    /// A bit for each status below [`MOST`].
    bits: [u64; MOST.div_ceil(64)],
}

/// No status is as high as this.
const MOST: usize = 600;

/// Why a list of statuses was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no statuses; write one from 100 to 599, a class such as `5xx`, or several with commas; 0 means that none was sent"
)]
pub struct StatusesError(String);

impl Statuses {
    pub fn contains(&self, status: u16) -> bool {
        let word = self.bits.get(usize::from(status) / 64);
        word.is_some_and(|word| word >> (status % 64) & 1 == 1)
    }
}

impl FromStr for Statuses {
    type Err = StatusesError;

    fn from_str(text: &str) -> Result<Self, StatusesError> {
        let mut bits = [0; MOST.div_ceil(64)];
        for part in text.split(',') {
            let (first, last) = range(part).ok_or_else(|| StatusesError(part.to_owned()))?;
            for status in first..=last {
                bits[status / 64] |= 1 << (status % 64);
            }
        }
        Ok(Self { bits })
    }
}

impl TryFrom<String> for Statuses {
    type Error = StatusesError;

    fn try_from(text: String) -> Result<Self, StatusesError> {
        text.parse()
    }
}

/// The first and the last status that `part` means.
fn range(part: &str) -> Option<(usize, usize)> {
    match part.as_bytes() {
        b"0" => Some((0, 0)),
        [class @ b'1'..=b'5', b'x', b'x'] => {
            let first = usize::from(class - b'0') * 100;
            Some((first, first + 99))
        }
        [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
            let status = part.parse().ok()?;
            Some((status, status))
        }
        _ => None,
    }
}

/// From when on lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Since {
    /// So long before now.
    Ago(Millis),
    /// Milliseconds since 1970-01-01T00:00:00Z.
    At(u64),
}

/// Why a time was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a time; write how long ago, such as `10m`, or milliseconds since 1970-01-01T00:00:00Z"
)]
pub struct SinceError(String);

impl Since {
    /// The time that is meant, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn at_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Ago(ago) => now_ms.saturating_sub(ago.0),
            Self::At(ms) => ms,
        }
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ago(ago) => ago.fmt(f),
            Self::At(ms) => ms.fmt(f),
        }
    }
}

impl FromStr for Since {
    type Err = SinceError;

    fn from_str(text: &str) -> Result<Self, SinceError> {
        let at = text.parse().map(Self::At).ok();
        let ago = || text.parse().map(Self::Ago).ok();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let found = if digits { at } else { ago() };
        found.ok_or_else(|| SinceError(text.to_owned()))
    }
}

impl TryFrom<String> for Since {
    type Error = SinceError;

    fn try_from(text: String) -> Result<Self, SinceError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_single_ones_and_classes() {
        let check = |text: &str, within: &[u16], without: &[u16]| {
            let statuses: Statuses = text.parse().unwrap();
            assert!(within.iter().all(|s| statuses.contains(*s)), "{text}");
            assert!(!without.iter().any(|s| statuses.contains(*s)), "{text}");
        };
        check("404", &[404], &[0, 403, 405, 500]);
        check("5xx", &[500, 503, 599], &[499, 600, u16::MAX]);
        check("4xx,503", &[400, 499, 503], &[399, 500, 504]);
        check("0,200", &[0, 200], &[1, 100, 201]);
        for wrong in [
            "", "5", "5xx,", "6xx", "600", "099", "5XX", "xx", "5x1", "200 ", "-200", "1e2", "２00",
        ] {
            assert!(wrong.parse::<Statuses>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_so_long_ago_or_a_moment() {
        let check = |text: &str, expected: Option<u64>| {
            let found = text.parse::<Since>().ok();
            assert_eq!(
                found.map(|since| since.at_ms(1_000_000)),
                expected,
                "{text}"
            );
            if let Some(since) = found {
                assert_eq!(since.to_string().parse(), Ok(since));
            }
        };
        check("10m", Some(400_000));
        check("1500ms", Some(998_500));
        check("9000d", Some(0));
        check("123", Some(123));
        check("", None);
        check("10", Some(10));
        check("10x", None);
        check("-1s", None);
        check("99999999999999999999", None);
        check("yesterday", None);
    }
}
