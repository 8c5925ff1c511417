//! Header fields as guests hold them: bounded, well formed, and without the ones that frame a message.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use model::limits;

/// A set of header fields. Copies share until one of them changes.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    map: Arc<HeaderMap>,
    bytes: usize,
    immutable: bool,
}

/// Why a change was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldError {
    /// Not a header name or value (RFC 9110 §5), or beyond [`limits::HEADER_FIELDS`] or [`limits::HEADER_BYTES`].
    Invalid,
    /// A field that only the platform may set.
    Forbidden,
    /// These are fields of something that has been received or handed over.
    Immutable,
}

impl Fields {
    /// The fields of something received: they stay as they are.
    pub fn received(map: Arc<HeaderMap>) -> Self {
        Self {
            map,
            bytes: 0,
            immutable: true,
        }
    }

    /// The same fields, not to be changed any more.
    pub fn frozen(&self) -> Self {
        Self {
            immutable: true,
            ..self.clone()
        }
    }

    /// The same fields, open to changes.
    pub fn thawed(&self) -> Self {
        let bytes = self.map.iter().map(|(name, value)| size(name, value)).sum();
        Self {
            map: self.map.clone(),
            bytes,
            immutable: false,
        }
    }

    pub fn map(&self) -> &HeaderMap {
        &self.map
    }

    pub fn into_map(self) -> HeaderMap {
        Arc::unwrap_or_clone(self.map)
    }

    pub fn append(&mut self, name: &str, value: &[u8]) -> Result<(), FieldError> {
        let (name, value) = self.parse(name, value)?;
        let bytes = self.bytes + size(&name, &value);
        if bytes > limits::HEADER_BYTES.default.as_usize()
            || self.map.len() as u64 >= limits::HEADER_FIELDS.default
        {
            return Err(FieldError::Invalid);
        }
        Arc::make_mut(&mut self.map).append(name, value);
        self.bytes = bytes;
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Result<(), FieldError> {
        let (name, _) = self.parse(name, b"")?;
        let map = Arc::make_mut(&mut self.map);
        if let http::header::Entry::Occupied(entry) = map.entry(&name) {
            let (_, values) = entry.remove_entry_mult();
            self.bytes -= values.map(|value| size(&name, &value)).sum::<usize>();
        }
        Ok(())
    }

    fn parse(&self, name: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), FieldError> {
        if self.immutable {
            return Err(FieldError::Immutable);
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| FieldError::Invalid)?;
        if is_forbidden(&name) {
            return Err(FieldError::Forbidden);
        }
        let value = HeaderValue::from_bytes(value).map_err(|_| FieldError::Invalid)?;
        Ok((name, value))
    }
}

/// Whether only the platform may set this field, on requests, replies and in trailers alike: the fields that frame a
/// message or belong to one connection (RFC 9110 §7.6.1), and the platform's own.
pub fn is_forbidden(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    ) || name.as_str().starts_with("midge-")
        || name.as_str().starts_with("midge_")
}

/// What RFC 9113 §6.5.2 counts for a field.
fn size(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_frame_a_message_and_malformed_ones_are_refused() {
        let check = |name: &str, value: &str, expected| {
            assert_eq!(
                Fields::default().append(name, value.as_bytes()),
                expected,
                "{name}"
            );
        };
        check("x-a", "1", Ok(()));
        check("Content-Length", "5", Ok(()));
        check("Host", "x", Err(FieldError::Forbidden));
        check("transfer-encoding", "chunked", Err(FieldError::Forbidden));
        check("Midge-Error", "ok", Err(FieldError::Forbidden));
        check(":authority", "x", Err(FieldError::Invalid));
        check("a b", "x", Err(FieldError::Invalid));
        check("x", "a\r\nb", Err(FieldError::Invalid));
        check("x", "a\0b", Err(FieldError::Invalid));
    }

    #[test]
    fn fields_are_bounded_in_number_and_bytes() {
        let mut many = Fields::default();
        let taken = (0..40_000)
            .take_while(|i| many.append(&format!("x-{i}"), b"").is_ok())
            .count();
        assert_eq!(taken as u64, limits::HEADER_FIELDS.default);
        let mut large = Fields::default();
        assert_eq!(
            large.append("x", &vec![b'a'; 10 << 20]),
            Err(FieldError::Invalid)
        );
        for _ in 0..1000 {
            large.append("x", &[b'a'; 60_000]).unwrap();
            large.remove("x").unwrap();
        }
    }

    #[test]
    fn received_fields_stay_as_they_are() {
        let mut fields = Fields::received(Arc::default());
        assert_eq!(fields.append("x", b""), Err(FieldError::Immutable));
        assert_eq!(fields.remove("x"), Err(FieldError::Immutable));
        assert_eq!(fields.thawed().append("x", b""), Ok(()));
    }
}
