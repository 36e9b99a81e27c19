// Batch normalisation of maps (models x voxels x channels), with the ReLU behind it.
//
//   moments     mean = sum x / n, variance = sum x^2 / n - mean^2      reads x once (sums about the first voxel of a part)
//   running     mean += 0.1 (mean - running mean), variance the same, with n / (n - 1)
//   affine      scale = weight / sqrt(variance + 1e-5), shift = bias - scale mean
//   forward     y = max(0, x scale + shift)                            reads x, writes y
//   sums        s = sum g, p = sum g (x - mean)                        reads dy and x
//   backward    dweight = p / deviation, dbias = s; dx = outer g + inner x + constant     reads dy and x, writes dx
//               outer = weight / deviation, inner = -outer p / (n deviation^2), constant = -outer s / n - inner mean
// g is dy where x scale + shift > 0, or dy where there is no ReLU (`affine` null). Sums as in maps.cuh: partials are
// models x parts x rows x channels doubles about zero, added by *_finish.
//
// moments: models x 2 x channels doubles (mean, variance); affine: models x 2 x channels floats (scale, shift);
// coefficients: models x 3 x channels floats (outer, inner, constant). Weights, biases and running statistics lie `trained`
// and `statistics` floats apart from model to model. Launch: (parts, chunks, models) x 256, W x 2048 bytes; *_finish
// ((channels + 31) / 32, 1, models) x 256, 2048 bytes.
#include "maps.cuh"

constexpr double NORM_EPSILON = 1e-5, NORM_MOMENTUM = 0.1;

template <class T, int W>
__device__ void norm_sums_of(const T* x, double* partial, int voxels, int channels, int stretch) {
    double* shared = map_shared();
    Place<W> at(channels);
    x += (size_t)blockIdx.z * voxels * channels;
    int begin = blockIdx.x * stretch, end = min(voxels, begin + stretch);
    float about[W], sums[2][W] = {};
    Run<T, W>::read(x + (size_t)begin * channels + at.channel, about);
    if (at.active) {
        UNROLL_BY(4)
        for (int voxel = begin + at.lane; voxel < end; voxel += at.lanes) {
            float value[W];
            Run<T, W>::read(x + (size_t)voxel * channels + at.channel, value);
            UNROLL
            for (int w = 0; w < W; w++) {
                float off = value[w] - about[w];
                sums[0][w] += off;
                sums[1][w] = fmaf(off, off, sums[1][w]);
            }
        }
    }
    double* out = partial + ((size_t)blockIdx.z * gridDim.x + blockIdx.x) * 2 * channels;
    sum_lanes<2, W>(at, sums, shared, out, channels);
    if (at.lane == 0) {
        UNROLL
        for (int w = 0; w < W; w++) {
            double first = out[at.channel + w], a = about[w], n = end - begin;
            out[at.channel + w] = first + n * a;
            out[channels + at.channel + w] += 2 * a * first + n * a * a;
        }
    }
}
extern "C" __global__ void __launch_bounds__(256) norm_sums_f32(const float* x, double* partial, int voxels, int channels, int width, int stretch) {
    BY_WIDTH(float, width, (norm_sums_of<float, W>(x, partial, voxels, channels, stretch)))
}
extern "C" __global__ void __launch_bounds__(256) norm_sums_bf16(const u16* x, double* partial, int voxels, int channels, int width, int stretch) {
    BY_WIDTH(u16, width, (norm_sums_of<u16, W>(x, partial, voxels, channels, stretch)))
}

/// Scale and shift of one channel.
__device__ __forceinline__ void norm_affine(double mean, double variance, float weight, float bias, float* affine, int channels) {
    double scale = (double)weight * (1.0 / sqrt(variance + NORM_EPSILON));
    affine[0] = (float)scale;
    affine[channels] = (float)((double)bias - scale * mean);
}

/// The running statistics after a batch of n values.
__device__ __forceinline__ void norm_run(float* mean, float* variance, double batch_mean, double batch_variance, double n) {
    *mean = (float)((double)*mean * (1.0 - NORM_MOMENTUM) + NORM_MOMENTUM * batch_mean);
    *variance = (float)((double)*variance * (1.0 - NORM_MOMENTUM) + NORM_MOMENTUM * (batch_variance * n / (n - 1.0)));
}

template <class P>
__device__ void norm_finish_of(const P* partial, int parts, int channels, int count, const float* weight, const float* bias,
                               float* running_mean, float* running_variance, long long trained, long long statistics,
                               double* moments, float* affine) {
    double* shared = map_shared();
    int channel = blockIdx.x * 32 + threadIdx.x % 32, model = blockIdx.z;
    bool inside = channel < channels;
    const P* column = partial + (size_t)model * parts * 2 * channels + channel;
    double first = sum_column(column, parts, 2 * (size_t)channels, inside, shared);
    __syncthreads();
    double second = sum_column(column + channels, parts, 2 * (size_t)channels, inside, shared);
    if (threadIdx.x >= 32 || !inside) return;
    double mean = first / count, variance = max(second / count - mean * mean, 0.0);
    moments += (size_t)model * 2 * channels + channel;
    moments[0] = mean, moments[channels] = variance;
    norm_run(running_mean + model * statistics + channel, running_variance + model * statistics + channel, mean, variance, count);
    norm_affine(mean, variance, weight[model * trained + channel], bias[model * trained + channel],
                affine + (size_t)model * 2 * channels + channel, channels);
}
extern "C" __global__ void norm_finish(const double* partial, int parts, int channels, int count, const float* weight, const float* bias,
                                       float* running_mean, float* running_variance, long long trained, long long statistics,
                                       double* moments, float* affine) {
    norm_finish_of(partial, parts, channels, count, weight, bias, running_mean, running_variance, trained, statistics, moments, affine);
}
/// The same from partial sums in f32, as the convolutions leave them.
extern "C" __global__ void norm_finish_fused(const float* partial, int parts, int channels, int count, const float* weight, const float* bias,
                                             float* running_mean, float* running_variance, long long trained, long long statistics,
                                             double* moments, float* affine) {
    norm_finish_of(partial, parts, channels, count, weight, bias, running_mean, running_variance, trained, statistics, moments, affine);
}

/// In evaluation: moments and affine from the running statistics. Launch: (blocks of 256 channels, 1, models).
extern "C" __global__ void norm_running(int channels, const float* weight, const float* bias, const float* running_mean,
                                        const float* running_variance, long long trained, long long statistics, double* moments, float* affine) {
    int channel = blockIdx.x * blockDim.x + threadIdx.x, model = blockIdx.z;
    if (channel >= channels) return;
    double mean = running_mean[model * statistics + channel], variance = running_variance[model * statistics + channel];
    moments += (size_t)model * 2 * channels + channel;
    moments[0] = mean, moments[channels] = variance;
    norm_affine(mean, variance, weight[model * trained + channel], bias[model * trained + channel],
                affine + (size_t)model * 2 * channels + channel, channels);
}

template <class T, int W>
__device__ void norm_relu_of(const T* x, const float* affine, T* y, int voxels, int channels) {
    Place<W> at(channels);
    if (!at.active) return;
    size_t offset = (size_t)blockIdx.z * voxels * channels + at.channel;
    affine += (size_t)blockIdx.z * 2 * channels + at.channel;
    float scale[W], shift[W];
    UNROLL
    for (int w = 0; w < W; w++) scale[w] = affine[w], shift[w] = affine[channels + w];
    UNROLL_BY(4)
    for (int voxel = blockIdx.x * at.lanes + at.lane; voxel < voxels; voxel += gridDim.x * at.lanes) {
        float value[W];
        Run<T, W>::read(x + offset + (size_t)voxel * channels, value);
        UNROLL
        for (int w = 0; w < W; w++) value[w] = fmaxf(fmaf(value[w], scale[w], shift[w]), 0.f);
        Run<T, W>::write(y + offset + (size_t)voxel * channels, value);
    }
}
extern "C" __global__ void __launch_bounds__(256) norm_relu_f32(const float* x, const float* affine, float* y, int voxels, int channels, int width) {
    BY_WIDTH(float, width, (norm_relu_of<float, W>(x, affine, y, voxels, channels)))
}
extern "C" __global__ void __launch_bounds__(256) norm_relu_bf16(const u16* x, const float* affine, u16* y, int voxels, int channels, int width) {
    BY_WIDTH(u16, width, (norm_relu_of<u16, W>(x, affine, y, voxels, channels)))
}

template <class T, int W>
__device__ void norm_backward_sums_of(const T* dy, const T* x, const double* moments, const float* affine, double* partial, int voxels,
                                      int channels, int stretch) {
    double* shared = map_shared();
    Place<W> at(channels);
    size_t offset = (size_t)blockIdx.z * voxels * channels + at.channel;
    int begin = blockIdx.x * stretch, end = min(voxels, begin + stretch);
    float mean[W], scale[W], shift[W], sums[2][W] = {};
    UNROLL
    for (int w = 0; w < W; w++) {
        int number = (size_t)blockIdx.z * 2 * channels + at.channel + w;
        mean[w] = (float)moments[number];
        scale[w] = affine ? affine[number] : 0.f, shift[w] = affine ? affine[number + channels] : 1.f;
    }
    if (at.active) {
        UNROLL_BY(4)
        for (int voxel = begin + at.lane; voxel < end; voxel += at.lanes) {
            float gradient[W], value[W];
            Run<T, W>::read(dy + offset + (size_t)voxel * channels, gradient);
            Run<T, W>::read(x + offset + (size_t)voxel * channels, value);
            UNROLL
            for (int w = 0; w < W; w++) {
                float through = fmaf(value[w], scale[w], shift[w]) > 0.f ? gradient[w] : 0.f;
                sums[0][w] += through;
                sums[1][w] = fmaf(through, value[w] - mean[w], sums[1][w]);
            }
        }
    }
    double* out = partial + ((size_t)blockIdx.z * gridDim.x + blockIdx.x) * 2 * channels;
    sum_lanes<2, W>(at, sums, shared, out, channels);
}
extern "C" __global__ void __launch_bounds__(256) norm_backward_sums_f32(const float* dy, const float* x, const double* moments, const float* affine,
                                                  double* partial, int voxels, int channels, int width, int stretch) {
    BY_WIDTH(float, width, (norm_backward_sums_of<float, W>(dy, x, moments, affine, partial, voxels, channels, stretch)))
}
extern "C" __global__ void __launch_bounds__(256) norm_backward_sums_bf16(const u16* dy, const u16* x, const double* moments, const float* affine,
                                                   double* partial, int voxels, int channels, int width, int stretch) {
    BY_WIDTH(u16, width, (norm_backward_sums_of<u16, W>(dy, x, moments, affine, partial, voxels, channels, stretch)))
}

/// From partials of `rows` sums a channel, of which the first two are s and p. `again`: another place for the sum of
/// gradients (the bias of the bypass), or null.
extern "C" __global__ void norm_backward_finish(const double* partial, int parts, int rows, int channels, int count, const double* moments,
                                                const float* weight, long long trained, float* dweight, float* dbias, float* again,
                                                float* coefficients) {
    double* shared = map_shared();
    int channel = blockIdx.x * 32 + threadIdx.x % 32, model = blockIdx.z;
    bool inside = channel < channels;
    size_t pitch = (size_t)rows * channels;
    const double* column = partial + (size_t)model * parts * pitch + channel;
    double sum = sum_column(column, parts, pitch, inside, shared);
    __syncthreads();
    double product = sum_column(column + channels, parts, pitch, inside, shared);
    if (threadIdx.x >= 32 || !inside) return;
    moments += (size_t)model * 2 * channels + channel;
    double inverse = 1.0 / sqrt(moments[channels] + NORM_EPSILON);
    double outer = (double)weight[model * trained + channel] * inverse;
    double inner = -outer * inverse * inverse * product / count;
    dweight[model * trained + channel] = (float)(product * inverse);
    dbias[model * trained + channel] = (float)sum;
    if (again) again[model * trained + channel] = (float)sum;
    coefficients += (size_t)model * 3 * channels + channel;
    coefficients[0] = (float)outer;
    coefficients[channels] = (float)inner;
    coefficients[2 * channels] = (float)(-outer * sum / count - inner * moments[0]);
}

template <class T, int W>
__device__ void norm_propagate_of(const T* dy, const T* x, const float* coefficients, const float* affine, T* dx, int voxels, int channels) {
    Place<W> at(channels);
    if (!at.active) return;
    size_t offset = (size_t)blockIdx.z * voxels * channels + at.channel;
    coefficients += (size_t)blockIdx.z * 3 * channels + at.channel;
    float outer[W], inner[W], constant[W], scale[W], shift[W];
    UNROLL
    for (int w = 0; w < W; w++) {
        outer[w] = coefficients[w], inner[w] = coefficients[channels + w], constant[w] = coefficients[2 * channels + w];
        int number = (size_t)blockIdx.z * 2 * channels + at.channel + w;
        scale[w] = affine ? affine[number] : 0.f, shift[w] = affine ? affine[number + channels] : 1.f;
    }
    UNROLL_BY(2)
    for (int voxel = blockIdx.x * at.lanes + at.lane; voxel < voxels; voxel += gridDim.x * at.lanes) {
        float gradient[W], value[W];
        Run<T, W>::read(dy + offset + (size_t)voxel * channels, gradient);
        Run<T, W>::read(x + offset + (size_t)voxel * channels, value);
        UNROLL
        for (int w = 0; w < W; w++) {
            float through = fmaf(value[w], scale[w], shift[w]) > 0.f ? gradient[w] : 0.f;
            gradient[w] = fmaf(outer[w], through, fmaf(inner[w], value[w], constant[w]));
        }
        Run<T, W>::write(dx + offset + (size_t)voxel * channels, gradient);
    }
}
/// dx may be dy.
extern "C" __global__ void __launch_bounds__(256) norm_propagate_f32(const float* dy, const float* x, const float* coefficients, const float* affine,
                                              float* dx, int voxels, int channels, int width) {
    BY_WIDTH(float, width, (norm_propagate_of<float, W>(dy, x, coefficients, affine, dx, voxels, channels)))
}
extern "C" __global__ void __launch_bounds__(256) norm_propagate_bf16(const u16* dy, const u16* x, const float* coefficients, const float* affine,
                                               u16* dx, int voxels, int channels, int width) {
    BY_WIDTH(u16, width, (norm_propagate_of<u16, W>(dy, x, coefficients, affine, dx, voxels, channels)))
}
