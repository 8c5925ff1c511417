//! Header fields, in the words of 0.3.

use wasmtime::component::Resource;

use super::types::{self, HeaderError};
use crate::http::host::HttpView;
use crate::http::{FieldError, Fields};

type Changed<T> = wasmtime::Result<Result<T, HeaderError>>;

/// What a guest is told of a change to its fields; one that would be too much for its host ends it.
fn changed<T>(result: Result<T, FieldError>) -> Changed<T> {
    Ok(Err(match result {
        Ok(value) => return Ok(Ok(value)),
        Err(FieldError::Invalid) => HeaderError::InvalidSyntax,
        Err(FieldError::TooLarge) => HeaderError::SizeExceeded,
        Err(FieldError::Forbidden) => HeaderError::Forbidden,
        Err(FieldError::Immutable) => HeaderError::Immutable,
        Err(FieldError::HostMemory(limit)) => return Err(limit.into()),
    }))
}

impl types::HostFields for HttpView<'_> {
    fn new(&mut self) -> wasmtime::Result<Resource<Fields>> {
        self.new_fields()
    }

    fn from_list(&mut self, entries: Vec<(String, Vec<u8>)>) -> Changed<Resource<Fields>> {
        changed(self.fields_of(entries)?)
    }

    fn get(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        Ok(self.table.get(&fields)?.values(&name))
    }

    fn has(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<bool> {
        Ok(self.table.get(&fields)?.map().contains_key(name))
    }

    fn set(&mut self, fields: Resource<Fields>, name: String, values: Vec<Vec<u8>>) -> Changed<()> {
        changed(self.table.get_mut(&fields)?.set(&name, &values))
    }

    fn delete(&mut self, fields: Resource<Fields>, name: String) -> Changed<()> {
        changed(self.table.get_mut(&fields)?.remove(&name))
    }

    fn get_and_delete(&mut self, fields: Resource<Fields>, name: String) -> Changed<Vec<Vec<u8>>> {
        let fields = self.table.get_mut(&fields)?;
        let values = fields.values(&name);
        changed(fields.remove(&name).map(|()| values))
    }

    fn append(&mut self, fields: Resource<Fields>, name: String, value: Vec<u8>) -> Changed<()> {
        changed(self.table.get_mut(&fields)?.append(&name, &value))
    }

    fn copy_all(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        Ok(self.table.get(&fields)?.entries())
    }

    fn clone(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Resource<Fields>> {
        self.copy_fields(fields)
    }

    fn drop(&mut self, fields: Resource<Fields>) -> wasmtime::Result<()> {
        self.table.delete(fields)?;
        Ok(())
    }
}
