// What every kernel starts from: types, bf16, shared memory. Self-contained (NVRTC brings no CUDA headers);
// without a CUDA compiler the shim of host/ takes the device's place.
#pragma once

typedef unsigned short u16;  // a bf16 in memory
typedef unsigned int u32;

#ifdef __CUDACC__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#define UNROLL _Pragma("unroll")
#else
#include "host/cuda.hpp"
#define DYNAMIC_SHARED(name) unsigned char* const name = sim::shared()
#define UNROLL
#endif

__device__ __forceinline__ float from_bits(u32 bits) { return __uint_as_float(bits); }
__device__ __forceinline__ u32 to_bits(float value) { return __float_as_uint(value); }

/// To nearest, ties to even, by integers; a NaN stays one.
__device__ __forceinline__ u16 to_bf16(float value) {
    u32 bits = to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
__device__ __forceinline__ float from_bf16(u16 value) { return from_bits((u32)value << 16); }

/// Two bf16 in a word, the first one low.
__device__ __forceinline__ u32 pack(float low, float high) {
#ifdef __CUDACC__
    u32 word;  // one instruction; equal to to_bf16 for every value, NaN too
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    return (u32)to_bf16(low) | (u32)to_bf16(high) << 16;
#endif
}
__device__ __forceinline__ float low(u32 word) { return from_bits(word << 16); }
__device__ __forceinline__ float high(u32 word) { return from_bits(word & 0xffff0000u); }
