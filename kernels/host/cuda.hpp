// The names of CUDA C++ that our kernels use, for a host compiler. Kernels run under sim::launch.
#pragma once
#include "machine.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#define threadIdx (sim::self().index)
#define blockIdx (sim::machine.block_index)
#define blockDim (sim::machine.block)
#define gridDim (sim::machine.grid)

namespace sim {
struct Exchange { unsigned long long value, result; int from; };
inline void exchange(void* const* lanes) {
    for (int i = 0; i < WARP; i++) {
        Exchange& me = *(Exchange*)lanes[i];
        me.result = ((Exchange*)lanes[me.from & (WARP - 1)])->value;
    }
}
template <class T>
T exchanged(T value, int from) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "four or eight bytes");
    Exchange me{0, 0, from};
    memcpy(&me.value, &value, sizeof(T));
    collective(&me, exchange);
    memcpy(&value, &me.result, sizeof(T));
    return value;
}
struct Vote { bool mine; unsigned all; };
inline void vote(void* const* lanes) {
    unsigned all = 0;
    for (int i = 0; i < WARP; i++) all |= (unsigned)((Vote*)lanes[i])->mine << i;
    for (int i = 0; i < WARP; i++) ((Vote*)lanes[i])->all = all;
}
inline unsigned voted(bool mine) {
    Vote me{mine, 0};
    collective(&me, vote);
    return me.all;
}
inline void nothing(void* const*) {}
}  // namespace sim

// Masks are taken to name the whole warp: our kernels never split one.
inline void __syncthreads() { sim::block_barrier(); }
inline void __syncwarp(unsigned = ~0u) { sim::collective(nullptr, sim::nothing); }
inline void __threadfence() {}  // every store is seen at once
template <class T> T __shfl_sync(unsigned, T v, int from) { return sim::exchanged(v, from); }
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) { return sim::exchanged(v, sim::lane() ^ mask); }
template <class T> T __shfl_down_sync(unsigned, T v, int by) {
    int from = sim::lane() + by;
    return sim::exchanged(v, from < sim::WARP ? from : sim::lane());
}
template <class T> T __shfl_up_sync(unsigned, T v, int by) {
    int from = sim::lane() - by;
    return sim::exchanged(v, from >= 0 ? from : sim::lane());
}
inline unsigned __ballot_sync(unsigned, int mine) { return sim::voted(mine); }
inline int __any_sync(unsigned, int mine) { return sim::voted(mine) != 0; }
inline int __all_sync(unsigned, int mine) { return sim::voted(mine) == ~0u; }

// A fiber is never interrupted between two collectives, so a plain addition is atomic.
template <class T> T atomicAdd(T* at, T by) {
    T before = *at;
    *at = before + by;
    return before;
}

template <class T> T __ldg(const T* from) { return *from; }
inline unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline float __fadd_rn(float a, float b) { return a + b; }  // build with -ffp-contract=off
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float rsqrtf(float a) { return 1.f / sqrtf(a); }
using std::max;
using std::min;
