//! Some numbers in one register, whatever its width.

use super::Instructions;

/// Some channels side by side, as the processor takes them.
pub(crate) trait Lanes: Copy {
    const COUNT: usize;
    fn zero() -> Self;
    /// # Safety
    /// The floats must be readable.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// The floats must be writable.
    unsafe fn store(self, to: *mut f32);
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, factor: f32) -> Self;

    #[inline(always)]
    fn half(self) -> Self {
        self.times(0.5)
    }
}

impl Lanes for [f32; 8] {
    const COUNT: usize = 8;

    #[inline(always)]
    fn zero() -> Self {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of floats may lie anywhere that a float may.
        unsafe { from.cast::<Self>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<Self>().write(self) }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] - other[lane])
    }

    #[inline(always)]
    fn times(self, factor: f32) -> Self {
        self.map(|value| value * factor)
    }
}

/// Lanes of one register; the functions are only reached where the processor has the instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    ($register:ty, $count:literal, $zero:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $set:ident) => {
        impl Lanes for $register {
            const COUNT: usize = $count;

            #[inline(always)]
            fn zero() -> Self {
                // SAFETY: `with_lanes` chose this type for a processor that has the instructions.
                unsafe { std::arch::x86_64::$zero() }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above, and the caller's promise.
                unsafe { std::arch::x86_64::$load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above, and the caller's promise.
                unsafe { std::arch::x86_64::$store(to, self) }
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$add(self, other) }
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$sub(self, other) }
            }

            #[inline(always)]
            fn times(self, factor: f32) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$mul(self, std::arch::x86_64::$set(factor)) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
lanes!(
    std::arch::x86_64::__m512,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_set1_ps
);
#[cfg(target_arch = "x86_64")]
lanes!(
    std::arch::x86_64::__m256,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_set1_ps
);

/// Work that is done in the widest registers that the processor has. `run` must be `#[inline(always)]`, all the way down.
pub(crate) trait WithLanes {
    fn run<L: Lanes>(self);
}

pub(crate) fn with_lanes(instructions: Instructions, work: impl WithLanes) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn widest(work: impl WithLanes) {
            work.run::<std::arch::x86_64::__m512>();
        }
        #[target_feature(enable = "avx2")]
        fn wide(work: impl WithLanes) {
            work.run::<std::arch::x86_64::__m256>();
        }
        match instructions {
            // SAFETY: the processor has these instructions.
            Instructions::Avx512 => return unsafe { widest(work) },
            // SAFETY: as above.
            Instructions::Avx2 => return unsafe { wide(work) },
            Instructions::Portable => {}
        }
    }
    work.run::<[f32; 8]>();
}
