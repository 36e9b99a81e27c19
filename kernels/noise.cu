// Random numbers equal to the CPU's (nn/rng.rs): Philox 4x32-10, keyed by (seed, purpose), counted by (position, step).
//
// Block b of a stream is philox(counter = (b low, b high, step low, step high), key). Two uniforms of 53 bits take one block:
// u = ((w0 << 32 | w1) >> 11) 2^-53 and the same of w2, w3; they give two normals by Box and Muller,
//   n(2 b) = sqrt(-2 ln(1 - u)) cos(2 pi u'), n(2 b + 1) = the same with sin,
// so number i needs block i / 2 and nothing before it. All in f64, rounded to f32 at the end. Bits and uniforms are the CPU's. What
// may differ: ln, sin and cos come from the platform (within 2 units in the last place of f64), so about one normal in 10^8 rounds to
// the neighbouring f32.
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
//
// key: models x 2 words, from BLAKE3 of seed and purpose on the host; step: in device memory, so that a graph is replayed.
// Launch: (blocks, 1, models) x 256, any number of blocks; writes 4 bytes a number.
#include "maps.cuh"

struct Words { u32 a, b, c, d; };

__device__ __forceinline__ Words philox(Words counter, u32 key0, u32 key1) {
    UNROLL
    for (int round = 0; round < 10; round++) {
        if (round) key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
        u32 high0 = __umulhi(0xD2511F53u, counter.a), low0 = 0xD2511F53u * counter.a;
        u32 high1 = __umulhi(0xCD9E8D57u, counter.c), low1 = 0xCD9E8D57u * counter.c;
        counter = Words{high1 ^ counter.b ^ key0, low1, high0 ^ counter.d ^ key1, low0};
    }
    return counter;
}

__device__ __forceinline__ double noise_uniform(u32 high, u32 low) {
    return (double)((((unsigned long long)high << 32) | low) >> 11) * 1.1102230246251565e-16;
}

__device__ __forceinline__ Words noise_block(const u32* key, unsigned long long step, unsigned long long block) {
    return philox(Words{(u32)block, (u32)(block >> 32), (u32)step, (u32)(step >> 32)}, key[2 * blockIdx.z], key[2 * blockIdx.z + 1]);
}

extern "C" __global__ void __launch_bounds__(256) noise_normals(float* out, const u32* key, const unsigned long long* step, long long count) {
    out += (size_t)blockIdx.z * count;
    unsigned long long now = *step;
    for (long long pair = (long long)blockIdx.x * MAP_THREADS + threadIdx.x; 2 * pair < count; pair += (long long)gridDim.x * MAP_THREADS) {
        Words words = noise_block(key, now, pair);
        double radius = sqrt(-2.0 * log(1.0 - noise_uniform(words.a, words.b)));
        double angle = 6.283185307179586 * noise_uniform(words.c, words.d);
        out[2 * pair] = (float)(radius * cos(angle));
        if (2 * pair + 1 < count) out[2 * pair + 1] = (float)(radius * sin(angle));
    }
}
extern "C" __global__ void __launch_bounds__(256) noise_uniforms(double* out, const u32* key, const unsigned long long* step, long long count) {
    out += (size_t)blockIdx.z * count;
    for (long long pair = (long long)blockIdx.x * MAP_THREADS + threadIdx.x; 2 * pair < count; pair += (long long)gridDim.x * MAP_THREADS) {
        Words words = noise_block(key, *step, pair);
        out[2 * pair] = noise_uniform(words.a, words.b);
        if (2 * pair + 1 < count) out[2 * pair + 1] = noise_uniform(words.c, words.d);
    }
}
