// What the convolutions on tiles share: a tile of voxels with its halo in shared memory.
#pragma once
#include "mma.cuh"

/// PLAIN: 3 taps an axis, stride 1, padding 1. DOWN: 4 taps, stride 2, padding 1. UP: the same, transposed.
enum Kind { PLAIN, UP, DOWN };

/// Byte of a 16-byte chunk in rows of BYTES: exclusive or with the row keeps eight successive rows of one
/// chunk (ldmatrix) and eight successive chunks (cp.async) in distinct banks. `row` may be anything that
/// counts like `index` does, modulo eight.
template <int BYTES>
__device__ __forceinline__ int swizzled(int index, int row, int chunk) {
    constexpr int SPREAD = BYTES < 128 ? 128 / BYTES : 1, CHUNKS = BYTES < 128 ? BYTES / 16 : 8;
    return index * BYTES + ((chunk ^ (row / SPREAD % CHUNKS)) << 4);
}

/// relu(x scale + shift) of eight channels in shared memory.
__device__ __forceinline__ void activate(unsigned char* at, const float (&scale)[8], const float (&shift)[8]) {
    uint4 raw = *(const uint4*)at;
    u32 word[4] = {raw.x, raw.y, raw.z, raw.w};
    UNROLL for (int i = 0; i < 4; i++) {
        float a = fmaxf(fmaf(low(word[i]), scale[2 * i], shift[2 * i]), 0.f);
        float b = fmaxf(fmaf(high(word[i]), scale[2 * i + 1], shift[2 * i + 1]), 0.f);
        word[i] = pack(a, b);
    }
    *(uint4*)at = uint4{word[0], word[1], word[2], word[3]};
}

/// Four words a lane, transposed within each four lanes.
__device__ __forceinline__ void transpose_quad(u32 (&w)[4]) {
    UNROLL for (int step = 1; step < 4; step *= 2) {
        bool upper = threadIdx.x & step;
        UNROLL for (int i = 0; i < 4; i++) {
            if (i & step) continue;
            u32 got = __shfl_xor_sync(~0u, upper ? w[i] : w[i + step], step);
            if (upper) w[i] = got;
            else w[i + step] = got;
        }
    }
}
