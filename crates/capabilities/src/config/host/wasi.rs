//! `wasi:config/store` in its three living versions, which have the same two functions.

use wasmtime::component::Linker;

use super::{Config, ConfigData, ConfigView};

mod draft {
    wasmtime::component::bindgen!({ path: "src/config/wit/draft.wit", world: "host", require_store_data_send: true });
}
mod dated {
    wasmtime::component::bindgen!({ path: "src/config/wit/dated.wit", world: "host", require_store_data_send: true });
}
mod candidate {
    wasmtime::component::bindgen!({ path: "src/config/wit/candidate.wit", world: "host", require_store_data_send: true });
}

pub fn add_to_linker<T: ConfigData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    draft::wasi::config::store::add_to_linker::<T, Config>(linker, T::config)?;
    dated::wasi::config::store::add_to_linker::<T, Config>(linker, T::config)?;
    candidate::wasi::config::store::add_to_linker::<T, Config>(linker, T::config)
}

macro_rules! serve {
    ($version:ident) => {
        impl $version::wasi::config::store::Host for ConfigView<'_> {
            fn get(
                &mut self,
                key: String,
            ) -> Result<Option<String>, $version::wasi::config::store::Error> {
                Ok(ConfigView::get(self, &key))
            }

            fn get_all(
                &mut self,
            ) -> Result<Vec<(String, String)>, $version::wasi::config::store::Error> {
                Ok(ConfigView::get_all(self))
            }
        }
    };
}
serve!(draft);
serve!(dated);
serve!(candidate);
