//! `spin:variables@3.0.0`, whose one call is asynchronous.

use wasmtime::component::{Accessor, Linker};

use super::{Config, ConfigData, ConfigView, no_variable};
use bindings::spin::variables::variables::{self, Error};

mod bindings {
    wasmtime::component::bindgen!({
        path: "src/config/wit/spin3.wit",
        world: "host",
        imports: { "spin:variables/variables.get": store },
        require_store_data_send: true,
    });
}

pub fn add_to_linker<T: ConfigData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    variables::add_to_linker::<T, Config>(linker, T::config)
}

no_variable!(Error);

impl variables::Host for ConfigView<'_> {}

impl<T: ConfigData> variables::HostWithStore<T> for Config {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> Result<String, Error> {
        Ok(accessor.with(|mut access| access.get().variable(name))?)
    }
}
