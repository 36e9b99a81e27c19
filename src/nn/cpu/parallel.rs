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
pub(super) fn for_each(count: usize, task: impl Fn(usize) + Sync + Send) {
    if count <= 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Into how many parts work on so many floats is split, at most `most`: a part that is too small costs more to hand over than to do.
#[must_use]
pub(super) fn parts(floats: usize, most: usize) -> usize {
    /// What one core reads in some microseconds.
    const FEWEST: usize = 8 << 10;
    (floats / FEWEST).clamp(1, most.max(1))
}

/// The results of `task(0..count)` in order, computed on all threads, or on this one if all of it is work on only so few `floats`.
pub(super) fn map<T: Send>(count: usize, floats: usize, task: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    if parts(floats, count) == 1 {
        return (0..count).map(task).collect();
    }
    (0..count).into_par_iter().with_max_len(1).map(task).collect()
}

/// Part `index` of `parts` nearly equal parts of 0..`count`.
#[must_use]
pub(super) fn part(count: usize, parts: usize, index: usize) -> std::ops::Range<usize> {
    count * index / parts..count * (index + 1) / parts
}

/// A sum that `groups` groups of `tasks` tasks share: each group has sums of its own, of `out`'s length, that are added up in order at the
/// end. `task(group, number, sums)` writes its part of its group's sums, which no other task writes. `scratch` is for them.
pub(super) fn sum_of_groups(
    out: &mut [f32],
    scratch: &mut Vec<f32>,
    groups: usize,
    tasks: usize,
    task: impl Fn(usize, usize, *mut f32) + Sync + Send,
) {
    let length = out.len();
    let target: &mut [f32] = if groups == 1 {
        &mut *out
    } else {
        if scratch.len() < groups * length {
            scratch.resize(groups * length, 0.0);
        }
        scratch
    };
    let shared = Shared::new(target);
    for_each(groups * tasks, |index| {
        let group = index / tasks;
        // SAFETY: there is room for the sums of every group.
        task(group, index % tasks, unsafe { shared.pointer().add(group * length) });
    });
    if groups > 1 {
        add_up(out, &scratch[..groups * length]);
    }
}

/// The sum of parts of `out`'s length that lie one behind the other, added in their order.
fn add_up(out: &mut [f32], all: &[f32]) {
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
