//! The exact Euclidean distance transform, voxels of any shape.

use rayon::prelude::*;

use super::{
    Volume,
    separable::{Combine, separable},
};

/// For every voxel the distance in µm to the nearest voxel that is 0, centre to centre; 0 where the voxel is 0 itself. Where there is
/// no voxel that is 0, all distances are infinite. `voxel_um`: size of a voxel (Z, Y, X).
///
/// Source: Felzenszwalb & Huttenlocher 2012, "Distance transforms of sampled functions": along each axis the lower envelope of
/// parabolas, one axis after the other.
#[must_use]
pub fn distance(mask: &Volume<u8>, voxel_um: [f64; 3]) -> Volume<f32> {
    let mut squared = squared_distance(mask, voxel_um);
    squared.data.par_iter_mut().for_each(|value| *value = value.sqrt());
    squared
}

/// [`distance`] where it is at most `limit_um`, infinite elsewhere: much faster where that is a few voxels.
#[must_use]
pub fn distance_within(mask: &Volume<u8>, voxel_um: [f64; 3], limit_um: f32) -> Volume<f32> {
    let squares = voxel_um.map(|length| {
        let step = length as f32;
        (0..=(limit_um / step).ceil() as usize).map(|voxels| (voxels as f32 * step) * (voxels as f32 * step)).collect()
    });
    let mut out = Volume::filled(mask.size, 0.0);
    let value = |inside| if inside == 0 { 0.0 } else { f32::INFINITY };
    separable::<LeastSum, u8>(mask, value, &squares, &mut out, &mut Vec::new());
    out.data.par_iter_mut().for_each(|value| {
        let distance = value.sqrt();
        *value = if distance <= limit_um { distance } else { f32::INFINITY };
    });
    out
}

/// The lowest of the parabolas that stand on the voxels.
struct LeastSum;

impl Combine for LeastSum {
    #[inline(always)]
    fn centre(_: f32, value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn pair(so_far: f32, square: f32, before: f32, after: f32) -> f32 {
        let nearest = square + if before < after { before } else { after };
        if nearest < so_far { nearest } else { so_far }
    }
}

/// The square of [`distance`], µm².
#[must_use]
pub fn squared_distance(mask: &Volume<u8>, voxel_um: [f64; 3]) -> Volume<f32> {
    let [depth, height, width] = mask.size;
    let plane = height * width;
    if mask.data.is_empty() {
        return Volume::new(mask.size, Vec::new());
    }
    let mut field = vec![0.0_f32; mask.data.len()];
    let step = voxel_um.map(|length| length as f32);

    // X and Y, plane by plane.
    field.par_chunks_mut(plane).zip(mask.data.par_chunks(plane)).for_each_init(
        || Envelope::new(height),
        |envelope, (field, mask)| {
            for (field, mask) in field.chunks_exact_mut(width).zip(mask.chunks_exact(width)) {
                along_row(mask, step[2], field);
            }
            for x in 0..width {
                envelope.transform(field, x, width, step[1]);
            }
        },
    );
    if depth == 1 {
        return Volume::new(mask.size, field);
    }

    // Z, a slab of rows at a time: its columns are gathered, transformed and put back.
    let rows = 4.min(height);
    let slabs: Vec<(usize, Vec<f32>)> = (0..height)
        .into_par_iter()
        .step_by(rows)
        .map(|first| {
            let count = rows.min(height - first) * width;
            let mut slab = Vec::with_capacity(count * depth);
            for z in 0..depth {
                let start = z * plane + first * width;
                slab.extend_from_slice(&field[start..start + count]);
            }
            let mut envelope = Envelope::new(depth);
            for column in 0..count {
                envelope.transform(&mut slab, column, count, step[0]);
            }
            (first, slab)
        })
        .collect();
    field.par_chunks_mut(plane).enumerate().for_each(|(z, field)| {
        for (first, slab) in &slabs {
            let count = slab.len() / depth;
            field[first * width..first * width + count].copy_from_slice(&slab[z * count..(z + 1) * count]);
        }
    });
    Volume::new(mask.size, field)
}

/// Squared distance to the nearest 0 in the same row.
fn along_row(mask: &[u8], step: f32, out: &mut [f32]) {
    let mut far = f32::INFINITY;
    for (out, &inside) in out.iter_mut().zip(mask) {
        far = if inside == 0 { 0.0 } else { far + 1.0 };
        *out = far;
    }
    far = f32::INFINITY;
    for (out, &inside) in out.iter_mut().zip(mask).rev() {
        far = if inside == 0 { 0.0 } else { far + 1.0 };
        let nearest = out.min(far) * step;
        *out = nearest * nearest;
    }
}

/// The lower envelope of the parabolas of one line.
struct Envelope {
    line: Vec<f32>,
    /// Where the parabolas that make up the envelope stand, and from where on each is the lowest.
    at: Vec<u32>,
    from: Vec<f32>,
}

impl Envelope {
    fn new(length: usize) -> Self {
        Self { line: vec![0.0; length], at: vec![0; length], from: vec![0.0; length + 1] }
    }

    /// Transforms the line `data[first + i * stride]`.
    fn transform(&mut self, data: &mut [f32], first: usize, stride: usize, step: f32) {
        let length = self.line.len();
        let mut highest = 0.0_f32;
        for (i, value) in self.line.iter_mut().enumerate() {
            *value = data[first + i * stride];
            highest = highest.max(*value);
        }
        if highest == 0.0 {
            return;
        }
        let area = step * step;
        let mut count = 0;
        for q in 0..length {
            let height = self.line[q];
            if height == f32::INFINITY {
                continue;
            }
            let position = q as f32;
            loop {
                if count == 0 {
                    self.from[0] = f32::NEG_INFINITY;
                    break;
                }
                let p = self.at[count - 1];
                let other = p as f32;
                // Where the parabolas of p and q cross, in voxels.
                let crossing = (((height - self.line[p as usize]) / area) + (position * position - other * other))
                    / (2.0 * (position - other));
                if crossing > self.from[count - 1] {
                    self.from[count] = crossing;
                    break;
                }
                count -= 1;
            }
            self.at[count] = q as u32;
            count += 1;
        }
        if count == 0 {
            return;
        }
        self.from[count] = f32::INFINITY;
        let mut k = 0;
        for q in 0..length {
            while self.from[k + 1] < q as f32 {
                k += 1;
            }
            let p = self.at[k] as usize;
            let away = (q as f32 - p as f32) * step;
            data[first + q * stride] = away * away + self.line[p];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::testing::noise;

    #[test]
    fn as_by_looking_at_every_voxel() {
        for (size, voxel, empty) in [
            ([6, 7, 8], [0.29, 0.26, 0.26], 950.0),
            ([9, 5, 6], [1.0, 1.0, 1.0], 980.0),
            ([1, 9, 9], [3.0, 0.5, 2.0], 900.0),
            ([5, 6, 7], [2.0, 0.4, 0.3], 700.0),
        ] {
            let mask = noise(size).map(|&value| u8::from(value < empty));
            let got = distance(&mask, voxel);
            let limit = 2.0 * voxel[1] as f32;
            let near = got.map(|&value| if value <= limit { value } else { f32::INFINITY });
            assert_eq!(distance_within(&mask, voxel, limit), near);
            for z in 0..size[0] {
                for y in 0..size[1] {
                    for x in 0..size[2] {
                        let mut best = f64::INFINITY;
                        for (at, _) in mask.data.iter().enumerate().filter(|(_, inside)| **inside == 0) {
                            let other = [at / (size[1] * size[2]), at / size[2] % size[1], at % size[2]];
                            let here = [z, y, x];
                            let square: f64 =
                                (0..3).map(|i| ((here[i] as f64 - other[i] as f64) * voxel[i]).powi(2)).sum();
                            best = best.min(square.sqrt());
                        }
                        let value = f64::from(got.data[got.index(z, y, x)]);
                        assert!((value - best).abs() < 1e-4 || value == best, "{value} {best}");
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_zero_everything_is_infinitely_far() {
        let mask = Volume::filled([3, 4, 5], 1);
        assert!(distance(&mask, [1.0; 3]).data.iter().all(|value| value.is_infinite()));
    }
}
