// Feature maps in memory and the sums over them that the kernels share.
//
// A map is models x images x Z x Y x X x channels, channels contiguous, without a halo, in f32 or bf16. A thread reads
// `width` neighbouring channels at once (1, 2 or 4 of f32, 1, 2 or 8 of bf16: 16 bytes where the channels divide), and keeps the
// same channels through a kernel, so what belongs to a channel stays in registers. The grid is always
// (voxels, chunks of 256 widths of channels, models).
//
// Sums run in two stages, in an order that depends on the sizes alone: every thread adds its voxels in f32 (at most 512), a block
// adds its threads in f64 by halves, and a second kernel adds the blocks in f64.
#pragma once
#include "device.cuh"

constexpr int MAP_THREADS = 256;

#ifdef __CUDACC__
#define UNROLL_TEXT(text) _Pragma(#text)
#define UNROLL_BY(n) UNROLL_TEXT(unroll n)
#else
#define UNROLL_BY(n)
#endif

/// The block's shared memory.
__device__ __forceinline__ double* map_shared() {
    DYNAMIC_SHARED(memory);
    return (double*)memory;
}

/// A number as it is kept in a map.
__device__ __forceinline__ float kept(const float* from) { return *from; }
__device__ __forceinline__ float kept(const u16* from) { return from_bf16(*from); }
__device__ __forceinline__ void keep(float* to, float value) { *to = value; }
__device__ __forceinline__ void keep(u16* to, float value) { *to = to_bf16(value); }

/// W neighbouring numbers, read and written at once.
template <class T, int W> struct Run;
template <> struct Run<float, 1> {
    static __device__ __forceinline__ void read(const float* from, float (&to)[1]) { to[0] = *from; }
    static __device__ __forceinline__ void write(float* to, const float (&from)[1]) { *to = from[0]; }
};
template <> struct Run<float, 2> {
    static __device__ __forceinline__ void read(const float* from, float (&to)[2]) {
        float2 all = *(const float2*)from;
        to[0] = all.x, to[1] = all.y;
    }
    static __device__ __forceinline__ void write(float* to, const float (&from)[2]) { *(float2*)to = make_float2(from[0], from[1]); }
};
template <> struct Run<float, 4> {
    static __device__ __forceinline__ void read(const float* from, float (&to)[4]) {
        float4 all = *(const float4*)from;
        to[0] = all.x, to[1] = all.y, to[2] = all.z, to[3] = all.w;
    }
    static __device__ __forceinline__ void write(float* to, const float (&from)[4]) {
        *(float4*)to = make_float4(from[0], from[1], from[2], from[3]);
    }
};
template <> struct Run<u16, 1> {
    static __device__ __forceinline__ void read(const u16* from, float (&to)[1]) { to[0] = from_bf16(*from); }
    static __device__ __forceinline__ void write(u16* to, const float (&from)[1]) { *to = to_bf16(from[0]); }
};
template <> struct Run<u16, 2> {
    static __device__ __forceinline__ void read(const u16* from, float (&to)[2]) {
        u32 all = *(const u32*)from;
        to[0] = low(all), to[1] = high(all);
    }
    static __device__ __forceinline__ void write(u16* to, const float (&from)[2]) { *(u32*)to = pack(from[0], from[1]); }
};
template <> struct Run<u16, 4> {
    static __device__ __forceinline__ void read(const u16* from, float (&to)[4]) {
        uint2 all = *(const uint2*)from;
        to[0] = low(all.x), to[1] = high(all.x), to[2] = low(all.y), to[3] = high(all.y);
    }
    static __device__ __forceinline__ void write(u16* to, const float (&from)[4]) {
        *(uint2*)to = make_uint2(pack(from[0], from[1]), pack(from[2], from[3]));
    }
};
template <> struct Run<u16, 8> {
    static __device__ __forceinline__ void read(const u16* from, float (&to)[8]) {
        uint4 all = *(const uint4*)from;
        to[0] = low(all.x), to[1] = high(all.x), to[2] = low(all.y), to[3] = high(all.y);
        to[4] = low(all.z), to[5] = high(all.z), to[6] = low(all.w), to[7] = high(all.w);
    }
    static __device__ __forceinline__ void write(u16* to, const float (&from)[8]) {
        *(uint4*)to = make_uint4(pack(from[0], from[1]), pack(from[2], from[3]), pack(from[4], from[5]), pack(from[6], from[7]));
    }
};

/// Where a thread stands: `lanes` threads share a row of channels out among the voxels, each with its own `channel` and the next W - 1.
template <int W> struct Place {
    int lanes, lane, channel, groups;
    bool active;
    __device__ __forceinline__ explicit Place(int channels) {
        int first = blockIdx.y * MAP_THREADS, here = channels / W - first;
        groups = here < MAP_THREADS ? here : MAP_THREADS;
        lanes = MAP_THREADS / groups;
        lane = threadIdx.x / groups;
        channel = (first + (int)threadIdx.x % groups) * W;
        active = lane < lanes;
    }
};

/// Instances for every width that T can be read in.
#define BY_WIDTH(T, width, CALL)                                       \
    switch (width) {                                                   \
        case 1: { constexpr int W = 1; CALL; } break;                  \
        case 2: { constexpr int W = 2; CALL; } break;                  \
        default: { constexpr int W = 16 / (int)sizeof(T); CALL; }      \
    }

/// Adds K sums of W channels over the lanes of a block, in f64 by halves, and writes them to out[k * pitch + channel].
/// `shared` holds W x 256 doubles.
template <int K, int W>
__device__ __forceinline__ void sum_lanes(const Place<W>& at, const float (&sums)[K][W], double* shared, double* out, int pitch) {
    int thread = threadIdx.x;
    UNROLL
    for (int k = 0; k < K; k++) {
        if (k) __syncthreads();
        UNROLL
        for (int w = 0; w < W; w++) shared[w * MAP_THREADS + thread] = at.active ? (double)sums[k][w] : 0.0;
        for (int left = at.lanes; left > 1;) {
            int half = (left + 1) / 2;
            __syncthreads();
            if (at.lane < left - half) {
                UNROLL
                for (int w = 0; w < W; w++) shared[w * MAP_THREADS + thread] += shared[w * MAP_THREADS + thread + half * at.groups];
            }
            left = half;
        }
        if (at.lane == 0) {
            UNROLL
            for (int w = 0; w < W; w++) out[k * pitch + at.channel + w] = shared[w * MAP_THREADS + thread];
        }
    }
}

/// Adds rows 0 to `rows` of a column of a matrix of doubles: by a block of 32 columns x 8 rows, complete in the threads of row 0.
/// `shared` holds 256 doubles; a block that adds again waits in between.
template <class P>
__device__ __forceinline__ double sum_column(const P* column, int rows, size_t pitch, bool inside, double* shared) {
    int x = threadIdx.x % 32, y = threadIdx.x / 32;
    double sum = 0;
    if (inside)
        for (int row = y; row < rows; row += 8) sum += (double)column[row * pitch];
    shared[y * 32 + x] = sum;
    __syncthreads();
    if (y == 0)
        for (int other = 1; other < 8; other++) sum += shared[other * 32 + x];
    return sum;
}
