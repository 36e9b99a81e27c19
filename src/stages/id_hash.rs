//! Chance that belongs to an id: the same id falls on the same side, whatever other ids there are.

use std::fmt::Write;

use sha2::{Digest, Sha512};

/// A number in [0, 1) that depends on nothing but a seed and an id: SHA-512 of the seed's decimal text followed by the id,
/// written in hexadecimal; of that, the first five characters that are decimal digits, divided by 100,000.
///
/// Source: the published program of the paper, which splits cells by this number.
pub(super) fn id_hash(seed: u64, id: &str) -> f64 {
    let mut hexadecimal = String::with_capacity(128);
    for byte in Sha512::digest(format!("{seed}{id}")) {
        write!(hexadecimal, "{byte:02x}").expect("writing to a string");
    }
    let digits = hexadecimal.chars().filter_map(|c| c.to_digit(10)).take(5);
    f64::from(digits.fold(0, |number, digit| number * 10 + digit)) / 100_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_hashlib() {
        // Python: "".join(c for c in hashlib.sha512((str(seed) + id).encode()).hexdigest() if c.isdigit())[:5]
        assert_eq!(id_hash(615, "cell-0001"), 0.39081);
        assert_eq!(id_hash(1, "42"), 0.26656);
        assert_eq!(id_hash(615, "field-3:7"), 0.84819);
    }

    #[test]
    fn is_uniform() {
        let below = (0..5000).filter(|i| id_hash(3, &format!("cell-{i}")) <= 0.1).count();
        assert!((430..570).contains(&below), "{below}");
    }
}
