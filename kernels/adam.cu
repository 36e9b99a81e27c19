// Adam over all numbers of all models in one launch, and the copies of the weights that the convolutions read.
//
//   m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w -= rate / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + e)
// reads w, m, v, g, writes w, m, v (28 bytes a number), and a bf16 copy in the same order where one is wanted (2 more). Every number
// is rounded as on the CPU: products and sums apart, no contraction. Source: Kingma and Ba 2015, algorithm 1.
//
// The step's number and what follows from it lie in device memory, so that a CUDA graph is replayed without arguments:
// adam_prepare, (1, 1, 1) x 32 or more threads >= models, counts the step; settings: models x 4 doubles (rate, b1, b2, e), so stacked
// models may differ; prepared: models x 7 floats. adam: (blocks, 1, models) x 256, any number of blocks.
//
// weights_turned writes, for layers in a table, taps x outputs x inputs in bf16 or f32 from taps x inputs x outputs in f32, the taps in
// reverse order where `flipped`: what the input gradient of a convolution of stride 1 reads as if it were a convolution.
// Launch: (tiles, 1, models) x 256, 4352 bytes, one tile of 32 x 32 a block.
#include "maps.cuh"

extern "C" __global__ void adam_prepare(unsigned long long* step, const double* settings, float* prepared, int models) {
    unsigned long long now = *step + 1;
    __syncthreads();
    if (threadIdx.x == 0) *step = now;
    for (int model = threadIdx.x; model < models; model += blockDim.x) {
        const double* of = settings + 4 * model;
        float* out = prepared + 7 * model;
        out[0] = (float)(of[0] / (1.0 - pow(of[1], (double)now)));
        out[1] = (float)(1.0 / sqrt(1.0 - pow(of[2], (double)now)));
        out[2] = (float)of[3];
        out[3] = (float)of[1], out[4] = (float)of[2];
        out[5] = (float)(1.0 - of[1]), out[6] = (float)(1.0 - of[2]);
    }
}

struct AdamStep {
    float step, root, epsilon, keep1, keep2, take1, take2;
    __device__ __forceinline__ float of(float w, float g, float& m, float& v) const {
        m = __fadd_rn(__fmul_rn(keep1, m), __fmul_rn(take1, g));
        v = __fadd_rn(__fmul_rn(keep2, v), __fmul_rn(take2, __fmul_rn(g, g)));
        return __fsub_rn(w, __fdiv_rn(__fmul_rn(step, m), __fadd_rn(__fmul_rn(__fsqrt_rn(v), root), epsilon)));
    }
};

/// `copy` may be null. `count` numbers a model, `pitch` apart (a multiple of 4, as all pointers are of 16 bytes).
extern "C" __global__ void __launch_bounds__(256) adam(float* w, const float* g, float* m, float* v, u16* copy, const float* prepared, long long count, long long pitch) {
    const float* of = prepared + 7 * blockIdx.z;
    AdamStep adam{of[0], of[1], of[2], of[3], of[4], of[5], of[6]};
    size_t base = (size_t)blockIdx.z * pitch;
    long long threads = (long long)gridDim.x * MAP_THREADS, first = (long long)blockIdx.x * MAP_THREADS + threadIdx.x;
    for (long long four = first; four < (count + 3) / 4; four += threads) {
        size_t at = base + 4 * four;
        if (4 * four + 4 <= count) {
            float weight[4], gradient[4], one[4], two[4];
            Run<float, 4>::read(w + at, weight);
            Run<float, 4>::read(g + at, gradient);
            Run<float, 4>::read(m + at, one);
            Run<float, 4>::read(v + at, two);
            UNROLL
            for (int i = 0; i < 4; i++) weight[i] = adam.of(weight[i], gradient[i], one[i], two[i]);
            Run<float, 4>::write(w + at, weight);
            Run<float, 4>::write(m + at, one);
            Run<float, 4>::write(v + at, two);
            if (copy) Run<u16, 4>::write(copy + at, weight);
        } else {
            for (long long i = 4 * four; i < count; i++) {
                w[base + i] = adam.of(w[base + i], g[base + i], m[base + i], v[base + i]);
                if (copy) copy[base + i] = to_bf16(w[base + i]);
            }
        }
    }
}

/// The bf16 copy of weights that Adam did not write: at the start. Launch: any number of blocks x 256.
extern "C" __global__ void __launch_bounds__(256) weights_rounded(const float* w, u16* copy, long long count) {
    for (long long i = (long long)blockIdx.x * MAP_THREADS + threadIdx.x; i < count; i += (long long)gridDim.x * MAP_THREADS) copy[i] = to_bf16(w[i]);
}

/// Where a layer's weights lie (in numbers, of model 0) and where its turned copy goes; `tile`: its first tile.
struct Turned {
    long long from, to;
    int taps, inputs, outputs, flipped, tile;
};

template <class T>
__device__ void weights_turned_of(const float* w, T* out, const Turned* table, int layers, long long from_pitch, long long to_pitch) {
    double* shared = map_shared();
    float* tile = (float*)shared;  // 32 rows of 33
    int layer = 0;
    while (layer + 1 < layers && (int)blockIdx.x >= table[layer + 1].tile) layer++;
    Turned of = table[layer];
    int across = (of.outputs + 31) / 32, down = (of.inputs + 31) / 32, number = blockIdx.x - of.tile;
    int tap = number / (across * down), row = number / across % down * 32, column = number % across * 32;
    int x = threadIdx.x % 32, y = threadIdx.x / 32;
    const float* from = w + blockIdx.z * from_pitch + of.from + (size_t)tap * of.inputs * of.outputs;
    for (int i = y; i < 32; i += 8)
        if (row + i < of.inputs && column + x < of.outputs) tile[i * 33 + x] = from[(size_t)(row + i) * of.outputs + column + x];
    __syncthreads();
    T* to = out + blockIdx.z * to_pitch + of.to + (size_t)(of.flipped ? of.taps - 1 - tap : tap) * of.inputs * of.outputs;
    for (int o = y; o < 32; o += 8)
        if (column + o < of.outputs && row + x < of.inputs) keep(to + (size_t)(column + o) * of.inputs + row + x, tile[x * 33 + o]);
}
extern "C" __global__ void __launch_bounds__(256) weights_turned_f32(const float* w, float* out, const Turned* table, int layers, long long from_pitch, long long to_pitch) {
    weights_turned_of(w, out, table, layers, from_pitch, to_pitch);
}
extern "C" __global__ void __launch_bounds__(256) weights_turned_bf16(const float* w, u16* out, const Turned* table, int layers, long long from_pitch, long long to_pitch) {
    weights_turned_of(w, out, table, layers, from_pitch, to_pitch);
}
