//! `fermyon:spin/key-value@2.0.0`, which Spin's SDKs import up to the fifth of Rust's.

use wasmtime::component::{Linker, Resource};

use super::{Bucket, Kv, KvData, KvView, Refused};
use bindings::fermyon::spin::key_value::{self, Error};

mod bindings {
    wasmtime::component::bindgen!({
        path: "src/kv/wit/spin2",
        world: "host",
        imports: { default: async | trappable },
        with: { "fermyon:spin/key-value.store": crate::kv::host::Bucket },
        require_store_data_send: true,
    });
}

pub fn add_to_linker<T: KvData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    key_value::add_to_linker::<T, Kv>(linker, T::kv)
}

type Answer<R> = wasmtime::Result<Result<R, Error>>;

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.words().map_or(Self::AccessDenied, Self::Other)
    }
}

impl key_value::Host for KvView<'_> {}

impl key_value::HostStore for KvView<'_> {
    async fn open(&mut self, label: String) -> Answer<Resource<Bucket>> {
        Ok(match KvView::open(self, &label) {
            Ok(bucket) => Ok(self.table.push(bucket)?),
            Err(refused) => Err(refused.into()),
        })
    }

    async fn get(&mut self, store: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        self.on(&store, "kv.get", |call| async move {
            Ok(call.get(&key).await?.map(|item| item.value.into()))
        })
        .await
    }

    async fn set(&mut self, store: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        self.on(&store, "kv.set", |call| async move {
            call.set(key, value).await
        })
        .await
    }

    async fn delete(&mut self, store: Resource<Bucket>, key: String) -> Answer<()> {
        self.on(
            &store,
            "kv.delete",
            |call| async move { call.delete(key).await },
        )
        .await
    }

    async fn exists(&mut self, store: Resource<Bucket>, key: String) -> Answer<bool> {
        self.on(&store, "kv.exists", |call| async move {
            call.exists(&key).await
        })
        .await
    }

    async fn get_keys(&mut self, store: Resource<Bucket>) -> Answer<Vec<String>> {
        self.on(&store, "kv.list", |call| async move { call.keys().await })
            .await
    }

    async fn drop(&mut self, store: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(store)?;
        Ok(())
    }
}
