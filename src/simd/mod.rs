//! Vector instructions: which ones the processor has, and code that is compiled for them.
//!
//! Nothing here changes a bit of a result: vector registers only do more of the same operations at once, and products are added with
//! fused multiply-adds everywhere.

mod elementary;
mod lanes;

use std::sync::OnceLock;

pub(crate) use elementary::{exp_m1_of_negative, softplus};
pub(crate) use lanes::{Lanes, WithLanes, with_lanes};

static USED: OnceLock<Instructions> = OnceLock::new();

/// Which instructions are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// Whatever the compiler's target has.
    Portable,
    /// AVX2 with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, VL, DQ and BW.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Instructions {
    /// The best that the processor has, within [`Instructions::limit`].
    #[must_use]
    pub fn detect() -> Self {
        *USED.get_or_init(Self::of_processor)
    }

    /// From now on uses at most the instructions of a name (`avx512`, `avx2` or `portable`), to compare them. To be called before
    /// anything is computed.
    pub fn limit(name: &str) {
        let limit = match name {
            #[cfg(target_arch = "x86_64")]
            "avx512" => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            "avx2" => Self::Avx2,
            _ => Self::Portable,
        };
        // Where something was computed before, it stays as it is.
        let _ = USED.set(Self::of_processor().min(limit));
    }

    fn of_processor() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let has_512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw");
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return if has_512 { Self::Avx512 } else { Self::Avx2 };
            }
        }
        Self::Portable
    }
}

/// Runs `f` compiled for the widest registers. `f` must be `#[inline(always)]` all the way down.
///
/// The results are the same bits: no operation is fused or reordered, there are only more lanes.
#[inline]
pub(crate) fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
        fn widest<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2")]
        fn wide<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        match Instructions::detect() {
            // SAFETY: the processor has these instructions.
            Instructions::Avx512 => return unsafe { widest(f) },
            // SAFETY: as above.
            Instructions::Avx2 => return unsafe { wide(f) },
            Instructions::Portable => {}
        }
    }
    f()
}
