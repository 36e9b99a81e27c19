//! The micro-kernels: the inner loops under convolutions and linear layers: a small block of sums of products, kept in registers.
//!
//! One primitive serves all: `block[r][v] += Σ_k a_r[k · step_a] · b[k · step_b + v]`, r over a few rows, v over 32 lanes.
//! In a forward pass the rows are pixels, k runs over taps and input channels, the lanes are output channels; in a weight
//! gradient the rows are (tap, input channel), k runs over pixels. Every lane adds its products in the order of k with
//! fused multiply-adds, so the bits are the same on every instruction set that has them, whatever the block's shape.

use crate::simd::Instructions;

/// Lanes of a block: output channels that are computed together.
pub(super) const LANES: usize = 32;
/// Rows of a block.
pub(super) const ROWS: usize = 8;
/// The accumulators of one block: row by row.
pub(super) type Accumulators = [[f32; LANES]; ROWS];

/// A stretch of k: where it begins in the rows and in the lanes' operand (in floats), and how long it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Offset to every row's pointer.
    pub(super) a: isize,
    /// Offset to the lanes' pointer.
    pub(super) b: isize,
    /// Length.
    pub(super) count: usize,
}

/// Output channels at most that [`dots`] is the better way for.
pub(super) const FEW: usize = 4;
/// Sums of products for a few output channels: rows × channels.
pub(super) type FewSums = [[f32; FEW]; ROWS];

/// Partial sums of one dot product.
const STRANDS: usize = 16;

/// Dot products of the rows with a few vectors: `sums[r][c] = Σ_k a_r[k] · b_c[k]` over all segments (`Segment::b` counts from the
/// start of each vector, and vectors follow each other at a distance of `step_b`).
///
/// Where few channels come out, the lanes are the summed channels: sixteen strands are summed apart, and added up
/// in pairs at the end, in the same order on every instruction set.
///
/// # Safety
/// For every segment and k below its count, `rows[r] + segment.a + k` and `b + c · step_b + segment.b + k` must be readable for all rows and
/// channels below `channels` (at most [`FEW`]).
pub(super) unsafe fn dots(
    instructions: Instructions,
    rows: &[*const f32; ROWS],
    b: *const f32,
    step_b: usize,
    channels: usize,
    segments: &[Segment],
) -> FewSums {
    debug_assert!(channels <= FEW);
    let mut sums = [[0.0; FEW]; ROWS];
    let mut channel = 0;
    while channel < channels {
        let b = b.wrapping_add(channel * step_b);
        let two = channels - channel >= 2;
        let mut strands = [[[0.0f32; STRANDS]; 2]; ROWS];
        // SAFETY: the caller promises what these need.
        unsafe {
            match instructions {
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512(_) if two => dots_avx512::<2>(rows, b, step_b, segments, &mut strands),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512(_) => dots_avx512::<1>(rows, b, step_b, segments, &mut strands),
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2(_) => dots_avx2(rows, b, step_b, 1 + usize::from(two), segments, &mut strands),
                Instructions::Portable => dots_portable(rows, b, step_b, 1 + usize::from(two), segments, &mut strands),
            }
        }
        for (sums, strands) in sums.iter_mut().zip(&strands) {
            for (sum, strands) in sums[channel..].iter_mut().zip(strands) {
                *sum = add_up(*strands);
            }
        }
        channel += 2;
    }
    sums
}

/// The sum of the strands, in pairs.
fn add_up(mut strands: [f32; STRANDS]) -> f32 {
    let mut half = STRANDS / 2;
    while half > 0 {
        for index in 0..half {
            strands[index] += strands[index + half];
        }
        half /= 2;
    }
    strands[0]
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn dots_avx512<const CHANNELS: usize>(
    rows: &[*const f32; ROWS],
    b: *const f32,
    step_b: usize,
    segments: &[Segment],
    strands: &mut [[[f32; STRANDS]; 2]; ROWS],
) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_maskz_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps};
    // SAFETY: the caller promises that all addresses are readable; masked lanes are not read.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); CHANNELS]; ROWS];
        for segment in segments {
            let mut k = 0;
            while k < segment.count {
                let left = segment.count - k;
                let mask = if left >= STRANDS { u16::MAX } else { (1u16 << left) - 1 };
                let vectors: [_; CHANNELS] = std::array::from_fn(|channel| {
                    _mm512_maskz_loadu_ps(mask, b.offset(segment.b).wrapping_add(channel * step_b + k))
                });
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let values = _mm512_maskz_loadu_ps(mask, row.offset(segment.a).add(k));
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = _mm512_fmadd_ps(values, vector, *sum);
                    }
                }
                k += STRANDS;
            }
        }
        for (strands, sums) in strands.iter_mut().zip(sums) {
            for (strands, sum) in strands.iter_mut().zip(sums) {
                _mm512_storeu_ps(strands.as_mut_ptr(), sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn dots_avx2(
    rows: &[*const f32; ROWS],
    b: *const f32,
    step_b: usize,
    channels: usize,
    segments: &[Segment],
    strands: &mut [[[f32; STRANDS]; 2]; ROWS],
) {
    // The compiler makes vector instructions of the plain loops here.
    // SAFETY: the caller's promise is passed on.
    unsafe { dots_plain(rows, b, step_b, channels, segments, strands) }
}

unsafe fn dots_portable(
    rows: &[*const f32; ROWS],
    b: *const f32,
    step_b: usize,
    channels: usize,
    segments: &[Segment],
    strands: &mut [[[f32; STRANDS]; 2]; ROWS],
) {
    // SAFETY: the caller's promise is passed on.
    unsafe { dots_plain(rows, b, step_b, channels, segments, strands) }
}

#[inline(always)]
unsafe fn dots_plain(
    rows: &[*const f32; ROWS],
    b: *const f32,
    step_b: usize,
    channels: usize,
    segments: &[Segment],
    strands: &mut [[[f32; STRANDS]; 2]; ROWS],
) {
    for (strands, row) in strands.iter_mut().zip(rows) {
        for (channel, strands) in strands.iter_mut().enumerate().take(channels) {
            for segment in segments {
                // SAFETY: the caller promises that these are readable.
                let (a, b) = unsafe {
                    let b = b.add(channel * step_b).offset(segment.b);
                    (
                        std::slice::from_raw_parts(row.offset(segment.a), segment.count),
                        std::slice::from_raw_parts(b, segment.count),
                    )
                };
                for (a, b) in a.chunks(STRANDS).zip(b.chunks(STRANDS)) {
                    for ((strand, a), b) in strands.iter_mut().zip(a).zip(b) {
                        *strand = a.mul_add(*b, *strand);
                    }
                }
            }
        }
    }
}

/// Adds the sums of products over all segments to `block`.
///
/// `lanes` (1 to 32) lanes of the operand `b` are read; the others count as zero.
///
/// # Safety
/// For every segment and every k below its count, `rows[r] + segment.a + k · step_a` must be readable for all rows, and
/// `b + segment.b + k · step_b` for `lanes` floats.
#[expect(clippy::too_many_arguments, reason = "the operands of one loop")]
#[inline]
pub(super) unsafe fn multiply_add(
    instructions: Instructions,
    block: &mut Accumulators,
    rows: &[*const f32; ROWS],
    step_a: usize,
    b: *const f32,
    step_b: usize,
    lanes: usize,
    segments: &[Segment],
) {
    debug_assert!((1..=LANES).contains(&lanes));
    // SAFETY: the caller promises what these need.
    unsafe {
        match instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(_) => match (lanes, step_a) {
                (LANES, 1) => avx512::<false, true>(block, rows, 1, b, step_b, lanes, segments),
                (LANES, _) => avx512::<false, false>(block, rows, step_a, b, step_b, lanes, segments),
                _ => avx512::<true, false>(block, rows, step_a, b, step_b, lanes, segments),
            },
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(_) => avx2(block, rows, step_a, b, step_b, lanes, segments),
            Instructions::Portable => portable(block, rows, step_a, b, step_b, lanes, segments),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const MASKED: bool, const UNIT: bool>(
    block: &mut Accumulators,
    rows: &[*const f32; ROWS],
    step_a: usize,
    b: *const f32,
    step_b: usize,
    lanes: usize,
    segments: &[Segment],
) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let mask = if lanes >= 32 { u32::MAX } else { (1u32 << lanes) - 1 };
    #[expect(clippy::cast_possible_truncation, reason = "the low and the high half")]
    let (low_mask, high_mask) = (mask as u16, (mask >> 16) as u16);
    // SAFETY: the caller promises that all addresses are readable.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for (sum, row) in sums.iter_mut().zip(block.iter()) {
            *sum = [_mm512_loadu_ps(row.as_ptr()), _mm512_loadu_ps(row.as_ptr().add(16))];
        }
        for segment in segments {
            let mut a = rows.map(|row| row.offset(segment.a));
            let mut b = b.offset(segment.b);
            for k in 0..segment.count {
                let (low, high) = if MASKED {
                    (_mm512_maskz_loadu_ps(low_mask, b), _mm512_maskz_loadu_ps(high_mask, b.wrapping_add(16)))
                } else {
                    (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)))
                };
                for (sum, row) in sums.iter_mut().zip(&mut a) {
                    let value = _mm512_set1_ps(if UNIT { *row.add(k) } else { **row });
                    sum[0] = _mm512_fmadd_ps(value, low, sum[0]);
                    sum[1] = _mm512_fmadd_ps(value, high, sum[1]);
                    if !UNIT {
                        *row = row.wrapping_add(step_a);
                    }
                }
                b = b.wrapping_add(step_b);
            }
        }
        for (sum, row) in sums.iter().zip(block.iter_mut()) {
            _mm512_storeu_ps(row.as_mut_ptr(), sum[0]);
            _mm512_storeu_ps(row.as_mut_ptr().add(16), sum[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(
    block: &mut Accumulators,
    rows: &[*const f32; ROWS],
    step_a: usize,
    b: *const f32,
    step_b: usize,
    lanes: usize,
    segments: &[Segment],
) {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps, _mm256_set1_ps, _mm256_setr_epi32, _mm256_storeu_ps,
    };
    // Sixteen registers hold four rows of sixteen lanes, with room for the operands.
    for first_row in (0..ROWS).step_by(4) {
        for first_lane in (0..lanes).step_by(16) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "at most 32")]
            let left = (lanes - first_lane) as i32;
            let bit = |lane: i32| if lane < left { -1 } else { 0 };
            let eight = |at: i32| {
                _mm256_setr_epi32(
                    bit(at),
                    bit(at + 1),
                    bit(at + 2),
                    bit(at + 3),
                    bit(at + 4),
                    bit(at + 5),
                    bit(at + 6),
                    bit(at + 7),
                )
            };
            let masks = [eight(0), eight(8)];
            // SAFETY: the caller promises that all addresses of valid lanes are readable; masked lanes are not read.
            unsafe {
                let at = |row: usize, half: usize| block[first_row + row].as_ptr().add(first_lane + 8 * half);
                let mut sums: [[_; 2]; 4] =
                    std::array::from_fn(|row| std::array::from_fn(|half| _mm256_loadu_ps(at(row, half))));
                for segment in segments {
                    let a: [*const f32; 4] = std::array::from_fn(|row| rows[first_row + row].offset(segment.a));
                    let b = b.offset(segment.b).wrapping_add(first_lane);
                    for k in 0..segment.count {
                        let operand = b.wrapping_add(k * step_b);
                        let values = if left >= 16 {
                            [_mm256_loadu_ps(operand), _mm256_loadu_ps(operand.add(8))]
                        } else {
                            [
                                _mm256_maskload_ps(operand, masks[0]),
                                _mm256_maskload_ps(operand.wrapping_add(8), masks[1]),
                            ]
                        };
                        for (sum, row) in sums.iter_mut().zip(a) {
                            let value = _mm256_set1_ps(*row.add(k * step_a));
                            sum[0] = _mm256_fmadd_ps(value, values[0], sum[0]);
                            sum[1] = _mm256_fmadd_ps(value, values[1], sum[1]);
                        }
                    }
                }
                for (row, sum) in sums.iter().enumerate() {
                    let out = block[first_row + row].as_mut_ptr().add(first_lane);
                    _mm256_storeu_ps(out, sum[0]);
                    _mm256_storeu_ps(out.add(8), sum[1]);
                }
            }
        }
    }
}

unsafe fn portable(
    block: &mut Accumulators,
    rows: &[*const f32; ROWS],
    step_a: usize,
    b: *const f32,
    step_b: usize,
    lanes: usize,
    segments: &[Segment],
) {
    for segment in segments {
        for k in 0..segment.count {
            // SAFETY: the caller promises that these addresses are readable.
            unsafe {
                let operand = std::slice::from_raw_parts(b.offset(segment.b).add(k * step_b), lanes);
                for (sums, row) in block.iter_mut().zip(rows) {
                    let value = *row.offset(segment.a).add(k * step_a);
                    for (sum, &operand) in sums.iter_mut().zip(operand) {
                        *sum = value.mul_add(operand, *sum);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Rng;

    #[test]
    fn dot_products_agree_on_all_instruction_sets() {
        let mut rng = Rng::new(2, "test", 0);
        let mut random = |count: usize| (0..count).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
        let (a, b) = (random(4000), random(4000));
        let segments = [Segment { a: 3, b: 0, count: 50 }, Segment { a: 400, b: 50, count: 21 }];
        let rows: [*const f32; ROWS] = std::array::from_fn(|row| a[row * 31..].as_ptr());
        for channels in 1..=FEW {
            // SAFETY: all addresses lie within 4000 floats.
            let run = |instructions| unsafe { dots(instructions, &rows, b.as_ptr(), 71, channels, &segments) };
            let (best, plain) = (run(Instructions::detect()), run(Instructions::Portable));
            for instructions in Instructions::available() {
                assert_eq!(run(instructions), best, "{instructions:?}");
            }
            for row in 0..ROWS {
                for channel in 0..channels {
                    let products = segments.iter().flat_map(|s| (0..s.count).map(move |k| (s, k)));
                    let wanted: f64 = products
                        .map(|(s, k)| {
                            f64::from(a[row * 31 + s.a as usize + k]) * f64::from(b[channel * 71 + s.b as usize + k])
                        })
                        .sum();
                    assert!((f64::from(best[row][channel]) - wanted).abs() < 1e-4);
                    assert!((f64::from(plain[row][channel]) - wanted).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn all_instruction_sets_agree() {
        let mut rng = Rng::new(1, "test", 0);
        let mut random = |count: usize| (0..count).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
        let (a, b) = (random(4000), random(4000));
        let segments = [Segment { a: 3, b: 5, count: 17 }, Segment { a: 400, b: 200, count: 5 }];
        let rows: [*const f32; ROWS] = std::array::from_fn(|row| a[row * 31..].as_ptr());
        for (step_a, lanes) in [(1, 32), (3, 32), (1, 5), (2, 20), (7, 16)] {
            let run = |instructions| {
                let mut block = [[0.5; LANES]; ROWS];
                // SAFETY: all addresses lie within 4000 floats.
                unsafe { multiply_add(instructions, &mut block, &rows, step_a, b.as_ptr(), 40, lanes, &segments) };
                block
            };
            let (best, plain) = (run(Instructions::detect()), run(Instructions::Portable));
            for instructions in Instructions::available() {
                let other = run(instructions);
                assert_eq!(other.map(|r| r[..lanes].to_vec()), best.map(|r| r[..lanes].to_vec()));
            }
            for row in 0..ROWS {
                for lane in 0..lanes {
                    let mut wanted = 0.5;
                    for s in &segments {
                        for k in 0..s.count {
                            let at = (row * 31 + k * step_a) as isize + s.a;
                            let by = (k * 40 + lane) as isize + s.b;
                            wanted += f64::from(a[at as usize]) * f64::from(b[by as usize]);
                        }
                    }
                    assert!((f64::from(best[row][lane]) - wanted).abs() < 1e-4);
                    assert!((f64::from(plain[row][lane]) - wanted).abs() < 1e-4);
                }
            }
        }
    }
}
