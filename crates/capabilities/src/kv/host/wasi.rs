//! `wasi:keyvalue` at `0.2.0-draft` and at `0.2.0-draft2`, the latter as Spin's SDKs have it.

use std::sync::Arc;

use model::{Expect, KvError, StoreId};
use wasmtime::component::{Linker, Resource};

use super::{Bucket, Kv, KvData, KvView, Refused, delete, set};

mod draft {
    wasmtime::component::bindgen!({
        path: "src/kv/wit/draft",
        world: "host",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": crate::kv::host::Bucket },
        require_store_data_send: true,
    });

    pub struct Found;
}

mod draft2 {
    wasmtime::component::bindgen!({
        path: "src/kv/wit/draft2",
        world: "host",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::kv::host::Bucket,
            "wasi:keyvalue/atomics.cas": super::Cas,
        },
        require_store_data_send: true,
    });

    pub struct Found;
}

pub fn add_to_linker<T: KvData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    draft::wasi::keyvalue::store::add_to_linker::<T, Kv>(linker, T::kv)?;
    draft::wasi::keyvalue::atomics::add_to_linker::<T, Kv>(linker, T::kv)?;
    draft::wasi::keyvalue::batch::add_to_linker::<T, Kv>(linker, T::kv)?;
    draft2::wasi::keyvalue::store::add_to_linker::<T, Kv>(linker, T::kv)?;
    draft2::wasi::keyvalue::atomics::add_to_linker::<T, Kv>(linker, T::kv)?;
    draft2::wasi::keyvalue::batch::add_to_linker::<T, Kv>(linker, T::kv)
}

type Answer<R, E> = wasmtime::Result<Result<R, E>>;

/// What a compare-and-set compares with: what its guest saw last.
pub struct Cas {
    store: Arc<StoreId>,
    key: String,
    seen: Expect,
}

/// What both versions have alike.
macro_rules! serve {
    ($version:ident, $cursor:ty) => {
        impl From<Refused> for $version::wasi::keyvalue::store::Error {
            fn from(refused: Refused) -> Self {
                refused.words().map_or(Self::AccessDenied, Self::Other)
            }
        }

        impl $version::wasi::keyvalue::store::Host for KvView<'_> {
            async fn open(
                &mut self,
                name: String,
            ) -> Answer<Resource<Bucket>, $version::wasi::keyvalue::store::Error> {
                Ok(match KvView::open(self, &name) {
                    Ok(bucket) => Ok(self.table.push(bucket)?),
                    Err(refused) => Err(refused.into()),
                })
            }
        }

        impl $version::wasi::keyvalue::store::HostBucket for KvView<'_> {
            async fn get(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> Answer<Option<Vec<u8>>, $version::wasi::keyvalue::store::Error> {
                self.on(&bucket, "kv.get", |call| async move {
                    Ok(call.get(&key).await?.map(|item| item.value.into()))
                })
                .await
            }

            async fn set(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
                value: Vec<u8>,
            ) -> Answer<(), $version::wasi::keyvalue::store::Error> {
                self.on(&bucket, "kv.set", |call| async move {
                    call.set(key, value).await
                })
                .await
            }

            async fn delete(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> Answer<(), $version::wasi::keyvalue::store::Error> {
                self.on(&bucket, "kv.delete", |call| async move {
                    call.delete(key).await
                })
                .await
            }

            async fn exists(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> Answer<bool, $version::wasi::keyvalue::store::Error> {
                self.on(&bucket, "kv.exists", |call| async move {
                    call.exists(&key).await
                })
                .await
            }

            async fn list_keys(
                &mut self,
                bucket: Resource<Bucket>,
                cursor: Option<$cursor>,
            ) -> Answer<
                $version::wasi::keyvalue::store::KeyResponse,
                $version::wasi::keyvalue::store::Error,
            > {
                let after = match cursor {
                    None => None,
                    Some(cursor) => match cursor.place(self.table.get(&bucket)?) {
                        Some(key) => Some(key),
                        None => return Ok(Err(old_cursor().into())),
                    },
                };
                let listed = self
                    .on(&bucket, "kv.list", |call| async move {
                        call.page(after.as_deref()).await
                    })
                    .await?;
                let page = match listed {
                    Ok(page) => page,
                    Err(error) => return Ok(Err(error)),
                };
                let last = page.keys.last().filter(|_| page.more).cloned();
                let bucket = self.table.get_mut(&bucket)?;
                Ok(Ok($version::wasi::keyvalue::store::KeyResponse {
                    keys: page.keys,
                    cursor: last.map(|last| <$cursor as Cursor>::after(bucket, last)),
                }))
            }

            async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }
        }

        impl $version::wasi::keyvalue::batch::Host for KvView<'_> {
            async fn get_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> Answer<
                Vec<<$version::Found as Found>::One>,
                $version::wasi::keyvalue::store::Error,
            > {
                self.on(&bucket, "kv.get-many", |call| async move {
                    let values = call.get_many(&keys).await?;
                    let found = keys.into_iter().zip(values);
                    let one = |(key, value): (_, Option<bytes::Bytes>)| {
                        <$version::Found as Found>::one(key, value.map(Vec::from))
                    };
                    Ok(found.map(one).collect())
                })
                .await
            }

            async fn set_many(
                &mut self,
                bucket: Resource<Bucket>,
                values: Vec<(String, Vec<u8>)>,
            ) -> Answer<(), $version::wasi::keyvalue::store::Error> {
                self.on(&bucket, "kv.set-many", |call| async move {
                    let changes = values
                        .into_iter()
                        .map(|(key, value)| set(key, value, Expect::Anything));
                    call.change(changes.collect()).await.map(drop)
                })
                .await
            }

            async fn delete_many(
                &mut self,
                bucket: Resource<Bucket>,
                keys: Vec<String>,
            ) -> Answer<(), $version::wasi::keyvalue::store::Error> {
                self.on(&bucket, "kv.delete-many", |call| async move {
                    let changes = keys.into_iter().map(delete);
                    call.change(changes.collect()).await.map(drop)
                })
                .await
            }
        }
    };
}

/// Where a page begins, as a version says it.
trait Cursor: Sized {
    /// The key that it begins after; none if the bucket does not know.
    fn place(&self, bucket: &Bucket) -> Option<String>;
    fn after(bucket: &mut Bucket, last: String) -> Self;
}

impl Cursor for u64 {
    fn place(&self, bucket: &Bucket) -> Option<String> {
        bucket.key_of(*self).map(str::to_owned)
    }

    fn after(bucket: &mut Bucket, last: String) -> Self {
        bucket.cursor(last)
    }
}

impl Cursor for String {
    fn place(&self, _: &Bucket) -> Option<String> {
        Some(self.clone())
    }

    fn after(_: &mut Bucket, last: String) -> Self {
        last
    }
}

fn old_cursor() -> Refused {
    Refused::Text("the cursor is of another listing, or of one that was left long ago".to_owned())
}

/// How a version answers for one of several keys.
trait Found {
    type One: Send;
    fn one(key: String, value: Option<Vec<u8>>) -> Self::One;
}

impl Found for draft::Found {
    type One = Option<(String, Vec<u8>)>;

    fn one(key: String, value: Option<Vec<u8>>) -> Self::One {
        value.map(|value| (key, value))
    }
}

impl Found for draft2::Found {
    type One = (String, Option<Vec<u8>>);

    fn one(key: String, value: Option<Vec<u8>>) -> Self::One {
        (key, value)
    }
}

serve!(draft, u64);
serve!(draft2, String);

impl draft::wasi::keyvalue::atomics::Host for KvView<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Answer<u64, draft::wasi::keyvalue::store::Error> {
        self.on(&bucket, "kv.increment", |call| async move {
            let delta = i64::try_from(delta).map_err(|_| KvError::Overflow)?;
            let sum = call.increment(key, delta).await?;
            u64::try_from(sum).map_err(|_| Refused::from(KvError::Overflow))
        })
        .await
    }
}

type Error2 = draft2::wasi::keyvalue::store::Error;
type CasError = draft2::wasi::keyvalue::atomics::CasError;

impl draft2::wasi::keyvalue::atomics::Host for KvView<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Answer<i64, Error2> {
        self.on(&bucket, "kv.increment", |call| async move {
            call.increment(key, delta).await
        })
        .await
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), CasError>> {
        let Cas { store, key, seen } = self.table.delete(cas)?;
        let call = match self.begin(store.clone(), "kv.swap") {
            Ok(call) => call,
            Err(refused) => return Ok(Err(CasError::StoreError(refused.into()))),
        };
        let result = call.change(vec![set(key.clone(), value, seen)]).await;
        // Who lost is handed what won, to try again with.
        let newest = match &result {
            Err(Refused::Error(KvError::Changed)) => Some(call.get(&key).await),
            _ => None,
        };
        self.tell(call.told);
        Ok(match (result, newest) {
            (Ok(_), _) => Ok(()),
            (Err(_), Some(Ok(item))) => {
                let seen = expect(item.as_ref());
                Err(CasError::CasFailed(self.table.push(Cas {
                    store,
                    key,
                    seen,
                })?))
            }
            (Err(refused), None) | (Err(_), Some(Err(refused))) => {
                Err(CasError::StoreError(refused.into()))
            }
        })
    }
}

impl draft2::wasi::keyvalue::atomics::HostCas for KvView<'_> {
    async fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> Answer<Resource<Cas>, Error2> {
        let store = self.table.get(&bucket)?.store.clone();
        let name = key.clone();
        let seen = self
            .on::<_, Error2, _>(
                &bucket,
                "kv.get",
                |call| async move { call.get(&name).await },
            )
            .await?;
        Ok(match seen {
            Ok(item) => {
                let seen = expect(item.as_ref());
                Ok(self.table.push(Cas { store, key, seen })?)
            }
            Err(error) => Err(error),
        })
    }

    async fn current(&mut self, cas: Resource<Cas>) -> Answer<Option<Vec<u8>>, Error2> {
        let Cas { store, key, .. } = self.table.get(&cas)?;
        let (store, key) = (store.clone(), key.clone());
        let call = match self.begin(store, "kv.get") {
            Ok(call) => call,
            Err(refused) => return Ok(Err(refused.into())),
        };
        let found = call.get(&key).await;
        self.tell(call.told);
        Ok(match found {
            Ok(item) => {
                self.table.get_mut(&cas)?.seen = expect(item.as_ref());
                Ok(item.map(|item| item.value.into()))
            }
            Err(refused) => Err(refused.into()),
        })
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        self.table.delete(cas)?;
        Ok(())
    }
}

fn expect(seen: Option<&model::Item>) -> Expect {
    seen.map_or(Expect::Absent, |item| Expect::Revision(item.revision))
}
