//! What the guests of key-value stores share: an operation by path, told in one line.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use crate::{Body, answer, decoded, query, segments};

/// A store, whichever interface opened it. Errors are told in the interface's own words.
pub trait Store: Sized {
    fn open(name: &str) -> Result<Self, String>;
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, String>;
    fn set(&self, key: &str, value: &[u8]) -> Result<(), String>;
    fn delete(&self, key: &str) -> Result<(), String>;
    fn exists(&self, key: &str) -> Result<bool, String>;
    /// Every key.
    fn list(&self) -> Result<Vec<String>, String>;

    fn increment(&self, _key: &str, _by: i64) -> Result<i64, String> {
        Err("this interface does not count".into())
    }

    fn get_many(&self, _keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, String> {
        Err("this interface reads one by one".into())
    }

    fn set_many(&self, _values: Vec<(String, Vec<u8>)>) -> Result<(), String> {
        Err("this interface writes one by one".into())
    }

    fn delete_many(&self, _keys: Vec<String>) -> Result<(), String> {
        Err("this interface deletes one by one".into())
    }

    /// Compares and sets; `between` is set by someone else after the value was seen. What was seen, and what became of it.
    fn swap(&self, _key: &str, _value: &[u8], _between: Option<&[u8]>) -> Result<String, String> {
        Err("this interface does not compare".into())
    }
}

/// What every interface does alike: calls on the handle that a [`Store`] wraps, whose errors `told` puts into words.
#[macro_export]
macro_rules! one_by_one {
    () => {
        fn get(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
            self.0.get(key).map_err(told)
        }

        fn set(&self, key: &str, value: &[u8]) -> Result<(), String> {
            self.0.set(key, value).map_err(told)
        }

        fn delete(&self, key: &str) -> Result<(), String> {
            self.0.delete(key).map_err(told)
        }

        fn exists(&self, key: &str) -> Result<bool, String> {
            self.0.exists(key).map_err(told)
        }
    };
}

/// `/OPERATION/STORE[/NUMBER]?KEY`, store and key percent-encoded, the value as the body.
pub fn handle<S: Store>(request: IncomingRequest, out: ResponseOutparam) {
    let parts = segments(&request);
    let key = query(&request);
    let operation = parts.first().map_or("", String::as_str);
    let store = &decoded(parts.get(1).map_or("", String::as_str));
    let number = parts.get(2).and_then(|text| text.parse().ok()).unwrap_or(0);
    let told = match operation {
        "held" => held::<S>(store, &key, || body(&request)),
        _ => run::<S>(operation, store, &key, number, &body(&request)),
    };
    match told {
        Ok(text) => answer(out, 200, &text),
        Err(text) => answer(out, 500, &text),
    }
}

fn body(request: &IncomingRequest) -> Vec<u8> {
    let mut body = Vec::new();
    let mut incoming = Body::of(request);
    let mut buffer = vec![0; 64 << 10];
    while let Some(length) = incoming.next(&mut buffer) {
        body.extend_from_slice(&buffer[..length]);
    }
    body
}

/// Opens a store and says so in it, then sets the key to a body that may come much later.
fn held<S: Store>(
    store: &str,
    key: &str,
    body: impl FnOnce() -> Vec<u8>,
) -> Result<String, String> {
    let store = S::open(store)?;
    store.set("held", b"open")?;
    store.set(key, &body())?;
    Ok("set".into())
}

fn run<S: Store>(
    operation: &str,
    store: &str,
    key: &str,
    number: i64,
    body: &[u8],
) -> Result<String, String> {
    let store = S::open(store)?;
    let lines = || {
        String::from_utf8_lossy(body)
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    Ok(match operation {
        "open" => "open".into(),
        "get" => match store.get(key)? {
            Some(value) => format!("value {}", text(&value)),
            None => "none".into(),
        },
        "length" => format!("{:?}", store.get(key)?.map(|value| value.len())),
        "set" => store.set(key, body).map(|()| "set".into())?,
        "fill" => store
            .set(key, &vec![b'x'; number as usize])
            .map(|()| "set".into())?,
        "long-key" => store
            .set(&"k".repeat(number as usize), body)
            .map(|()| "set".into())?,
        "delete" => store.delete(key).map(|()| "deleted".into())?,
        "exists" => store.exists(key)?.to_string(),
        "list" => store.list()?.join("\n"),
        "increment" => store.increment(key, number)?.to_string(),
        "get-many" => {
            let tell = |value: Option<Vec<u8>>| value.map_or("none".into(), |value| text(&value));
            let values = store.get_many(lines())?;
            values.into_iter().map(tell).collect::<Vec<_>>().join("\n")
        }
        "set-many" => {
            let pair = |line: String| {
                let (key, value) = line.split_once('=').unwrap_or((&line, ""));
                (key.to_owned(), value.as_bytes().to_vec())
            };
            let values = lines().into_iter().map(pair).collect();
            store.set_many(values).map(|()| "set".into())?
        }
        "delete-many" => store.delete_many(lines()).map(|()| "deleted".into())?,
        "swap" => store.swap(key, body, None)?,
        "swap-late" => store.swap(key, body, Some(b"theirs"))?,
        // Reads again and again.
        "hot" => {
            for done in 0..number {
                store
                    .get(key)
                    .map_err(|error| format!("after {done}: {error}"))?;
            }
            number.to_string()
        }
        _ => return Err("there is no such operation".into()),
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
