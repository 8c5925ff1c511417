//! Whether the task that answers a request still runs.
//!
//! The engine tells whether any task of an instance runs, and which one calls the host; not whether one has ended. Its
//! table of what runs is shown, though: a task stands there from its call to its end.

use std::any::TypeId;
use std::hash::{Hash as _, Hasher};

use wasmtime::component::{GuestTaskId, ResourceTable};

/// A task of a guest's.
#[derive(Clone, Copy)]
pub struct Task {
    /// Where in the table it stands, and as what. A task that the guest itself begins may stand there next: then this one
    /// seems to run for as long.
    place: u32,
    kind: Option<TypeId>,
}

impl Task {
    /// The task with this id, which was begun just now.
    pub fn begun(id: GuestTaskId, table: Option<&mut ResourceTable>) -> Self {
        let mut place = Place(0);
        id.hash(&mut place);
        let mut task = Self {
            place: place.0,
            kind: None,
        };
        task.kind = task.stands(table);
        task
    }

    /// The same place, which is this task's no longer if another was begun there.
    pub fn is_at(&self, other: &Self) -> bool {
        self.place == other.place
    }

    pub fn runs(&self, table: Option<&mut ResourceTable>) -> bool {
        self.kind.is_some() && self.stands(table) == self.kind
    }

    /// As what something stands in its place.
    fn stands(&self, table: Option<&mut ResourceTable>) -> Option<TypeId> {
        let entry = table?.get_any_mut(self.place).ok()?;
        Some((*entry).type_id())
    }
}

/// Takes the one number that an id consists of.
struct Place(u32);

impl Hasher for Place {
    fn write_u32(&mut self, number: u32) {
        self.0 = number;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("an id is a number");
    }

    fn finish(&self) -> u64 {
        self.0.into()
    }
}
