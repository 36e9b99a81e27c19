// Convolutions for every case: any kernel, stride, padding and number of channels, 2D (Z = 1) and 3D, f32 and bf16.
// They run the networks in f32, and whatever no faster kernel is there for.
//
//   gather   y[o] = sum over taps t, inputs i of x[o stride + t - padding][i] w[t][i]        (a convolution)
//   spread   y[o] = the same over all t and v with v stride + t - padding = o: x[v][i] w[t][i]   (transposed)
//   weights  dw[t][m][s] = sum over v of moving[v stride + t - padding][m] still[v][s]
//
// The input gradient of a gather is a spread of dy and the other way round, with w read as outputs x inputs (`turned`).
// In the weight gradient of a gather x moves and dy is still, of a spread dy moves and x is still.
//
// Maps: models x images x Z x Y x X x channels. Weights: taps (Z, Y, X) x inputs x outputs; weights and biases of model m
// start at m `pitch`. A map may be read as relu(x scale + shift) (models x 2 x channels: scale, shift); the padding stays zero.
//
// A block multiplies ROWS voxels (of one parity class, for a spread) with COLS channels through shared memory, 16 products
// deep. Sums are f32: forward one number after the other, taps before channels, whatever the tile; the weight gradient's
// over voxels in their order within a split, then the splits in f64 by sum_splits. Every map is read once for
// each COLS outputs and each tap (by way of the caches), so these kernels are bound by f32 arithmetic: 2 taps inputs outputs a voxel.
#include "device.cuh"

constexpr int PLAIN_THREADS = 256, PLAIN_DEPTH = 16;

struct Window { int kernel[3], stride[3], padding[3]; };

__device__ __forceinline__ float stored(const float* from) { return *from; }
__device__ __forceinline__ float stored(const u16* from) { return from_bf16(*from); }
__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(u16* to, float value) { *to = to_bf16(value); }

/// As the layer before stored it: the activated map would have been rounded to T.
template <class T>
__device__ __forceinline__ float activated(float value, const float* affine, int channel, int channels) {
    float y = fmaxf(fmaf(value, affine[channel], affine[channels + channel]), 0.f);
    return sizeof(T) == 2 ? from_bf16(to_bf16(y)) : y;
}

struct PlainApply {
    const void* x;
    const float* affine;     // null: the map as it is
    const void* w;
    const float* bias;       // null: none
    const float* factor;     // one number a model on the sums (1 / sigma), `factor_pitch` apart; null: 1
    void* y;
    long long pitch, factor_pitch;
    int images, inputs, outputs;
    int in[3], out[3];       // Z, Y, X
    Window window;
    int spread, turned, accumulate;  // accumulate: y += instead of y =
};

/// Along one axis: output `start + step n`, n < count; tap `first + every i`, i < taps, sees input n stride + at + towards i.
struct PlainAxis {
    int start, step, count, stride, first, every, taps, at, towards;
    __device__ __forceinline__ PlainAxis(const PlainApply& p, int d, int parity) {
        int kernel = p.window.kernel[d], s = p.window.stride[d], padding = p.window.padding[d];
        if (!p.spread) {
            start = 0, step = 1, count = p.out[d], stride = s, first = 0, every = 1, taps = kernel, at = -padding, towards = 1;
        } else {
            start = parity, step = s, stride = 1, first = (parity + padding) % s, every = s, towards = -1;
            count = parity < p.out[d] ? (p.out[d] - parity + s - 1) / s : 0;
            taps = first < kernel ? (kernel - first + s - 1) / s : 0, at = (parity + padding - first) / s;
        }
    }
};

template <int ROWS, int COLS>
struct PlainTile {
    static constexpr int ACROSS = COLS / 4, DOWN = PLAIN_THREADS / ACROSS, MINE = ROWS / DOWN;  // a thread: MINE x 4
    static constexpr int PITCH = ROWS + 4;  // of a row of a: keeps the stores of one voxel out of one bank
    static constexpr int SHARED = PLAIN_DEPTH * (PITCH + COLS) * 4;
    static_assert(ROWS % DOWN == 0 && PLAIN_THREADS % PLAIN_DEPTH == 0, "whole tiles");
};

/// acc += a b for one step of depth; a is DEPTH x PITCH, b is DEPTH x COLS.
template <int ROWS, int COLS>
__device__ __forceinline__ void plain_step(float (&acc)[PlainTile<ROWS, COLS>::MINE][4], const float* a, const float* b) {
    typedef PlainTile<ROWS, COLS> Tile;
    int row = threadIdx.x / Tile::ACROSS * Tile::MINE, column = threadIdx.x % Tile::ACROSS * 4;
    UNROLL for (int k = 0; k < PLAIN_DEPTH; k++) {
        float4 right = *(const float4*)(b + k * COLS + column);
        UNROLL for (int r = 0; r < Tile::MINE; r++) {
            float left = a[k * Tile::PITCH + row + r];
            acc[r][0] = fmaf(left, right.x, acc[r][0]), acc[r][1] = fmaf(left, right.y, acc[r][1]);
            acc[r][2] = fmaf(left, right.z, acc[r][2]), acc[r][3] = fmaf(left, right.w, acc[r][3]);
        }
    }
}

// Grid: (tiles of voxels of the largest class, classes x tiles of outputs, models); classes: stride^3 of a spread, else 1.
template <class T, int ROWS, int COLS>
__device__ __forceinline__ void plain_apply(const PlainApply& p) {
    typedef PlainTile<ROWS, COLS> Tile;
    DYNAMIC_SHARED(shared);
    float *a = (float*)shared, *b = a + PLAIN_DEPTH * Tile::PITCH;
    int model = blockIdx.z, column_tiles = (p.outputs + COLS - 1) / COLS, column0 = blockIdx.y % column_tiles * COLS;
    int c = blockIdx.y / column_tiles;
    const int* s = p.window.stride;
    PlainAxis z(p, 0, c / (s[1] * s[2])), y(p, 1, c / s[2] % s[1]), x(p, 2, c % s[2]);
    int voxels = p.images * z.count * y.count * x.count, row0 = blockIdx.x * ROWS;
    if (row0 >= voxels) return;
    const T* map = (const T*)p.x + (size_t)model * p.images * p.in[0] * p.in[1] * p.in[2] * p.inputs;
    const T* w = (const T*)p.w + model * p.pitch;
    const float* affine = p.affine ? p.affine + (size_t)model * 2 * p.inputs : nullptr;
    int depth = z.taps * y.taps * x.taps * p.inputs;

    // A thread always fills one place of the depth; of a, the rows DOWN apart.
    constexpr int FILLERS = PLAIN_THREADS / PLAIN_DEPTH, FILLS = ROWS / FILLERS;
    int k = threadIdx.x % PLAIN_DEPTH, filler = threadIdx.x / PLAIN_DEPTH;
    int image[FILLS], at[FILLS][3];
    UNROLL for (int f = 0; f < FILLS; f++) {
        int v = row0 + filler + f * FILLERS;
        image[f] = v < voxels ? v / (z.count * y.count * x.count) : -1;
        at[f][0] = v / (y.count * x.count) % z.count * z.stride + z.at;
        at[f][1] = v / x.count % y.count * y.stride + y.at;
        at[f][2] = v % x.count * x.stride + x.at;
    }
    float acc[Tile::MINE][4] = {};
    for (int k0 = 0; k0 < depth; k0 += PLAIN_DEPTH) {
        int here = k0 + k, tap = here / p.inputs, channel = here % p.inputs;
        int i = tap / (y.taps * x.taps), j = tap / x.taps % y.taps, l = tap % x.taps;
        UNROLL for (int f = 0; f < FILLS; f++) {
            int iz = at[f][0] + z.towards * i, iy = at[f][1] + y.towards * j, ix = at[f][2] + x.towards * l;
            float value = 0.f;
            if (here < depth && image[f] >= 0 && (unsigned)iz < (unsigned)p.in[0] && (unsigned)iy < (unsigned)p.in[1] && (unsigned)ix < (unsigned)p.in[2]) {
                value = stored(map + (((size_t)image[f] * p.in[0] + iz) * p.in[1] + iy) * ((size_t)p.in[2] * p.inputs) + (size_t)ix * p.inputs + channel);
                if (affine) value = activated<T>(value, affine, channel, p.inputs);
            }
            a[k * Tile::PITCH + filler + f * FILLERS] = value;
        }
        for (int t = threadIdx.x; t < PLAIN_DEPTH * COLS; t += PLAIN_THREADS) {
            // The neighbouring thread reads the neighbouring weight.
            int kk = p.turned ? t % PLAIN_DEPTH : t / COLS, column = p.turned ? t / PLAIN_DEPTH : t % COLS, o = column0 + column;
            int place = k0 + kk, mine = place / p.inputs, in = place % p.inputs;
            int tz = z.first + mine / (y.taps * x.taps) * z.every, ty = y.first + mine / x.taps % y.taps * y.every, tx = x.first + mine % x.taps * x.every;
            size_t number = ((size_t)tz * p.window.kernel[1] + ty) * p.window.kernel[2] + tx;
            number = p.turned ? (number * p.outputs + o) * p.inputs + in : (number * p.inputs + in) * p.outputs + o;
            b[kk * COLS + column] = place < depth && o < p.outputs ? stored(w + number) : 0.f;
        }
        __syncthreads();
        plain_step<ROWS, COLS>(acc, a, b);
        __syncthreads();
    }

    float factor = p.factor ? p.factor[model * p.factor_pitch] : 1.f;
    T* result = (T*)p.y + (size_t)model * p.images * p.out[0] * p.out[1] * p.out[2] * p.outputs;
    UNROLL for (int r = 0; r < Tile::MINE; r++) {
        int v = row0 + threadIdx.x / Tile::ACROSS * Tile::MINE + r;
        if (v >= voxels) continue;
        int n = v / (z.count * y.count * x.count);
        int oz = z.start + v / (y.count * x.count) % z.count * z.step, oy = y.start + v / x.count % y.count * y.step, ox = x.start + v % x.count * x.step;
        T* to = result + (((size_t)n * p.out[0] + oz) * p.out[1] + oy) * ((size_t)p.out[2] * p.outputs) + (size_t)ox * p.outputs;
        UNROLL for (int q = 0; q < 4; q++) {
            int o = column0 + threadIdx.x % Tile::ACROSS * 4 + q;
            if (o >= p.outputs) continue;
            float value = fmaf(acc[r][q], factor, p.bias ? p.bias[model * p.pitch + o] : 0.f);
            store(to + o, p.accumulate ? stored(to + o) + value : value);
        }
    }
}

struct PlainWeights {
    const void *moving, *still;
    const float *moving_affine, *still_affine;  // null: the map as it is; one of the two at most is x
    float* partial;          // splits x models x taps x moving channels x still channels, every number written
    int images, moving_channels, still_channels;
    int moving_size[3], still_size[3];
    Window window;
};

// Grid: (tiles of taps x moving channels, tiles of still channels x splits, models); splits: gridDim.y / tiles of still channels.
template <class T, int ROWS, int COLS>
__device__ __forceinline__ void plain_weights(const PlainWeights& p) {
    typedef PlainTile<ROWS, COLS> Tile;
    DYNAMIC_SHARED(shared);
    float *a = (float*)shared, *b = a + PLAIN_DEPTH * Tile::PITCH;
    int column_tiles = (p.still_channels + COLS - 1) / COLS, splits = gridDim.y / column_tiles;
    int model = blockIdx.z, column0 = blockIdx.y % column_tiles * COLS, split = blockIdx.y / column_tiles, row0 = blockIdx.x * ROWS;
    int rows = p.window.kernel[0] * p.window.kernel[1] * p.window.kernel[2] * p.moving_channels;
    const int *size = p.still_size, *far = p.moving_size;
    int voxels = p.images * size[0] * size[1] * size[2];
    int stretch = (voxels + splits - 1) / splits, begin = split * stretch, end = begin + stretch < voxels ? begin + stretch : voxels;
    const T* moving = (const T*)p.moving + (size_t)model * p.images * far[0] * far[1] * far[2] * p.moving_channels;
    const T* still = (const T*)p.still + (size_t)model * voxels * p.still_channels;
    const float* moving_affine = p.moving_affine ? p.moving_affine + (size_t)model * 2 * p.moving_channels : nullptr;
    const float* still_affine = p.still_affine ? p.still_affine + (size_t)model * 2 * p.still_channels : nullptr;

    // A thread always fills one row of a, so the tap and the channel stay; its voxels are PLAIN_THREADS / ROWS apart.
    constexpr int FILLERS = PLAIN_THREADS / ROWS;
    static_assert(FILLERS * ROWS == PLAIN_THREADS, "a thread keeps its row");
    int row = threadIdx.x % ROWS, tap = (row0 + row) / p.moving_channels, m = (row0 + row) % p.moving_channels;
    int tz = tap / (p.window.kernel[1] * p.window.kernel[2]) - p.window.padding[0];
    int ty = tap / p.window.kernel[2] % p.window.kernel[1] - p.window.padding[1], tx = tap % p.window.kernel[2] - p.window.padding[2];

    float acc[Tile::MINE][4] = {};
    for (int v0 = begin; v0 < end; v0 += PLAIN_DEPTH) {
        for (int k = threadIdx.x / ROWS; k < PLAIN_DEPTH; k += FILLERS) {
            int v = v0 + k, n = v / (size[0] * size[1] * size[2]);
            int z = v / (size[1] * size[2]) % size[0] * p.window.stride[0] + tz;
            int y = v / size[2] % size[1] * p.window.stride[1] + ty, x = v % size[2] * p.window.stride[2] + tx;
            float value = 0.f;
            if (v < end && row0 + row < rows && (unsigned)z < (unsigned)far[0] && (unsigned)y < (unsigned)far[1] && (unsigned)x < (unsigned)far[2]) {
                value = stored(moving + (((size_t)n * far[0] + z) * far[1] + y) * ((size_t)far[2] * p.moving_channels) + (size_t)x * p.moving_channels + m);
                if (moving_affine) value = activated<T>(value, moving_affine, m, p.moving_channels);
            }
            a[k * Tile::PITCH + row] = value;
        }
        for (int t = threadIdx.x; t < PLAIN_DEPTH * COLS; t += PLAIN_THREADS) {
            int v = v0 + t / COLS, o = column0 + t % COLS;
            float value = 0.f;
            if (v < end && o < p.still_channels) {
                value = stored(still + (size_t)v * p.still_channels + o);
                if (still_affine) value = activated<T>(value, still_affine, o, p.still_channels);
            }
            b[t] = value;
        }
        __syncthreads();
        plain_step<ROWS, COLS>(acc, a, b);
        __syncthreads();
    }

    float* partial = p.partial + ((size_t)split * gridDim.z + model) * rows * p.still_channels;
    UNROLL for (int r = 0; r < Tile::MINE; r++)
        UNROLL for (int q = 0; q < 4; q++) {
            int i = row0 + threadIdx.x / Tile::ACROSS * Tile::MINE + r, o = column0 + threadIdx.x % Tile::ACROSS * 4 + q;
            if (i < rows && o < p.still_channels) partial[(size_t)i * p.still_channels + o] = acc[r][q];
        }
}

struct PlainSum {
    const float* partial;    // splits x models x taps x rows x columns
    const float* factor;     // as in PlainApply
    float* dw;               // models, `pitch` apart
    long long pitch, factor_pitch;
    int splits, taps, rows, columns;
    int turned;              // dw is taps x columns x rows
};

/// dw = factor times the sum of the splits, one after the other in f64. Grid: (numbers / 256, 1, models).
extern "C" __global__ void __launch_bounds__(256) plain_sum(const PlainSum p) {
    int count = p.taps * p.rows * p.columns, i = blockIdx.x * 256 + threadIdx.x, model = blockIdx.z;
    if (i >= count) return;
    double sum = 0;
    for (int s = 0; s < p.splits; s++) sum += p.partial[((size_t)s * gridDim.z + model) * count + i];
    if (p.factor) sum *= p.factor[model * p.factor_pitch];
    int column = i % p.columns, row = i / p.columns % p.rows, tap = i / p.columns / p.rows;
    p.dw[model * p.pitch + (p.turned ? (tap * p.columns + column) * p.rows + row : i)] = (float)sum;
}

// Wide: 64 x 64, 8 448 bytes of shared memory; narrow (16 outputs or fewer): 128 x 16, 9 472 bytes.
#define PLAIN_KERNELS(suffix, T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) plain_apply_wide_##suffix(const PlainApply p) { plain_apply<T, 64, 64>(p); }     \
    extern "C" __global__ void __launch_bounds__(256) plain_apply_narrow_##suffix(const PlainApply p) { plain_apply<T, 128, 16>(p); }  \
    extern "C" __global__ void __launch_bounds__(256) plain_weights_wide_##suffix(const PlainWeights p) { plain_weights<T, 64, 64>(p); } \
    extern "C" __global__ void __launch_bounds__(256) plain_weights_narrow_##suffix(const PlainWeights p) { plain_weights<T, 128, 16>(p); }
PLAIN_KERNELS(f32, float)
PLAIN_KERNELS(bf16, u16)
