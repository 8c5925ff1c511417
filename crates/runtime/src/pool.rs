//! Admission: who may have an instance now. Refuses before anything is made.

use model::TenantName;

/// No slot came free in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every instance slot is taken; retry in a moment")]
pub struct Overloaded;

/// The slots of one worker, shared out among tenants. Cheap to clone; clones share the slots.
#[derive(Clone)]
pub struct Pool {}

/// The right to one live instance; given back when dropped.
pub struct Slot {}

impl Pool {
    /// `slots` in all, at most `tenant_slots` of them for one tenant.
    pub fn new(_slots: u64, _tenant_slots: u64) -> Self {
        todo!()
    }

    /// A slot now, or within [`model::limits::SLOT_WAIT`] in the order of asking.
    pub async fn acquire(&self, _tenant: &TenantName) -> Result<Slot, Overloaded> {
        todo!()
    }

    /// Slots taken now.
    pub fn live(&self) -> u64 {
        todo!()
    }
}
