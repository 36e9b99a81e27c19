// Tensor-core building blocks: PTX on the device (from sm_80), the same functions lane by lane on a CPU.
#pragma once
#include "device.cuh"
#ifndef __CUDACC__
#include "host/tensor.hpp"
#endif

// ---- cp.async: 16 bytes from global to shared memory, zeros where !inside ----

__device__ __forceinline__ void copy16(void* to, const void* from, bool inside) {
#ifdef __CUDACC__
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(inside ? 16 : 0) : "memory");
#else
    sim::copy_begin(to, from, inside);
#endif
}

__device__ __forceinline__ void copy_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    sim::copy_commit();
#endif
}

/// Waits for this thread's copies, all but the NEWEST groups; other threads need a barrier after it.
template <int NEWEST>
__device__ __forceinline__ void copy_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(NEWEST) : "memory");
#else
    sim::copy_wait(NEWEST);
#endif
}

// ---- ldmatrix: 8x8 matrices of 16 bits; lane 8 m + r brings the address of row r of matrix m ----
// Without transposition lane l gets, of each matrix, row l / 4, columns 2 (l % 4) and the next.
// With it, rows 2 (l % 4) and the next, column l / 4.

__device__ __forceinline__ void load4(u32 (&to)[4], const void* row) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
#else
    sim::load<4, false>(to, row);
#endif
}

__device__ __forceinline__ void load4_transposed(u32 (&to)[4], const void* row) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
#else
    sim::load<4, true>(to, row);
#endif
}

/// Two matrices; the addresses of lanes 16 to 31 are ignored, but must be valid.
__device__ __forceinline__ void load2_transposed(u32 (&to)[2], const void* row) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1]) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
#else
    sim::load<2, true>(to, row);
#endif
}

/// A word of shared memory, by all lanes of a warp at once (the shim then counts bank conflicts).
__device__ __forceinline__ u32 word_at(const u32* from) {
#ifdef __CUDACC__
    return *from;
#else
    sim::Word word{from, 0};
    sim::collective(&word, sim::load_words);
    return word.value;
#endif
}

// ---- mma m16n8k16: c += a b, with g = lane / 4 and q = lane % 4 ----
// a[0..3]: rows g, g + 8, g, g + 8; columns 2 q and the next, in a[2] and a[3] plus 8
// b[0..1]: rows 2 q and the next, in b[1] plus 8; column g
// c[0..3]: row g, columns 2 q and the next; row g + 8, the same

__device__ __forceinline__ void multiply_add(float (&c)[4], const u32 (&a)[4], const u32& b0, const u32& b1) {
#ifdef __CUDACC__
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    sim::Multiply operands{c, a, &b0, &b1};
    sim::collective(&operands, sim::multiply);
#endif
}
