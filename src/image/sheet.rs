//! Bright sheets: membranes.

use rayon::prelude::*;

use super::{Volume, gaussian};
use crate::simd;

/// How much each voxel looks like part of a bright sheet of a thickness of about `scale_um`: 0 where it does not; the grey values by which a
/// sheet stands out.
///
/// The image is smoothed at that scale. Across a sheet it curves down, along it, it does not; in a bright spot (a vesicle) it curves
/// down in all three directions, and `spots` times the least of these is taken off. Written with the eigenvalues λ₁ ≤ λ₂ ≤ λ₃ of the
/// Hessian times scale²: max(0, −λ₁ − spots · max(0, −λ₃)).
#[must_use]
pub fn sheets(image: &Volume<f32>, voxel_um: [f64; 3], scale_um: f64, spots: f32) -> Volume<f32> {
    let [depth, height, width] = image.size;
    let smooth = gaussian(image, voxel_um.map(|length| scale_um / length));
    let mut out = vec![0.0; image.data.len()];
    let per_um = voxel_um.map(|length| (scale_um / length) as f32);
    out.par_chunks_mut(width).enumerate().for_each_init(
        || vec![vec![0.0_f32; width + 2]; 9],
        |rows, (row, out)| {
            let (z, y) = (row / height, row % height);
            for dz in 0..3 {
                for dy in 0..3 {
                    let z = (z + dz).saturating_sub(1).min(depth - 1);
                    let y = (y + dy).saturating_sub(1).min(height - 1);
                    let source = &smooth.data[smooth.index(z, y, 0)..][..width];
                    let padded = &mut rows[dz * 3 + dy];
                    padded[0] = source[0];
                    padded[1..=width].copy_from_slice(source);
                    padded[width + 1] = source[width - 1];
                }
            }
            let rows: [&[f32]; 9] = std::array::from_fn(|i| &rows[i][..]);
            simd::dispatch(
                #[inline(always)]
                || row_of_sheets(rows, per_um, spots, out),
            );
        },
    );
    Volume::new(image.size, out)
}

#[inline(always)]
fn row_of_sheets(rows: [&[f32]; 9], [sz, sy, sx]: [f32; 3], spots: f32, out: &mut [f32]) {
    let width = out.len();
    let rows = rows.map(|row| &row[..width + 2]);
    let [below_back, below, below_front, back, here, front, above_back, above, above_front] = rows;
    for x in 0..width {
        let c = x + 1;
        let twice = 2.0 * here[c];
        let zz = (below[c] + above[c] - twice) * sz * sz;
        let yy = (back[c] + front[c] - twice) * sy * sy;
        let xx = (here[c - 1] + here[c + 1] - twice) * sx * sx;
        let zy = (above_front[c] - above_back[c] - below_front[c] + below_back[c]) * (0.25 * sz * sy);
        let zx = (above[c + 1] - above[c - 1] - below[c + 1] + below[c - 1]) * (0.25 * sz * sx);
        let yx = (front[c + 1] - front[c - 1] - back[c + 1] + back[c - 1]) * (0.25 * sy * sx);
        let (low, high) = outer_eigenvalues(zz, yy, xx, zy, zx, yx);
        out[x] = ((-low).max(0.0) - spots * (-high).max(0.0)).max(0.0);
    }
}

/// The smallest and the largest eigenvalue of a symmetric matrix, by three sweeps of Jacobi rotations: only arithmetic and square
/// roots, so the same bits on every machine, and no branches.
#[inline(always)]
fn outer_eigenvalues(a: f32, b: f32, c: f32, ab: f32, ac: f32, bc: f32) -> (f32, f32) {
    let (mut a, mut b, mut c, mut ab, mut ac, mut bc) = (a, b, c, ab, ac, bc);
    for _ in 0..3 {
        (a, b, ab, ac, bc) = rotate(a, b, ab, ac, bc);
        (a, c, ac, ab, bc) = rotate(a, c, ac, ab, bc);
        (b, c, bc, ab, ac) = rotate(b, c, bc, ab, ac);
    }
    (a.min(b).min(c), a.max(b).max(c))
}

/// Turns the axes p and q so that their mixed term is 0; `pr` and `qr` are their mixed terms with the third axis.
#[inline(always)]
fn rotate(p: f32, q: f32, pq: f32, pr: f32, qr: f32) -> (f32, f32, f32, f32, f32) {
    // t = tan of the angle, the smaller root of t² + 2θt − 1 = 0 with θ = (q − p) / 2pq, written so that nothing is divided by 0.
    let difference = q - p;
    let twice = 2.0 * pq;
    let length = difference.abs() + (difference * difference + twice * twice).sqrt();
    let tan = twice * 1.0_f32.copysign(difference) / length.max(f32::MIN_POSITIVE);
    let cos = 1.0 / (tan * tan + 1.0).sqrt();
    let sin = tan * cos;
    (p - tan * pq, q + tan * pq, 0.0, cos * pr - sin * qr, sin * pr + cos * qr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvalues() {
        // numpy.linalg.eigvalsh of these matrices.
        let (low, high) = outer_eigenvalues(2.0, -1.0, 3.0, 0.5, -1.5, 2.0);
        assert!((low - -2.106_059).abs() < 1e-3 && (high - 4.453_483).abs() < 1e-3, "{low} {high}");
        assert_eq!(outer_eigenvalues(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0));
        let (low, high) = outer_eigenvalues(1.0, 1.0, 1.0, 1.0, 1.0, 1.0);
        assert!(low.abs() < 1e-4 && (high - 3.0).abs() < 1e-4, "{low} {high}");
    }

    #[test]
    fn a_sheet_stands_out_and_a_spot_does_not() {
        let size = [21, 21, 21];
        let mut image = Volume::filled(size, 100.0);
        for z in 0..21 {
            for y in 0..21 {
                // A slanted sheet, and a spot as bright.
                let at = image.index(z, y, 5 + z / 4);
                image.data[at] = 1100.0;
            }
        }
        for (dz, dy, dx) in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)] {
            let at = image.index(10 + dz, 10 + dy, 16 + dx);
            image.data[at] = 1100.0;
        }
        let sheets = sheets(&image, [1.0; 3], 1.0, 1.0);
        let on = sheets.data[sheets.index(10, 10, 7)];
        let spot = sheets.data[sheets.index(10, 10, 16)];
        let off = sheets.data[sheets.index(10, 3, 17)];
        assert!(on > 150.0 && spot < 0.2 * on && off < 1.0, "{on} {spot} {off}");
    }
}
