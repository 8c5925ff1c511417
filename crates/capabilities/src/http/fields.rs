//! Header fields as guests hold them: bounded, well formed, and without the ones that frame a message.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use model::limits;

use super::{Held, HostMemory, HostMemoryLimit};

/// A set of header fields.
#[derive(Debug)]
pub struct Fields {
    section: Arc<Section>,
    immutable: bool,
}

/// Shared only by fields that stay as they are.
#[derive(Debug, Default)]
struct Section {
    map: HeaderMap,
    /// What was made here; what was received is not the guest's to account for.
    held: Option<Held>,
    bytes: usize,
    /// The most fields, and the most bytes, there have been: a map keeps its room.
    most: (usize, usize),
}

/// What a field takes beside what [`size`] counts: its place in the map, and two allocations.
const ENTRY: usize = 256;

/// Why a change was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldError {
    /// Not a header name or value (RFC 9110 §5).
    Invalid,
    /// Beyond [`limits::HEADER_FIELDS`] or [`limits::HEADER_BYTES`].
    TooLarge,
    /// A field that only the platform may set.
    Forbidden,
    /// These are fields of something that has been received or handed over.
    Immutable,
    /// They would be more than the host holds for one invocation.
    HostMemory(HostMemoryLimit),
}

impl Fields {
    /// None yet.
    pub fn new(memory: &HostMemory) -> Result<Self, HostMemoryLimit> {
        Self::made(memory, HeaderMap::new(), 0)
    }

    /// The fields of something received: they stay as they are.
    pub fn received(map: HeaderMap) -> Self {
        Self {
            section: Arc::new(Section {
                map,
                ..Section::default()
            }),
            immutable: true,
        }
    }

    /// The same, counted for who has received them.
    pub fn received_by(map: HeaderMap, held: Held) -> Self {
        let mut fields = Self::received(map);
        fields.open().held = Some(held);
        fields
    }

    /// Trailers behind a body, counted for who reads it.
    pub fn trailing(map: HeaderMap, memory: &HostMemory) -> Result<Self, HostMemoryLimit> {
        let bytes: usize = map.iter().map(|(name, value)| size(name, value)).sum();
        let held = memory.hold(map.len() * ENTRY + bytes)?;
        Ok(Self::received_by(map, held))
    }

    fn made(memory: &HostMemory, map: HeaderMap, bytes: usize) -> Result<Self, HostMemoryLimit> {
        let most = (map.len(), bytes);
        let held = memory.hold(map.len() * ENTRY + bytes)?;
        Ok(Self {
            section: Arc::new(Section {
                map,
                held: Some(held),
                bytes,
                most,
            }),
            immutable: false,
        })
    }

    /// The same fields, not to be changed any more.
    pub fn frozen(self) -> Self {
        Self {
            immutable: true,
            ..self
        }
    }

    /// A second handle of frozen fields.
    pub fn shared(&self) -> Self {
        assert!(self.immutable, "fields that change are nobody else's");
        Self {
            section: self.section.clone(),
            immutable: true,
        }
    }

    /// A copy that is open to changes.
    pub fn thawed(&self, memory: &HostMemory) -> Result<Self, HostMemoryLimit> {
        let map = self.map();
        let bytes = map.iter().map(|(name, value)| size(name, value)).sum();
        Self::made(memory, map.clone(), bytes)
    }

    pub fn map(&self) -> &HeaderMap {
        &self.section.map
    }

    /// The values of the field `name`, in order.
    pub fn values(&self, name: &str) -> Vec<Vec<u8>> {
        let values = self.map().get_all(name).into_iter();
        values.map(|value| value.as_bytes().to_vec()).collect()
    }

    /// Every name and value.
    pub fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let entries = self.map().iter();
        entries
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect()
    }

    pub fn into_map(self) -> HeaderMap {
        match Arc::try_unwrap(self.section) {
            Ok(section) => section.map,
            Err(shared) => shared.map.clone(),
        }
    }

    pub fn append(&mut self, name: &str, value: &[u8]) -> Result<(), FieldError> {
        let name = self.name(name)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| FieldError::Invalid)?;
        let section = self.open();
        section.resize(section.map.len() + 1, section.bytes + size(&name, &value))?;
        section.map.append(name, value);
        Ok(())
    }

    /// Puts these values in the place of those that the field has; all of them or none.
    pub fn set(&mut self, name: &str, values: &[Vec<u8>]) -> Result<(), FieldError> {
        let name = self.name(name)?;
        let values: Vec<HeaderValue> = values
            .iter()
            .map(|value| HeaderValue::from_bytes(value).map_err(|_| FieldError::Invalid))
            .collect::<Result<_, _>>()?;
        let section = self.open();
        let bytes = |value: &HeaderValue| size(&name, value);
        let before: Vec<usize> = section.map.get_all(&name).iter().map(bytes).collect();
        let after: usize = values.iter().map(bytes).sum();
        section.resize(
            section.map.len() - before.len() + values.len(),
            section.bytes - before.iter().sum::<usize>() + after,
        )?;
        section.map.remove(&name);
        for value in values {
            section.map.append(&name, value);
        }
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Result<(), FieldError> {
        self.set(name, &[])
    }

    /// A name that may be changed in these fields.
    fn name(&self, name: &str) -> Result<HeaderName, FieldError> {
        if self.immutable {
            return Err(FieldError::Immutable);
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| FieldError::Invalid)?;
        if is_forbidden(&name) {
            return Err(FieldError::Forbidden);
        }
        Ok(name)
    }

    fn open(&mut self) -> &mut Section {
        Arc::get_mut(&mut self.section).expect("fields that change are nobody else's")
    }
}

impl Section {
    /// Counts so many fields of so many bytes, unless they are more than before and too many.
    fn resize(&mut self, fields: usize, bytes: usize) -> Result<(), FieldError> {
        let too_many = fields as u64 > limits::HEADER_FIELDS.default && fields > self.map.len();
        let too_long = bytes > limits::HEADER_BYTES.default.as_usize() && bytes > self.bytes;
        if too_many || too_long {
            return Err(FieldError::TooLarge);
        }
        self.most = (self.most.0.max(fields), self.most.1.max(bytes));
        if let Some(held) = &mut self.held {
            let cost = self.most.0 * ENTRY + self.most.1;
            held.resize(cost).map_err(FieldError::HostMemory)?;
        }
        self.bytes = bytes;
        Ok(())
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

    fn empty() -> Fields {
        Fields::new(&HostMemory::default()).unwrap()
    }

    #[test]
    fn fields_that_frame_a_message_and_malformed_ones_are_refused() {
        let check = |name: &str, value: &str, expected| {
            assert_eq!(empty().append(name, value.as_bytes()), expected, "{name}");
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
        let mut many = empty();
        let taken = (0..40_000)
            .take_while(|i| many.append(&format!("x-{i}"), b"").is_ok())
            .count();
        assert_eq!(taken as u64, limits::HEADER_FIELDS.default);
        let mut large = empty();
        assert_eq!(
            large.append("x", &vec![b'a'; 10 << 20]),
            Err(FieldError::TooLarge)
        );
        for _ in 0..1000 {
            large.append("x", &[b'a'; 60_000]).unwrap();
            large.remove("x").unwrap();
        }
    }

    #[test]
    fn values_are_replaced_all_or_none() {
        let mut fields = empty();
        fields.append("x", b"1").unwrap();
        fields.append("x", b"2").unwrap();
        let bad = [b"3".to_vec(), b"4\n".to_vec()];
        assert_eq!(fields.set("x", &bad), Err(FieldError::Invalid));
        let long = [vec![b'5'; 60_000], vec![b'6'; 60_000]];
        assert_eq!(fields.set("x", &long), Err(FieldError::TooLarge));
        assert_eq!(fields.values("x"), [b"1", b"2"]);
        fields.set("X", &[b"7".to_vec(), b"8".to_vec()]).unwrap();
        assert_eq!(fields.values("x"), [b"7", b"8"]);
        fields.set("x", &[]).unwrap();
        assert!(fields.map().is_empty());
    }

    #[test]
    fn received_fields_stay_as_they_are() {
        let mut fields = Fields::received(HeaderMap::new());
        assert_eq!(fields.append("x", b""), Err(FieldError::Immutable));
        assert_eq!(fields.remove("x"), Err(FieldError::Immutable));
        let mut thawed = fields.thawed(&HostMemory::default()).unwrap();
        assert_eq!(thawed.append("x", b""), Ok(()));
    }

    #[test]
    fn what_copies_have_is_held_until_the_last_is_gone() {
        let memory = HostMemory::default();
        let mut fields = Fields::new(&memory).unwrap();
        fields.append("x", &[b'a'; 60_000]).unwrap();
        let fields = fields.frozen();
        let second = fields.shared();
        let most = limits::HOST_MEMORY.default.as_usize();
        drop(fields);
        assert!(memory.hold(most - 60_000).is_err());
        let copies: Vec<Fields> = (0..).map_while(|_| second.thawed(&memory).ok()).collect();
        assert_eq!(copies.len(), most / 60_033 - 1);
        drop((second, copies));
        assert!(memory.hold(most).is_ok());
    }
}
