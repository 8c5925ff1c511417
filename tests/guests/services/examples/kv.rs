//! Key-value stores through `spin:key-value@3.0.0`: `/OPERATION/STORE?KEY`, the value as the body.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guests:kv;
            world kv { import spin:key-value/key-value@3.0.0; }
            package spin:key-value@3.0.0 {
                interface key-value {
                    resource store {
                        open: static async func(label: string) -> result<store, error>;
                        get: async func(key: string) -> result<option<list<u8>>, error>;
                        set: async func(key: string, value: list<u8>) -> result<_, error>;
                        delete: async func(key: string) -> result<_, error>;
                        exists: async func(key: string) -> result<bool, error>;
                        get-keys: async func() -> tuple<stream<string>, future<result<_, error>>>;
                    }
                    variant error { store-table-full, no-such-store, access-denied, other(string) }
                }
            }
        ",
        generate_all,
    });
}

use bindings::spin::key_value::key_value::{Error, Store};
use services::{Received, answer, segments};

services::service!(handle);

async fn handle(request: services::Request) -> services::Answer {
    let parts = segments(&request);
    let path = request.get_path_with_query().unwrap_or_default();
    let key = path.split_once('?').map_or("", |(_, key)| key).to_owned();
    let mut value = Vec::new();
    let mut received = Received::of(request);
    while let Some(piece) = received.next().await {
        value.extend(piece);
    }
    match run(&parts[0], &parts[1], key, value).await {
        Ok(text) => answer(200, &text),
        Err(Error::StoreTableFull) => answer(500, "store-table-full"),
        Err(Error::NoSuchStore) => answer(500, "no-such-store"),
        Err(Error::AccessDenied) => answer(500, "access-denied"),
        Err(Error::Other(text)) => answer(500, &text),
    }
}

async fn run(operation: &str, store: &str, key: String, value: Vec<u8>) -> Result<String, Error> {
    let store = Store::open(store.to_owned()).await?;
    Ok(match operation {
        "get" => match store.get(key).await? {
            Some(value) => format!("value {}", String::from_utf8_lossy(&value)),
            None => "none".into(),
        },
        "set" => store.set(key, value).await.map(|()| "set".into())?,
        "delete" => store.delete(key).await.map(|()| "deleted".into())?,
        "exists" => store.exists(key).await?.to_string(),
        "list" => {
            let (keys, end) = store.get_keys().await;
            let keys = keys.collect().await;
            end.await?;
            keys.join("\n")
        }
        operation => return Err(Error::Other(format!("there is no operation {operation}"))),
    })
}
