//! Volumes for tests.

use super::Volume;

/// Repeatable noise, whole numbers in 0..1000.
pub(crate) fn noise(size: [usize; 3]) -> Volume<f32> {
    let mut state = 12345_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) % 1000) as f32
    };
    Volume::new(size, (0..size.iter().product()).map(|_| next()).collect())
}

/// 1 where `inside(z, y, x)`.
pub(crate) fn mask(size: [usize; 3], inside: impl Fn(f64, f64, f64) -> bool) -> Volume<u8> {
    let mut out = Volume::filled(size, 0);
    for z in 0..size[0] {
        for y in 0..size[1] {
            for x in 0..size[2] {
                let at = out.index(z, y, x);
                out.data[at] = u8::from(inside(z as f64, y as f64, x as f64));
            }
        }
    }
    out
}
