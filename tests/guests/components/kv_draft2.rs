//! Key-value stores through `wasi:keyvalue@0.2.0-draft2`.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guests:kv;
            world kv {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
            }
            package wasi:keyvalue@0.2.0-draft2 {
                interface store {
                  variant error {
                    no-such-store,
                    access-denied,
                    other(string),
                  }
                  record key-response {
                    keys: list<string>,
                    cursor: option<string>,
                  }
                  open: func(identifier: string) -> result<bucket, error>;
                  resource bucket {
                    get: func(key: string) -> result<option<list<u8>>, error>;
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                    delete: func(key: string) -> result<_, error>;
                    exists: func(key: string) -> result<bool, error>;
                    list-keys: func(cursor: option<string>) -> result<key-response, error>;
                  }
                }
                interface atomics {
                  use store.{bucket, error};
                  variant cas-error {
                    store-error(error),
                    cas-failed(cas),
                  }
                  resource cas {
                    new: static func(bucket: borrow<bucket>, key: string) -> result<cas, error>;
                    current: func() -> result<option<list<u8>>, error>;
                  }
                  increment: func(bucket: borrow<bucket>, key: string, delta: s64) -> result<s64, error>;
                  swap: func(cas: cas, value: list<u8>) -> result<_, cas-error>;
                }
                interface batch {
                  use store.{bucket, error};
                  get-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<list<tuple<string, option<list<u8>>>>, error>;
                  set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>) -> result<_, error>;
                  delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
                }
            }
        ",
        generate_all,
    });
}

use bindings::wasi::keyvalue::store::{self, Error};
use bindings::wasi::keyvalue::{atomics, batch};

guests::handler!(guests::kv::handle::<Bucket>);

struct Bucket(store::Bucket);

fn told(error: Error) -> String {
    match error {
        Error::NoSuchStore => "no-such-store".into(),
        Error::AccessDenied => "access-denied".into(),
        Error::Other(text) => text,
    }
}

impl guests::kv::Store for Bucket {
    fn open(name: &str) -> Result<Self, String> {
        store::open(name).map(Self).map_err(told)
    }

    guests::one_by_one!();

    fn list(&self) -> Result<Vec<String>, String> {
        let mut keys = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.0.list_keys(cursor.as_deref()).map_err(told)?;
            keys.extend(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(keys);
            }
        }
    }

    fn increment(&self, key: &str, by: i64) -> Result<i64, String> {
        atomics::increment(&self.0, key, by).map_err(told)
    }

    fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, String> {
        let found = batch::get_many(&self.0, &keys).map_err(told)?;
        assert!(keys.iter().eq(found.iter().map(|(key, _)| key)));
        Ok(found.into_iter().map(|(_, value)| value).collect())
    }

    fn swap(&self, key: &str, value: &[u8], between: Option<&[u8]>) -> Result<String, String> {
        let cas = atomics::Cas::new(&self.0, key).map_err(told)?;
        let seen = cas.current().map_err(told)?;
        let seen = seen.map_or("none".into(), |seen| {
            String::from_utf8_lossy(&seen).into_owned()
        });
        if let Some(between) = between {
            self.set(key, between)?;
        }
        match atomics::swap(cas, value) {
            Ok(()) => Ok(format!("saw {seen}, swapped")),
            Err(atomics::CasError::StoreError(error)) => Err(told(error)),
            Err(atomics::CasError::CasFailed(again)) => {
                let now = again.current().map_err(told)?.unwrap_or_default();
                let now = String::from_utf8_lossy(&now).into_owned();
                match atomics::swap(again, value) {
                    Ok(()) => Ok(format!("saw {seen}, then {now}, swapped")),
                    Err(_) => Err("it failed twice".into()),
                }
            }
        }
    }

    fn set_many(&self, values: Vec<(String, Vec<u8>)>) -> Result<(), String> {
        batch::set_many(&self.0, &values).map_err(told)
    }

    fn delete_many(&self, keys: Vec<String>) -> Result<(), String> {
        batch::delete_many(&self.0, &keys).map_err(told)
    }
}
