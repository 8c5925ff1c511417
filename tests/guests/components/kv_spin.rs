//! Key-value stores through `fermyon:spin/key-value@2.0.0`.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guests:kv;
            world kv { import fermyon:spin/key-value@2.0.0; }
            package fermyon:spin@2.0.0 {
                interface key-value {
                    resource store {
                        open: static func(label: string) -> result<store, error>;
                        get: func(key: string) -> result<option<list<u8>>, error>;
                        set: func(key: string, value: list<u8>) -> result<_, error>;
                        delete: func(key: string) -> result<_, error>;
                        exists: func(key: string) -> result<bool, error>;
                        get-keys: func() -> result<list<string>, error>;
                    }
                    variant error { store-table-full, no-such-store, access-denied, other(string) }
                }
            }
        ",
        generate_all,
    });
}

use bindings::fermyon::spin::key_value::{Error, Store};

guests::handler!(guests::kv::handle::<Bucket>);

struct Bucket(Store);

fn told(error: Error) -> String {
    match error {
        Error::StoreTableFull => "store-table-full".into(),
        Error::NoSuchStore => "no-such-store".into(),
        Error::AccessDenied => "access-denied".into(),
        Error::Other(text) => text,
    }
}

impl guests::kv::Store for Bucket {
    fn open(name: &str) -> Result<Self, String> {
        Store::open(name).map(Self).map_err(told)
    }

    guests::one_by_one!();

    fn list(&self) -> Result<Vec<String>, String> {
        self.0.get_keys().map_err(told)
    }
}
