//! Some numbers in one register, whatever its width.

use super::{Instructions, Proof};

/// Some channels side by side, as the processor takes them. A value exists only where the processor has the instructions.
pub(crate) trait Lanes: Copy {
    /// What proves that the processor has the instructions.
    type Token: Copy;
    const COUNT: usize;
    fn zero(token: Self::Token) -> Self;
    /// # Safety
    /// The floats must be readable.
    unsafe fn load(token: Self::Token, from: *const f32) -> Self;
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
    type Token = ();
    const COUNT: usize = 8;

    #[inline(always)]
    fn zero((): ()) -> Self {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn load((): (), from: *const f32) -> Self {
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

/// Lanes of one register.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    ($name:ident, $register:ty, $bits:literal, $count:literal, $zero:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $set:ident) => {
        /// A register; one is only made with a proof that the processor has the instructions.
        #[derive(Clone, Copy)]
        struct $name($register);

        impl Lanes for $name {
            type Token = Proof<$bits>;
            const COUNT: usize = $count;

            #[inline(always)]
            fn zero(_: Self::Token) -> Self {
                // SAFETY: the token proves that the processor has the instructions.
                Self(unsafe { std::arch::x86_64::$zero() })
            }

            #[inline(always)]
            unsafe fn load(_: Self::Token, from: *const f32) -> Self {
                // SAFETY: as above, and the caller's promise.
                Self(unsafe { std::arch::x86_64::$load(from) })
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: a value was made with the token; and the caller's promise.
                unsafe { std::arch::x86_64::$store(to, self.0) }
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                // SAFETY: a value was made with the token.
                Self(unsafe { std::arch::x86_64::$add(self.0, other.0) })
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { std::arch::x86_64::$sub(self.0, other.0) })
            }

            #[inline(always)]
            fn times(self, factor: f32) -> Self {
                // SAFETY: as above.
                Self(unsafe { std::arch::x86_64::$mul(self.0, std::arch::x86_64::$set(factor)) })
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
lanes!(
    Wide512,
    std::arch::x86_64::__m512,
    512,
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
    Wide256,
    std::arch::x86_64::__m256,
    256,
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
    fn run<L: Lanes>(self, token: L::Token);
}

pub(crate) fn with_lanes(instructions: Instructions, work: impl WithLanes) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn widest(work: impl WithLanes, token: Proof<512>) {
            work.run::<Wide512>(token);
        }
        #[target_feature(enable = "avx2")]
        fn wide(work: impl WithLanes, token: Proof<256>) {
            work.run::<Wide256>(token);
        }
        match instructions {
            // SAFETY: the token proves that the processor has these instructions.
            Instructions::Avx512(token) => return unsafe { widest(work, token) },
            // SAFETY: as above.
            Instructions::Avx2(token) => return unsafe { wide(work, token) },
            Instructions::Portable => {}
        }
    }
    work.run::<[f32; 8]>(());
}
