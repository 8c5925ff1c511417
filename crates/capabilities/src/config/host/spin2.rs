//! `fermyon:spin/variables@2.0.0`, which Spin's SDKs import up to the fifth of Rust's.

use wasmtime::component::Linker;

use super::{Config, ConfigData, ConfigView, no_variable};
use bindings::fermyon::spin::variables::{self, Error};

mod bindings {
    wasmtime::component::bindgen!({ path: "src/config/wit/spin2.wit", world: "host", require_store_data_send: true });
}

pub fn add_to_linker<T: ConfigData>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    variables::add_to_linker::<T, Config>(linker, T::config)
}

no_variable!(Error);

impl variables::Host for ConfigView<'_> {
    fn get(&mut self, name: String) -> Result<String, Error> {
        Ok(self.variable(name)?)
    }
}
