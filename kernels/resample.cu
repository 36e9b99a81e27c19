// Maps of another size, and the statistics of the reference image.
//
//   nearest     small[v] = large[v step]                  an eighth of large is touched (whole lines of memory: read as large)
//   average     small[v] = mean of its 2 x 2 (x 2) voxels of large          reads large, writes small
//   spread      large[u] = small[u / 2] / corners: the adjoint of average   reads small, writes large
//   corners     small[v] = sum of its voxels of large: the adjoint of nearest upsampling
//   upsample    large[u] = small[u / 2]
//   covariance  mean of each reference channel, and covariance of each two (divided by the count): one read
// Steps along Z, Y and X are the quotients of the sizes (1 where an axis stays). With `add`, spread adds to large.
//
// Launch: (blocks, chunks, models) x 256, any number of blocks; a thread takes one width of channels of one voxel of the map
// that is written. covariance_sums: (parts, 1, models) x 256, 2048 bytes; partials models x parts x (R + R (R + 1) / 2) doubles
// about zero; covariance_finish: (1, 1, models) x 32.
#include "maps.cuh"

struct Resample {
    const void* from;
    void* to;
    int images, from_z, from_y, from_x, to_z, to_y, to_x, channels, width, add;
};

enum { RESAMPLE_NEAREST, RESAMPLE_AVERAGE, RESAMPLE_SPREAD, RESAMPLE_CORNERS, RESAMPLE_UPSAMPLE };

template <class T, int KIND, int W>
__device__ void resample(const Resample& p) {
    constexpr bool DOWN = KIND == RESAMPLE_NEAREST || KIND == RESAMPLE_AVERAGE || KIND == RESAMPLE_CORNERS;
    Place<W> at(p.channels);
    if (!at.active) return;
    int voxels = p.to_z * p.to_y * p.to_x, all = p.images * voxels, from_voxels = p.from_z * p.from_y * p.from_x;
    int step_z = DOWN ? p.from_z / p.to_z : p.to_z / p.from_z, step_y = DOWN ? p.from_y / p.to_y : p.to_y / p.from_y;
    int step_x = DOWN ? p.from_x / p.to_x : p.to_x / p.from_x;
    float share = 1.f / (float)(step_z * step_y * step_x);
    const T* from = (const T*)p.from + (size_t)blockIdx.z * p.images * from_voxels * p.channels + at.channel;
    T* to = (T*)p.to + (size_t)blockIdx.z * all * p.channels + at.channel;
    for (int voxel = blockIdx.x * at.lanes + at.lane; voxel < all; voxel += gridDim.x * at.lanes) {
        int line = voxel / p.to_x, x = voxel - line * p.to_x, plane = line / p.to_y, y = line - plane * p.to_y;
        int image = plane / p.to_z, z = plane - image * p.to_z;
        float value[W];
        if constexpr (DOWN) {
            const T* first = from + ((((size_t)image * p.from_z + z * step_z) * p.from_y + y * step_y) * p.from_x + x * step_x) * p.channels;
            if constexpr (KIND == RESAMPLE_NEAREST) {
                Run<T, W>::read(first, value);
            } else {
                UNROLL
                for (int w = 0; w < W; w++) value[w] = 0.f;
                for (int c = 0; c < step_z; c++)
                    for (int b = 0; b < step_y; b++)
                        for (int a = 0; a < step_x; a++) {
                            float one[W];
                            Run<T, W>::read(first + (((size_t)c * p.from_y + b) * p.from_x + a) * p.channels, one);
                            UNROLL
                            for (int w = 0; w < W; w++) value[w] += one[w];
                        }
                if (KIND == RESAMPLE_AVERAGE) {
                    UNROLL
                    for (int w = 0; w < W; w++) value[w] *= share;
                }
            }
        } else {
            size_t source = (((size_t)image * p.from_z + z / step_z) * p.from_y + y / step_y) * p.from_x + x / step_x;
            Run<T, W>::read(from + source * p.channels, value);
            if (KIND == RESAMPLE_SPREAD) {
                UNROLL
                for (int w = 0; w < W; w++) value[w] *= share;
            }
        }
        if (p.add) {
            float before[W];
            Run<T, W>::read(to + (size_t)voxel * p.channels, before);
            UNROLL
            for (int w = 0; w < W; w++) value[w] += before[w];
        }
        Run<T, W>::write(to + (size_t)voxel * p.channels, value);
    }
}

#define RESAMPLE(NAME, KIND)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) NAME##_f32(Resample p) { BY_WIDTH(float, p.width, (resample<float, KIND, W>(p))) } \
    extern "C" __global__ void __launch_bounds__(256) NAME##_bf16(Resample p) { BY_WIDTH(u16, p.width, (resample<u16, KIND, W>(p))) }
RESAMPLE(resample_nearest, RESAMPLE_NEAREST)
RESAMPLE(resample_average, RESAMPLE_AVERAGE)
RESAMPLE(resample_spread, RESAMPLE_SPREAD)
RESAMPLE(resample_corners, RESAMPLE_CORNERS)
RESAMPLE(resample_upsample, RESAMPLE_UPSAMPLE)

template <class T, int R>
__device__ void covariance_sums_of(const T* x, double* partial, int voxels, int stretch) {
    double* shared = map_shared();
    constexpr int K = R + R * (R + 1) / 2;
    double* sum = shared;
    int thread = threadIdx.x, begin = blockIdx.x * stretch, end = min(voxels, begin + stretch);
    x += (size_t)blockIdx.z * voxels * R;
    float about[R], sums[K] = {};
    UNROLL
    for (int r = 0; r < R; r++) about[r] = kept(x + (size_t)begin * R + r);
    for (int voxel = begin + thread; voxel < end; voxel += MAP_THREADS) {
        float off[R];
        UNROLL
        for (int r = 0; r < R; r++) off[r] = kept(x + (size_t)voxel * R + r) - about[r];
        int k = R;
        UNROLL
        for (int a = 0; a < R; a++) {
            sums[a] += off[a];
            UNROLL
            for (int b = a; b < R; b++, k++) sums[k] = fmaf(off[a], off[b], sums[k]);
        }
    }
    double all[K];
    UNROLL
    for (int k = 0; k < K; k++) {
        if (k) __syncthreads();
        sum[thread] = sums[k];
        for (int half = MAP_THREADS / 2; half; half /= 2) {
            __syncthreads();
            if (thread < half) sum[thread] += sum[thread + half];
        }
        all[k] = sum[thread];
    }
    if (thread) return;
    double n = end - begin;
    double* out = partial + ((size_t)blockIdx.z * gridDim.x + blockIdx.x) * K;
    int k = R;
    UNROLL
    for (int a = 0; a < R; a++) {
        out[a] = all[a] + n * about[a];
        UNROLL
        for (int b = a; b < R; b++, k++) out[k] = all[k] + about[a] * all[b] + about[b] * all[a] + n * about[a] * about[b];
    }
}
#define BY_CHANNELS(CALL)                                  \
    switch (references) {                                  \
        case 1: { constexpr int R = 1; CALL; } break;      \
        case 2: { constexpr int R = 2; CALL; } break;      \
        default: { constexpr int R = 3; CALL; }            \
    }
extern "C" __global__ void __launch_bounds__(256) covariance_sums_f32(const float* x, double* partial, int voxels, int references, int stretch) {
    BY_CHANNELS((covariance_sums_of<float, R>(x, partial, voxels, stretch)))
}
extern "C" __global__ void __launch_bounds__(256) covariance_sums_bf16(const u16* x, double* partial, int voxels, int references, int stretch) {
    BY_CHANNELS((covariance_sums_of<u16, R>(x, partial, voxels, stretch)))
}
/// mean: models x R; covariance: models x R x R.
extern "C" __global__ void covariance_finish(const double* partial, int parts, int voxels, int references, double* mean, double* covariance) {
    double* shared = map_shared();
    int R = references, K = R + R * (R + 1) / 2, model = blockIdx.z, thread = threadIdx.x;
    double* total = shared;  // 32
    double sum = 0;
    if (thread < K)
        for (int part = 0; part < parts; part++) sum += partial[((size_t)model * parts + part) * K + thread];
    total[thread] = sum / voxels;
    __syncthreads();
    if (thread < R) mean[model * R + thread] = total[thread];
    if (thread < R * R) {
        int a = min(thread / R, thread % R), b = max(thread / R, thread % R), k = R;
        for (int before = 0; before < a; before++) k += R - before;
        covariance[model * R * R + thread] = total[k + b - a] - total[a] * total[b];
    }
}
