//! The allocator, and memory that a burst of work took: given back to the system, which the allocator does by itself only
//! as it goes on being used.

/// What the binary allocates with; [`give_back`] speaks to it. docs/decisions/allocator.md says why.
pub use mimalloc::MiMalloc as Allocator;

/// Gives back what this thread has freed. Takes some milliseconds for each GiB of heap.
pub fn give_back() {
    // SAFETY: it looks at the allocator's own lists, those of this thread and those of threads that have ended.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
