//! `wasi:config/store` in its three living versions, which have the same two functions.

use wasmtime::component::{HasData, Linker};

use super::Values;
use crate::calls::{CallSink, told};

mod draft {
    wasmtime::component::bindgen!({ path: "src/config/wit/draft.wit", world: "host", require_store_data_send: true });
}
mod dated {
    wasmtime::component::bindgen!({ path: "src/config/wit/dated.wit", world: "host", require_store_data_send: true });
}
mod candidate {
    wasmtime::component::bindgen!({ path: "src/config/wit/candidate.wit", world: "host", require_store_data_send: true });
}

/// Access to a store's configuration values.
pub struct ConfigView<'a> {
    pub values: &'a Values,
    /// Who hears of calls, if anyone.
    pub calls: Option<&'a dyn CallSink>,
}

/// A store's data that has configuration values.
pub trait ConfigData: Send + 'static {
    fn config(&mut self) -> ConfigView<'_>;
}

struct ConfigHost;

impl HasData for ConfigHost {
    type Data<'a> = ConfigView<'a>;
}

/// Lends every version of `wasi:config/store`.
pub fn add_to_linker<T: ConfigData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    draft::wasi::config::store::add_to_linker::<T, ConfigHost>(linker, T::config)?;
    dated::wasi::config::store::add_to_linker::<T, ConfigHost>(linker, T::config)?;
    candidate::wasi::config::store::add_to_linker::<T, ConfigHost>(linker, T::config)
}

macro_rules! serve {
    ($version:ident) => {
        impl $version::wasi::config::store::Host for ConfigView<'_> {
            fn get(
                &mut self,
                key: String,
            ) -> Result<Option<String>, $version::wasi::config::store::Error> {
                let get = || self.values.get(&key).cloned();
                Ok(told(self.calls, "config.get", get))
            }

            fn get_all(
                &mut self,
            ) -> Result<Vec<(String, String)>, $version::wasi::config::store::Error> {
                let values = self.values.iter();
                let get = || values.map(|(key, value)| (key.clone(), value.clone()));
                Ok(told(self.calls, "config.get-all", || get().collect()))
            }
        }
    };
}
serve!(draft);
serve!(dated);
serve!(candidate);
