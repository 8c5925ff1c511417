//! Key-value stores through `wasi:keyvalue@0.2.0-draft`.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guests:kv;
            world kv {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
            }
            package wasi:keyvalue@0.2.0-draft {
                interface store {
                  variant error {
                    no-such-store,
                    access-denied,
                    other(string),
                  }
                  record key-response {
                    keys: list<string>,
                    cursor: option<u64>,
                  }
                  open: func(identifier: string) -> result<bucket, error>;
                  resource bucket {
                    get: func(key: string) -> result<option<list<u8>>, error>;
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                    delete: func(key: string) -> result<_, error>;
                    exists: func(key: string) -> result<bool, error>;
                    list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                  }
                }
                interface atomics {
                  use store.{bucket, error};
                  increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>;
                }
                interface batch {
                  use store.{bucket, error};
                  get-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<list<option<tuple<string, list<u8>>>>, error>;
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
            let page = self.0.list_keys(cursor).map_err(told)?;
            keys.extend(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(keys);
            }
        }
    }

    fn increment(&self, key: &str, by: i64) -> Result<i64, String> {
        let sum = atomics::increment(&self.0, key, by as u64).map_err(told)?;
        Ok(sum as i64)
    }

    fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, String> {
        let found = batch::get_many(&self.0, &keys).map_err(told)?;
        for (key, found) in keys.iter().zip(&found) {
            assert!(found.as_ref().is_none_or(|(found, _)| found == key));
        }
        Ok(found.into_iter().map(|found| Some(found?.1)).collect())
    }

    fn set_many(&self, values: Vec<(String, Vec<u8>)>) -> Result<(), String> {
        batch::set_many(&self.0, &values).map_err(told)
    }

    fn delete_many(&self, keys: Vec<String>) -> Result<(), String> {
        batch::delete_many(&self.0, &keys).map_err(told)
    }
}
