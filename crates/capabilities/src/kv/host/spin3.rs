//! `spin:key-value@3.0.0`, whose calls are asynchronous.

use wasmtime::component::{Accessor, FutureReader, Linker, Resource, StreamReader};

use super::{Bucket, Call, Kv, KvData, KvView, Refused};
use bindings::spin::key_value::key_value::{self, Error};

mod bindings {
    wasmtime::component::bindgen!({
        path: "src/kv/wit/spin3",
        world: "host",
        imports: {
            "spin:key-value/key-value.[static]store.open": store | trappable,
            "spin:key-value/key-value.[method]store.get": store | trappable,
            "spin:key-value/key-value.[method]store.set": store | trappable,
            "spin:key-value/key-value.[method]store.delete": store | trappable,
            "spin:key-value/key-value.[method]store.exists": store | trappable,
            "spin:key-value/key-value.[method]store.get-keys": store | trappable,
            default: trappable,
        },
        with: { "spin:key-value/key-value.store": crate::kv::host::Bucket },
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

/// Makes a call on an open store, while other calls of the guest go on.
async fn on<T: KvData, R, F: Future<Output = Result<R, Refused>>>(
    accessor: &Accessor<T, Kv>,
    store: Resource<Bucket>,
    name: &'static str,
    ask: impl FnOnce(Call) -> F,
) -> Answer<R> {
    let begun = accessor.with(|mut access| {
        let mut view = access.get();
        let store = view.table.get(&store)?.store.clone();
        wasmtime::error::Ok(view.begin(store, name))
    })?;
    let call = match begun {
        Ok(call) => call,
        Err(refused) => return Ok(Err(refused.into())),
    };
    let told = call.told;
    let result = ask(call).await;
    accessor.with(|mut access| access.get().tell(told));
    Ok(result.map_err(Error::from))
}

impl key_value::Host for KvView<'_> {}

impl key_value::HostStore for KvView<'_> {
    fn drop(&mut self, store: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(store)?;
        Ok(())
    }
}

impl<T: KvData> key_value::HostStoreWithStore<T> for Kv {
    async fn open(accessor: &Accessor<T, Self>, label: String) -> Answer<Resource<Bucket>> {
        accessor.with(|mut access| {
            let mut view = access.get();
            Ok(match view.open(&label) {
                Ok(bucket) => Ok(view.table.push(bucket)?),
                Err(refused) => Err(refused.into()),
            })
        })
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        store: Resource<Bucket>,
        key: String,
    ) -> Answer<Option<Vec<u8>>> {
        on(accessor, store, "kv.get", |call| async move {
            Ok(call.get(&key).await?.map(|item| item.value.into()))
        })
        .await
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        store: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Answer<()> {
        on(accessor, store, "kv.set", |call| async move {
            call.set(key, value).await
        })
        .await
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        store: Resource<Bucket>,
        key: String,
    ) -> Answer<()> {
        on(accessor, store, "kv.delete", |call| async move {
            call.delete(key).await
        })
        .await
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        store: Resource<Bucket>,
        key: String,
    ) -> Answer<bool> {
        on(accessor, store, "kv.exists", |call| async move {
            call.exists(&key).await
        })
        .await
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        store: Resource<Bucket>,
    ) -> wasmtime::Result<(StreamReader<String>, FutureReader<Result<(), Error>>)> {
        let listed = on(accessor, store, "kv.list", |call| async move {
            call.keys().await
        })
        .await?;
        let (keys, end) = match listed {
            Ok(keys) => (keys, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        accessor.with(|mut access| {
            let keys = StreamReader::new(&mut access, keys)?;
            let end = FutureReader::new(&mut access, async { wasmtime::error::Ok(end) })?;
            Ok((keys, end))
        })
    }
}
