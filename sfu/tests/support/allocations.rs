//! An allocator that counts by thread, for tests of what something costs in memory.
#![allow(dead_code, reason = "each test file uses its part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that this thread has allocated and not freed, and the most there were. Below zero: it has freed those of
    /// others.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn grow(size: usize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    LIVE.set(LIVE.get() + size.cast_signed());
    PEAK.set(PEAK.get().max(LIVE.get()));
}

fn shrink(size: usize) {
    LIVE.set(LIVE.get() - size.cast_signed());
}

// SAFETY: forwards to the system allocator; the counters are const-initialised and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while it is copied.
        grow(size);
        shrink(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread has allocated.
pub fn count() -> u64 {
    ALLOCATIONS.get()
}

/// What a piece of work returns, the most bytes that it had beyond what there was, and those that it left.
pub fn memory_of<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let done = work();
    let (peak, left) = (PEAK.get() - before, LIVE.get() - before);
    (done, peak.max(0).cast_unsigned(), left.max(0).cast_unsigned())
}

/// Bytes that something held until now.
pub fn bytes_of<T>(value: T) -> usize {
    let before = LIVE.get();
    drop(value);
    (before - LIVE.get()).cast_unsigned()
}
