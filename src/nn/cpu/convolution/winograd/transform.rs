//! The transforms between voxels or taps and points.

use super::SIDE;
use crate::simd::Lanes;

/// Values at the four points of a polynomial that has two or three of them as coefficients: Bᵀ of the input.
#[inline(always)]
pub(super) fn of_patch<L: Lanes>([a, b, c, d]: [L; SIDE]) -> [L; SIDE] {
    [a.minus(c), b.plus(c), c.minus(b), d.minus(b)]
}

/// The weights' transform G along an axis.
#[inline(always)]
pub(super) fn of_taps<L: Lanes, const R: usize>(taps: [L; R]) -> [L; SIDE] {
    let (first, last) = (taps[0], taps[R - 1]);
    let outer = first.plus(last).half();
    if R == 3 {
        let inner = taps[1].half();
        [first, outer.plus(inner), outer.minus(inner), last]
    } else {
        [first, outer, first.minus(last).half(), last]
    }
}

/// The adjoint of [`of_taps`].
#[inline(always)]
pub(super) fn to_taps<L: Lanes, const R: usize>([a, b, c, d]: [L; SIDE]) -> [L; R] {
    let (outer, inner) = (b.plus(c).half(), b.minus(c).half());
    let mut taps = [inner; R];
    taps[0] = a.plus(outer);
    taps[R - 1] = d.plus(if R == 3 { outer } else { inner });
    taps
}

/// The outputs along an axis: Aᵀ of the products.
#[inline(always)]
pub(super) fn to_outputs<L: Lanes, const M: usize>([a, b, c, d]: [L; SIDE]) -> [L; M] {
    let (sum, difference) = (b.plus(c), b.minus(c));
    let mut outputs = [difference; M];
    outputs[0] = a.plus(sum);
    outputs[M - 1] = d.plus(if M == 3 { sum } else { difference });
    outputs
}

/// The adjoint of [`to_outputs`].
#[inline(always)]
pub(super) fn of_outputs<L: Lanes, const M: usize>(outputs: [L; M]) -> [L; SIDE] {
    let (first, last) = (outputs[0], outputs[M - 1]);
    if M == 3 {
        let outer = first.plus(last);
        [first, outer.plus(outputs[1]), outer.minus(outputs[1]), last]
    } else {
        [first, first.plus(last), first.minus(last), last]
    }
}

/// Applies a transform along both axes of N × N values, giving K × K.
#[inline(always)]
pub(super) fn both<L: Lanes, const N: usize, const K: usize>(
    token: L::Token,
    values: [[L; N]; N],
    transform: impl Fn([L; N]) -> [L; K],
) -> [[L; K]; K] {
    let mut rows = [[L::zero(token); K]; N];
    for (row, values) in rows.iter_mut().zip(values) {
        *row = transform(values);
    }
    let mut out = [[L::zero(token); K]; K];
    for x in 0..K {
        let mut column = [L::zero(token); N];
        for (value, row) in column.iter_mut().zip(&rows) {
            *value = row[x];
        }
        for (out, value) in out.iter_mut().zip(transform(column)) {
            out[x] = value;
        }
    }
    out
}

/// Transforms the `channels` channels of N × N voxels; the points are `apart` floats from each other.
///
/// # Safety
/// All channels must be readable, and writable at all points.
#[inline(always)]
pub(super) unsafe fn to_points<L: Lanes, const N: usize>(
    token: L::Token,
    voxels: &[[*const f32; N]; N],
    channels: usize,
    out: *mut f32,
    apart: usize,
    transform: impl Fn([L; N]) -> [L; SIDE],
) {
    for channel in (0..channels).step_by(L::COUNT) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut values = [[L::zero(token); N]; N];
            for (values, voxels) in values.iter_mut().zip(voxels) {
                for (value, voxel) in values.iter_mut().zip(voxels) {
                    *value = L::load(token, voxel.add(channel));
                }
            }
            let points = both(token, values, &transform);
            for (point, value) in points.iter().flatten().enumerate() {
                value.store(out.add(point * apart + channel));
            }
        }
    }
}
