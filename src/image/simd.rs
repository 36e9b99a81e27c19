//! Wider vector instructions where the machine has them.

/// Runs `f` compiled for AVX2 where the processor has it, else as it is. `f` must be `#[inline(always)]` all the way down.
///
/// The results are the same bits: no operation is fused or reordered, there are only more lanes.
#[inline]
pub(crate) fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, as was just asked.
            return unsafe { wide(f) };
        }
    }
    f()
}
