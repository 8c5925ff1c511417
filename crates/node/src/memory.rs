//! Memory that a burst of work took: given back to the system, which the allocator does by itself only for the end of
//! its heap.

/// Gives back what is free. Takes some milliseconds for each GiB of heap, on the calling thread.
pub fn give_back() {
    // SAFETY: it only looks at the allocator's own lists, under the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
