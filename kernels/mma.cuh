// Tensor-core building blocks: PTX on the device (from sm_80), the same functions lane by lane on a CPU.
#pragma once
#include "device.cuh"
#ifndef __CUDACC__
#include "host/tensor.hpp"
#endif

struct Extent { int z, y, x; };  // of a map

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

// ---- wgmma (sm_90a): a warpgroup of 128 threads; c (64 x COLUMNS) += a (64 x 16) b (16 x COLUMNS), asynchronous ----
// a and c: warp w has rows 16 w to 16 w + 15, laid out as for mma above; c is [COLUMNS / 8][4].
// b: shared memory, 16 rows of COLUMNS bf16, chunks swizzled (`swizzled` of tile.cuh); blocks of 8 rows lie together.

/// b as the instruction wants it described: rows of ROW_BYTES (64 or 128). It must lie on 8 ROW_BYTES.
template <int ROW_BYTES>
__device__ __forceinline__ unsigned long long describe(const void* b) {
    static_assert(ROW_BYTES == 64 || ROW_BYTES == 128, "one swizzle atom across");
#ifdef __CUDACC__
    u32 address = (u32)__cvta_generic_to_shared(b);
#else
    u32 address = (u32)((const unsigned char*)b - sim::shared());
#endif
    return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(8 * ROW_BYTES >> 4) << 32 |
           (unsigned long long)(ROW_BYTES == 128 ? 1 : 2) << 62;
}

/// Before the first product after a wait: registers written by ordinary instructions are ready.
__device__ __forceinline__ void product_fence() {
#ifdef __CUDACC__
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    sim::self().fenced = true;
#endif
}
__device__ __forceinline__ void product_commit() {
#ifdef __CUDACC__
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    sim::self().product_group++;
#endif
}
/// Until then neither a, b nor c may be touched.
template <int NEWEST>
__device__ __forceinline__ void product_wait() {
#ifdef __CUDACC__
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(NEWEST) : "memory");
#else
    sim::product_wait(NEWEST);
#endif
}
/// Before the barrier after which wgmma reads what this thread wrote to shared memory.
__device__ __forceinline__ void show_to_products() {
#ifdef __CUDACC__
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
    sim::self().unproxied = false;
#endif
}

__device__ __forceinline__ void product(float (&c)[4][4], const u32 (&a)[4], unsigned long long b) {
#ifdef __CUDACC__
    asm volatile("{\n.reg .pred on;\nsetp.eq.u32 on, 0, 0;\nwgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, on, 1, 1, 1;\n}"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
          "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#else
    sim::product_issue(&c[0][0], a, b, 32);
#endif
}
__device__ __forceinline__ void product(float (&c)[8][4], const u32 (&a)[4], unsigned long long b) {
#ifdef __CUDACC__
    asm volatile("{\n.reg .pred on;\nsetp.eq.u32 on, 0, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, on, 1, 1, 1;\n}"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
          "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
          "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
          "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#else
    sim::product_issue(&c[0][0], a, b, 64);
#endif
}
