//! Work in parallel with results that do not depend on the number of threads: the split is fixed by the sizes alone.

use rayon::prelude::*;

/// A pointer into a buffer of which every task writes its own part.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: whoever dereferences it (unsafe) sees to it that no two tasks write the same place.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    pub(super) fn pointer(self) -> *mut f32 {
        self.0
    }
}

/// Runs `task(0..count)`, in any order, on all threads.
pub fn for_each(count: usize, task: impl Fn(usize) + Sync + Send) {
    if count <= 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Into how many parts work on so many floats is split, at most `most`: a part that is too small costs more to hand over than to do.
#[must_use]
pub fn parts(floats: usize, most: usize) -> usize {
    /// What one core reads in some microseconds.
    const FEWEST: usize = 8 << 10;
    (floats / FEWEST).clamp(1, most.max(1))
}

/// The results of `task(0..count)` in order, computed on all threads, or on this one if all of it is work on only so few `floats`.
pub fn map<T: Send>(count: usize, floats: usize, task: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    if parts(floats, count) == 1 {
        return (0..count).map(task).collect();
    }
    (0..count).into_par_iter().with_max_len(1).map(task).collect()
}

/// Part `index` of `parts` nearly equal parts of 0..`count`.
#[must_use]
pub fn part(count: usize, parts: usize, index: usize) -> std::ops::Range<usize> {
    count * index / parts..count * (index + 1) / parts
}

/// The sum of parts of `out`'s length that lie one behind the other, added in their order.
pub(super) fn add_up(out: &mut [f32], all: &[f32]) {
    let length = out.len();
    let parts = 32.min(length);
    let shared = Shared::new(out);
    for_each(parts, |index| {
        let range = part(length, parts, index);
        // SAFETY: the ranges lie apart.
        let out = unsafe { std::slice::from_raw_parts_mut(shared.pointer().add(range.start), range.len()) };
        out.copy_from_slice(&all[range.clone()]);
        for other in all.chunks_exact(length).skip(1) {
            out.iter_mut().zip(&other[range.clone()]).for_each(|(out, value)| *out += value);
        }
    });
}
