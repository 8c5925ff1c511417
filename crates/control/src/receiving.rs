//! Room for values on their way into stores over the API: so much in all, and of it a share for each tenant, so that who
//! sends slowly is in nobody's way but its own.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{Size, TenantName, limits};

#[derive(Default)]
pub(crate) struct Receiving(Mutex<State>);

#[derive(Default)]
struct State {
    sum: u64,
    of_tenant: HashMap<TenantName, u64>,
}

/// Room for one value; given back when dropped.
pub(crate) struct Room<'a> {
    receiving: &'a Receiving,
    tenant: &'a TenantName,
    bytes: u64,
}

impl Receiving {
    /// Room for a value of this size, if there is any for the tenant now.
    pub fn take<'a>(&'a self, tenant: &'a TenantName, size: Size) -> Option<Room<'a>> {
        let mut state = self.state();
        let bytes = size.bytes();
        let own = state.of_tenant.get(tenant).copied().unwrap_or(0) + bytes;
        let sum = state.sum + bytes;
        let fits = own <= limits::KV_RECEIVING_TENANT.default.bytes()
            && sum <= limits::KV_RECEIVING.default.bytes();
        fits.then(|| {
            state.sum = sum;
            state.of_tenant.insert(tenant.clone(), own);
            Room {
                receiving: self,
                tenant,
                bytes,
            }
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut state = self.receiving.state();
        state.sum -= self.bytes;
        let own = state.of_tenant.get_mut(self.tenant);
        let own = own.expect("it was counted when it was taken");
        *own -= self.bytes;
        if *own == 0 {
            state.of_tenant.remove(self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_takes_no_more_than_its_share_and_all_no_more_than_there_is() {
        let receiving = Receiving::default();
        let share = limits::KV_RECEIVING_TENANT.default;
        let tenants: Vec<TenantName> = (0..5).map(|i| format!("t{i}").parse().unwrap()).collect();
        let most = (limits::KV_RECEIVING.default.bytes() / share.bytes()) as usize;
        let mut rooms = Vec::new();
        for tenant in &tenants[..most] {
            let value = limits::KV_VALUE.default;
            rooms.push(receiving.take(tenant, value).unwrap());
            assert!(receiving.take(tenant, value).is_none());
            rooms.push(receiving.take(tenant, Size(share.0 - value.0)).unwrap());
            assert!(receiving.take(tenant, Size(1)).is_none());
        }
        let last = tenants.last().unwrap();
        assert!(receiving.take(last, Size(1)).is_none());
        rooms.truncate(1);
        assert!(receiving.take(last, share).is_some());
        rooms.clear();
        let state = receiving.state();
        assert!(state.sum == 0 && state.of_tenant.is_empty());
    }
}
