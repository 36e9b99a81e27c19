//! Wider vector instructions where the machine has them.

/// Runs `f` compiled for AVX-512 or AVX2 where the processor has it, else as it is. `f` must be `#[inline(always)]` all the way down.
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
        if is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
        {
            // SAFETY: the processor has what was just asked for, and AVX-512F with it.
            return unsafe { widest(f) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, as was just asked.
            return unsafe { wide(f) };
        }
    }
    f()
}
