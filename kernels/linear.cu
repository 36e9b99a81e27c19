// Products of matrices for the heads of the encoder and the start of the decoder: plain FMA, the oracle and fallback of cuBLASLt.
//
//   forward         y[n][o] = sum_k x[n][k] w[k][o] / sigma + bias[o]      m = images, n = outputs, k = inputs
//   input gradient  dx[n][k] = sum_o dy[n][o] w[k][o] / sigma
//   weight gradient dw[k][o] = sum_n x[n][k] dy[n][o]                      (of W / sigma)
// All are c[m][n] = sum_k a(m, k) b(k, n) with a step along each axis. k is cut into `splits` stretches; a block takes a tile of 32 x 64
// of one stretch and leaves f32 partials, splits x m x n, which linear_finish adds in order, in f64, with factor, bias and old value.
// Bytes: every weight once if m <= 32, and the partials twice.
//
// Launch: linear_product (tiles of n, tiles of m x splits, models) x 256, 6272 bytes; linear_finish (blocks of 256 numbers, 1, models);
// linear_bias, the sum of every column over rows: (blocks of 256 columns, 1, models).
#include "maps.cuh"

constexpr int LINEAR_M = 32, LINEAR_N = 64, LINEAR_K = 16;

struct Product {
    const void* a;
    const void* b;
    float* partial;
    long long a_pitch, b_pitch;  // from model to model
    int m, n, k, stretch, splits;
    long long a_m, a_k, b_k, b_n;  // steps along each axis
};

template <class A, class B>
__device__ void linear_product_of(const Product& p) {
    double* shared = map_shared();
    float* a_tile = (float*)shared;                          // 16 rows of 33: k, m
    float* b_tile = a_tile + LINEAR_K * (LINEAR_M + 1);  // 16 rows of 65: k, n
    int split = blockIdx.y % p.splits, first_m = blockIdx.y / p.splits * LINEAR_M, first_n = blockIdx.x * LINEAR_N;
    const A* a = (const A*)p.a + blockIdx.z * p.a_pitch;
    const B* b = (const B*)p.b + blockIdx.z * p.b_pitch;
    int thread = threadIdx.x, my_m = thread / 16 * 2, my_n = thread % 16 * 4;
    int end = min(p.k, (split + 1) * p.stretch);
    float sums[2][4] = {};
    for (int k0 = split * p.stretch; k0 < end; k0 += LINEAR_K) {
        for (int i = thread; i < LINEAR_K * LINEAR_M; i += MAP_THREADS) {
            int k = p.a_k == 1 ? i % LINEAR_K : i / LINEAR_M, m = p.a_k == 1 ? i / LINEAR_K : i % LINEAR_M;
            bool inside = k0 + k < end && first_m + m < p.m;
            a_tile[k * (LINEAR_M + 1) + m] = inside ? kept(a + (first_m + m) * p.a_m + (k0 + k) * p.a_k) : 0.f;
        }
        for (int i = thread; i < LINEAR_K * LINEAR_N; i += MAP_THREADS) {
            int k = p.b_k == 1 ? i % LINEAR_K : i / LINEAR_N, n = p.b_k == 1 ? i / LINEAR_K : i % LINEAR_N;
            bool inside = k0 + k < end && first_n + n < p.n;
            b_tile[k * (LINEAR_N + 1) + n] = inside ? kept(b + (k0 + k) * p.b_k + (first_n + n) * p.b_n) : 0.f;
        }
        __syncthreads();
        UNROLL
        for (int k = 0; k < LINEAR_K; k++) {
            float x[2], w[4];
            UNROLL
            for (int i = 0; i < 2; i++) x[i] = a_tile[k * (LINEAR_M + 1) + my_m + i];
            UNROLL
            for (int j = 0; j < 4; j++) w[j] = b_tile[k * (LINEAR_N + 1) + my_n + j];
            UNROLL
            for (int i = 0; i < 2; i++) {
                UNROLL
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(x[i], w[j], sums[i][j]);
            }
        }
        __syncthreads();
    }
    float* out = p.partial + ((size_t)blockIdx.z * p.splits + split) * p.m * p.n;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            if (first_m + my_m + i < p.m && first_n + my_n + j < p.n) out[(size_t)(first_m + my_m + i) * p.n + first_n + my_n + j] = sums[i][j];
}
extern "C" __global__ void __launch_bounds__(256) linear_product_f32_f32(Product p) { linear_product_of<float, float>(p); }
extern "C" __global__ void __launch_bounds__(256) linear_product_f32_bf16(Product p) { linear_product_of<float, u16>(p); }
extern "C" __global__ void __launch_bounds__(256) linear_product_bf16_f32(Product p) { linear_product_of<u16, float>(p); }
extern "C" __global__ void __launch_bounds__(256) linear_product_bf16_bf16(Product p) { linear_product_of<u16, u16>(p); }

/// out = sum of partials / sigma + bias, added to what out holds with `add`. sigma and bias may be null; `out` and `bias` lie `out_pitch`
/// and `bias_pitch` numbers apart, sigma `layers`.
template <class T>
__device__ void linear_finish_of(const float* partial, int splits, int m, int n, const float* sigma, int layers, const float* bias,
                                 long long bias_pitch, T* out, long long out_pitch, int add) {
    long long at = (long long)blockIdx.x * MAP_THREADS + threadIdx.x, count = (long long)m * n;
    if (at >= count) return;
    partial += (size_t)blockIdx.z * splits * count + at;
    double sum = 0;
    for (int split = 0; split < splits; split++) sum += partial[split * count];
    float value = (float)sum;
    if (sigma) value *= 1.f / sigma[(size_t)blockIdx.z * layers];
    if (bias) value += bias[blockIdx.z * bias_pitch + at % n];
    out += blockIdx.z * out_pitch + at;
    if (add) value += kept(out);
    keep(out, value);
}
extern "C" __global__ void __launch_bounds__(256) linear_finish_f32(const float* partial, int splits, int m, int n, const float* sigma, int layers, const float* bias,
                                             long long bias_pitch, float* out, long long out_pitch, int add) {
    linear_finish_of(partial, splits, m, n, sigma, layers, bias, bias_pitch, out, out_pitch, add);
}
extern "C" __global__ void __launch_bounds__(256) linear_finish_bf16(const float* partial, int splits, int m, int n, const float* sigma, int layers, const float* bias,
                                              long long bias_pitch, u16* out, long long out_pitch, int add) {
    linear_finish_of(partial, splits, m, n, sigma, layers, bias, bias_pitch, out, out_pitch, add);
}

template <class T>
__device__ void linear_bias_of(const T* dy, float* dbias, int rows, int columns, long long trained) {
    int column = blockIdx.x * MAP_THREADS + threadIdx.x;
    if (column >= columns) return;
    double sum = 0;
    for (int row = 0; row < rows; row++) sum += kept(dy + ((size_t)blockIdx.z * rows + row) * columns + column);
    dbias[blockIdx.z * trained + column] = (float)sum;
}
extern "C" __global__ void __launch_bounds__(256) linear_bias_f32(const float* dy, float* dbias, int rows, int columns, long long trained) {
    linear_bias_of(dy, dbias, rows, columns, trained);
}
extern "C" __global__ void __launch_bounds__(256) linear_bias_bf16(const u16* dy, float* dbias, int rows, int columns, long long trained) {
    linear_bias_of(dy, dbias, rows, columns, trained);
}
