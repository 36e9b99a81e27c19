//! Random numbers that depend on nothing but their key: Philox 4×32-10.
//!
//! Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". A stream is named by (seed, purpose, counter), so
//! the noise of training step 1000 can be drawn without drawing that of the 999 before it, by any thread, in any order.

/// A stream of random numbers named by (seed, purpose, counter).
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
    spare_normal: Option<f64>,
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let product = |i: usize, word: u32| u64::from(MULTIPLIERS[i]) * u64::from(word);
        let (a, b) = (product(0, counter[0]), product(1, counter[2]));
        let (low_a, low_b) = (a as u32, b as u32);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], low_b, (a >> 32) as u32 ^ counter[3] ^ key[1], low_a];
    }
    counter
}

impl Rng {
    /// The stream named by a seed, a purpose (`"weights"`, `"noise"`, `"shuffle"`) and a counter (a step, a cell's number).
    #[must_use]
    pub fn new(seed: u64, purpose: &str, counter: u64) -> Self {
        let mut named = seed.to_le_bytes().to_vec();
        named.extend_from_slice(purpose.as_bytes());
        let hash = blake3::hash(&named);
        let word = |i: usize| u32::from_le_bytes(hash.as_bytes()[4 * i..4 * i + 4].try_into().expect("four bytes"));
        let (low, high) = (counter as u32, (counter >> 32) as u32);
        Self { key: [word(0), word(1)], counter: [0, 0, low, high], block: [0; 4], used: 4, spare_normal: None }
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.used = 0;
            self.counter[0] = self.counter[0].wrapping_add(1);
            if self.counter[0] == 0 {
                self.counter[1] = self.counter[1].wrapping_add(1);
            }
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in [0, 1), 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        let bits = (u64::from(self.bits()) << 32 | u64::from(self.bits())) >> 11;
        let value = bits as f64 * 2f64.powi(-53);
        value
    }

    /// Normal with mean 0 and standard deviation 1 (Box–Muller).
    pub fn normal(&mut self) -> f64 {
        if let Some(value) = self.spare_normal.take() {
            return value;
        }
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        let (sine, cosine) = libm::sincos(std::f64::consts::TAU * self.uniform());
        self.spare_normal = Some(radius * sine);
        radius * cosine
    }

    /// A whole number in 0..`bound`, each equally likely.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "no number is below 0");
        let bound = bound as u64;
        // Lemire's multiplication; the bias is below bound / 2^64.
        let bits = u64::from(self.bits()) << 32 | u64::from(self.bits());
        let high = (u128::from(bits) * u128::from(bound)) >> 64;
        usize::try_from(high).expect("below a usize")
    }

    /// A random order of 0..`count`.
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // From the known-answer tests published with Random123.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn streams_are_apart_and_repeatable() {
        let draw = |seed, purpose, counter| Rng::new(seed, purpose, counter).bits();
        assert_eq!(draw(1, "noise", 2), draw(1, "noise", 2));
        assert_ne!(draw(1, "noise", 2), draw(1, "noise", 3));
        assert_ne!(draw(1, "noise", 2), draw(1, "weights", 2));
        assert_ne!(draw(1, "noise", 2), draw(2, "noise", 2));
    }

    #[test]
    fn moments_and_permutations() {
        let mut rng = Rng::new(7, "test", 0);
        let values: Vec<f64> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = values.iter().sum::<f64>() / 2e4;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 2e4;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        let mut order = rng.permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
