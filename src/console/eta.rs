//! How long it still takes, or nothing where that is not known yet.

use std::collections::BTreeMap;

/// Estimates the rest of each running instance from the units done since it was first seen: a training that continues
/// from a checkpoint begins in the middle, and what the cache had goes by in no time.
#[derive(Default)]
pub(super) struct Eta {
    first: BTreeMap<String, (u64, f64)>,
}

/// No estimate before this much time has passed, in seconds: it would jump.
const SETTLING: f64 = 2.0;

impl Eta {
    /// The seconds that are left, from `done` of `total` units at `seconds` since the instance began.
    pub(super) fn left(&mut self, instance: &str, done: u64, total: u64, seconds: f64) -> Option<f64> {
        let &mut (first_done, first_seconds) = self.first.entry(instance.to_owned()).or_insert((done, seconds));
        let (units, time) = (done.checked_sub(first_done)?, seconds - first_seconds);
        if units == 0 || time < SETTLING || done >= total {
            return None;
        }
        Some(time / units as f64 * (total - done) as f64)
    }

    /// The instance ended.
    pub(super) fn forget(&mut self, instance: &str) {
        self.first.remove(instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_training_is_judged_by_what_it_does_now() {
        let mut eta = Eta::default();
        assert_eq!(eta.left("shape", 100, 300, 1.0), None);
        assert_eq!(eta.left("shape", 101, 300, 1.5), None);
        assert_eq!(eta.left("shape", 110, 300, 11.0), Some(190.0));
        eta.forget("shape");
        assert_eq!(eta.left("shape", 110, 300, 12.0), None);
    }
}
