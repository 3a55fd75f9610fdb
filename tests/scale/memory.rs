//! How much memory a thread holds at most.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(more: usize, less: usize) {
    // A thread that ends has no counters any more.
    let _ = NOW.try_with(|now| {
        now.set((now.get() + more).saturating_sub(less));
        let _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
    });
}

// SAFETY: each call is passed on to the system's allocator as it is; the counters take no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: what holds for this call holds for that one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: what holds for this call holds for that one.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Begins a count, and gives where it began.
pub fn begin() -> usize {
    let now = NOW.get();
    MOST.set(now);
    now
}

/// The most that was held at a time since then, in bytes.
pub fn most_since(began: usize) -> usize {
    MOST.get().saturating_sub(began)
}
