// One product of a warpgroup by itself: y (64 x COLUMNS, f32) = x (64 x 16) w (16 x COLUMNS), bf16. Tells on a new device whether the
// instruction reads registers, descriptors and swizzles as conv_wide.cu and the shim believe. Launch: 1 block of 128, 2048 bytes.
#include "tile.cuh"

template <int COLUMNS>
__device__ __forceinline__ void probe(const u16* x, const u16* w, float* y) {
    DYNAMIC_SHARED(shared);
    constexpr int CHUNKS = COLUMNS / 8;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int t = threadIdx.x; t < 16 * CHUNKS; t += 128) copy16(shared + swizzled<COLUMNS * 2>(t / CHUNKS, t / CHUNKS, t % CHUNKS), w + t * 8, true);
    copy_commit();
    copy_wait<0>();
    show_to_products();
    __syncthreads();
    u32 a[4];
    UNROLL for (int r = 0; r < 4; r++) a[r] = *(const u32*)(x + (warp * 16 + lane / 4 + 8 * (r & 1)) * 16 + lane % 4 * 2 + 8 * (r >> 1));
    float c[CHUNKS][4];
    UNROLL for (int n = 0; n < CHUNKS; n++) UNROLL for (int r = 0; r < 4; r++) c[n][r] = 0.f;
    product_fence();
    product(c, a, describe<COLUMNS * 2>(shared));
    product_commit();
    product_wait<0>();
    UNROLL for (int n = 0; n < CHUNKS; n++)
        UNROLL for (int r = 0; r < 4; r++) y[(warp * 16 + lane / 4 + 8 * (r >> 1)) * COLUMNS + n * 8 + lane % 4 * 2 + (r & 1)] = c[n][r];
}

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
extern "C" __global__ void __launch_bounds__(128) probe_64(const u16* x, const u16* w, float* y) { probe<64>(x, w, y); }
extern "C" __global__ void __launch_bounds__(128) probe_32(const u16* x, const u16* w, float* y) { probe<32>(x, w, y); }
#endif
