//! Elementary functions that vectorise, with the same bits on every machine: plain operations in a fixed order, no call into the C library.
//!
//! Each is a polynomial on a reduced range; errors are stated against f64 and held by the tests.

/// (2ⁿ, r) with value = n · ln 2 + r and |r| ≤ ln 2 / 2, for values from −87 to 87; r is NaN where the value is.
#[inline(always)]
fn reduce(value: f32) -> (f32, f32) {
    /// Adding 1.5 · 2²³ rounds to a whole number, which then stands in the lowest bits.
    const MAGIC: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has few digits, so that n times it is exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let shifted = value * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23);
    (power, (-n).mul_add(LOW, (-n).mul_add(HIGH, value)))
}

/// At least −87: below it, the power of two would leave the range of normal numbers. NaN stays NaN, unlike with `max`.
#[inline(always)]
fn bounded(value: f32) -> f32 {
    if value < -87.0 { -87.0 } else { value }
}

/// eʳ − 1 for |r| ≤ ln 2 / 2: the Taylor series up to r⁸.
#[inline(always)]
fn exp_m1_small(r: f32) -> f32 {
    let mut sum = 1.0 / 40_320.0;
    for term in [1.0 / 5_040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        sum = f32::mul_add(sum, r, term);
    }
    (sum * r).mul_add(r, r)
}

/// eˣ − 1 for x ≤ 0, within 2e-7 of its size; −1 below −87.
#[inline(always)]
pub(crate) fn exp_m1_of_negative(x: f32) -> f32 {
    let (power, r) = reduce(bounded(x));
    power.mul_add(exp_m1_small(r), power - 1.0)
}

/// ln(1 + eˣ), within 3e-7 of its size.
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let (power, r) = reduce(bounded(-x.abs()));
    let t = power.mul_add(exp_m1_small(r), power);
    // ln(1 + t) = 2 artanh(t / (2 + t)), whose argument is at most 1/3.
    let u = t / (2.0 + t);
    let square = u * u;
    let mut sum = 1.0 / 17.0;
    for term in [1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 0.2, 1.0 / 3.0] {
        sum = f32::mul_add(sum, square, term);
    }
    let artanh = (sum * square).mul_add(u, u);
    2.0f32.mul_add(artanh, x.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stay_within_what_is_promised() {
        let mut worst = [0.0f64; 2];
        for step in -40_000..=40_000 {
            let x = step as f32 * 2e-3;
            let wide = f64::from(x);
            let wanted = wide.max(0.0) + libm::log1p(libm::exp(-wide.abs()));
            worst[0] = worst[0].max((f64::from(softplus(x)) - wanted).abs() / wanted);
            if x < 0.0 {
                let wanted = libm::expm1(wide);
                worst[1] = worst[1].max((f64::from(exp_m1_of_negative(x)) - wanted).abs() / wanted.abs());
            }
        }
        assert!(worst[0] < 3e-7 && worst[1] < 2e-7, "{worst:?}");
        for (x, wanted) in [(-1e30, 0.0), (1e30, 1e30), (0.0, std::f32::consts::LN_2)] {
            assert!((softplus(x) - wanted).abs() <= 1e-7 * wanted.max(1.0), "{x}");
        }
        assert_eq!(exp_m1_of_negative(-1e30), -1.0);
        assert_eq!(exp_m1_of_negative(0.0), 0.0);
        assert!(softplus(f32::NAN).is_nan());
    }
}
