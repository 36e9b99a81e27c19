//! Vector instructions: which ones the processor has, and code that is compiled for them.
//!
//! Nothing here changes a bit of a result: vector registers only do more of the same operations at once, and products are added with
//! fused multiply-adds everywhere.

#![allow(unsafe_code, reason = "vector instructions, and tasks that write apart from each other")]

mod elementary;
mod lanes;

use std::sync::OnceLock;

pub(crate) use elementary::{exp_m1_of_negative, softplus};
pub(crate) use lanes::{Lanes, WithLanes, with_lanes};

static USED: OnceLock<Instructions> = OnceLock::new();

/// A proof that the processor has some instructions: only this module makes one, after it has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proof<const BITS: usize>(());

/// Which instructions are used. A set can only be named where the processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// Whatever the compiler's target has.
    Portable,
    /// AVX2 with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2(Proof<256>),
    /// AVX-512 F, VL, DQ and BW.
    #[cfg(target_arch = "x86_64")]
    Avx512(Proof<512>),
}

impl Instructions {
    /// What is used: the best that the processor has, or what [`Instructions::choose`] chose.
    #[must_use]
    pub fn detect() -> Self {
        *USED.get_or_init(|| *Self::available().last().unwrap_or(&Self::Portable))
    }

    /// All that the processor has, the narrowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only some processors have more")]
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let has_512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw");
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self::Avx2(Proof(())));
                if has_512 {
                    all.push(Self::Avx512(Proof(())));
                }
            }
        }
        all
    }

    /// The name, as [`Instructions::choose`] takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
        }
    }

    /// From now on uses the instructions of a name (`avx512`, `avx2` or `portable`), to compare them. To be called before anything is
    /// computed.
    ///
    /// # Errors
    /// When the processor does not have them, or others are in use already.
    pub fn choose(name: &str) -> Result<(), String> {
        let all = Self::available();
        let Some(&chosen) = all.iter().find(|set| set.name() == name) else {
            let known: Vec<&str> = all.iter().map(|set| set.name()).collect();
            return Err(format!("this processor has no `{name}`; it has {}", known.join(", ")));
        };
        let used = *USED.get_or_init(|| chosen);
        if used == chosen { Ok(()) } else { Err(format!("`{}` is in use already", used.name())) }
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
            // SAFETY: the proof says that the processor has these instructions.
            Instructions::Avx512(_) => return unsafe { widest(f) },
            // SAFETY: as above.
            Instructions::Avx2(_) => return unsafe { wide(f) },
            Instructions::Portable => {}
        }
    }
    f()
}
