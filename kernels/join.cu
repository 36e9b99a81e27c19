// The end of a block: the sum of its branches and the activation, and how the gradient leaves it.
//
//   out = act(second scale + shift + bypass + max(0, c + sum_i f_i reference_i) + label)
//
// second: the second convolution before its normalisation (affine: scale, shift); bypass: at the output's size, or read at
// the nearest voxel of a smaller map; reference: the reference image at this level, whose 1x1 convolution and normalisation are
// folded into the factors f and the constant c; label: a number for each image and channel, after its ReLU; act: 0 nothing,
// 1 max(0, .), 2 softplus. Both conditions are absent in reference models (`factors` and `label` null).
// Forward reads second, bypass and reference and writes out. Backward reads the gradient of out, out, second and reference, writes
// the gradient before the activation in place, and sums for each channel
//   g, g (second - mean), and with conditions h and h reference_i, h = g where the reference condition's ReLU is open,
// into partials: models x (images x parts) x rows x channels doubles, rows = 2, or with conditions 5. There are 1 or 2 reference channels.
// The other kernels are small: conditions ready before the sum, their gradients from the partials after it.
//
// affine: models x 2 x channels; factors: models x (references + 1) x channels (the constant last); label: models x images x channels.
// Launch: (images x parts, chunks, models) x 256; the backward sum with W x 2048 bytes.
#include "maps.cuh"

constexpr double JOIN_EPSILON = 1e-5, JOIN_MOMENTUM = 0.1;

struct Join {
    const void* second;
    const void* bypass;
    const void* reference;
    void* out;  // backward: read only
    void* gradient;  // backward: in place
    const float* affine;
    const float* factors;
    const float* label;
    const double* moments;  // backward: of second
    double* partial;        // backward
    int images, z, y, x, bypass_z, bypass_y, bypass_x;
    int channels, width, references, parts, stretch, activation;
};

/// ln(1 + e^x).
__device__ __forceinline__ float join_softplus(float value) { return fmaxf(value, 0.f) + log1pf(expf(-fabsf(value))); }

/// Factors and constant of a thread's channels.
template <int R, int W> struct JoinReference {
    float factors[R ? R : 1][W], constant[W];
    __device__ __forceinline__ JoinReference(const Join& p, int channel) {
        const float* from = R ? p.factors + (size_t)blockIdx.z * (p.references + 1) * p.channels + channel : nullptr;
        UNROLL
        for (int w = 0; w < W; w++) {
            constant[w] = R ? from[p.references * p.channels + w] : 0.f;
            UNROLL
            for (int r = 0; r < R; r++) factors[r][w] = r < p.references ? from[r * p.channels + w] : 0.f;
        }
    }
    /// Before the ReLU.
    __device__ __forceinline__ float of(const float (&reference)[R ? R : 1], int w) const {
        float value = constant[w];
        UNROLL
        for (int r = 0; r < R; r++) value = fmaf(factors[r][w], reference[r], value);
        return value;
    }
};

template <class T, int R, int W>
__device__ void join_forward(const Join& p) {
    Place<W> at(p.channels);
    if (!at.active) return;
    int image = blockIdx.x / p.parts, part = blockIdx.x % p.parts;
    int voxels = p.z * p.y * p.x, low_voxels = p.bypass_z * p.bypass_y * p.bypass_x;
    bool same = low_voxels == voxels;
    int step_z = p.z / p.bypass_z, step_y = p.y / p.bypass_y, step_x = p.x / p.bypass_x;
    size_t row = (size_t)blockIdx.z * p.images + image;
    const T* second = (const T*)p.second + row * voxels * p.channels + at.channel;
    const T* bypass = (const T*)p.bypass + row * low_voxels * p.channels + at.channel;
    const T* reference = R ? (const T*)p.reference + row * voxels * p.references : nullptr;
    T* out = (T*)p.out + row * voxels * p.channels + at.channel;
    const float* affine = p.affine + (size_t)blockIdx.z * 2 * p.channels + at.channel;
    float scale[W], shift[W];
    UNROLL
    for (int w = 0; w < W; w++) {
        scale[w] = affine[w];
        shift[w] = affine[p.channels + w] + (R ? p.label[row * p.channels + at.channel + w] : 0.f);
    }
    JoinReference<R, W> condition(p, at.channel);
    int end = min(voxels, (part + 1) * p.stretch);
    UNROLL_BY(2)
    for (int voxel = part * p.stretch + at.lane; voxel < end; voxel += at.lanes) {
        int from = voxel;
        if (!same) {
            int line = voxel / p.x, plane = line / p.y;
            from = (plane / step_z * p.bypass_y + (line - plane * p.y) / step_y) * p.bypass_x + (voxel - line * p.x) / step_x;
        }
        float value[W], other[W], of_reference[R ? R : 1];
        Run<T, W>::read(second + (size_t)voxel * p.channels, value);
        Run<T, W>::read(bypass + (size_t)from * p.channels, other);
        UNROLL
        for (int r = 0; r < R; r++) of_reference[r] = r < p.references ? kept(reference + (size_t)voxel * p.references + r) : 0.f;
        UNROLL
        for (int w = 0; w < W; w++) {
            float sum = fmaf(value[w], scale[w], shift[w]) + other[w];
            if (R) sum += fmaxf(condition.of(of_reference, w), 0.f);
            value[w] = p.activation == 2 ? join_softplus(sum) : p.activation == 1 ? fmaxf(sum, 0.f) : sum;
        }
        Run<T, W>::write(out + (size_t)voxel * p.channels, value);
    }
}

template <class T, int R, int W>
__device__ void join_backward(const Join& p) {
    double* shared = map_shared();
    constexpr int K = R ? 3 + R : 2;
    Place<W> at(p.channels);
    int image = blockIdx.x / p.parts, part = blockIdx.x % p.parts, voxels = p.z * p.y * p.x;
    size_t row = (size_t)blockIdx.z * p.images + image;
    const T* second = (const T*)p.second + row * voxels * p.channels + at.channel;
    const T* reference = R ? (const T*)p.reference + row * voxels * p.references : nullptr;
    const T* out = (const T*)p.out + row * voxels * p.channels + at.channel;
    T* gradient = (T*)p.gradient + row * voxels * p.channels + at.channel;
    float mean[W], sums[K][W] = {};
    UNROLL
    for (int w = 0; w < W; w++) mean[w] = (float)p.moments[(size_t)blockIdx.z * 2 * p.channels + at.channel + w];
    JoinReference<R, W> condition(p, at.channel);
    int end = min(voxels, (part + 1) * p.stretch);
    if (at.active) {
        UNROLL_BY(2)
        for (int voxel = part * p.stretch + at.lane; voxel < end; voxel += at.lanes) {
            float g[W], value[W], before[W], of_reference[R ? R : 1];
            Run<T, W>::read(gradient + (size_t)voxel * p.channels, g);
            Run<T, W>::read(second + (size_t)voxel * p.channels, before);
            UNROLL
            for (int r = 0; r < R; r++) of_reference[r] = r < p.references ? kept(reference + (size_t)voxel * p.references + r) : 0.f;
            if (p.activation) {
                Run<T, W>::read(out + (size_t)voxel * p.channels, value);
                UNROLL
                for (int w = 0; w < W; w++) g[w] = p.activation == 2 ? g[w] * -expm1f(-value[w]) : value[w] > 0.f ? g[w] : 0.f;
                Run<T, W>::write(gradient + (size_t)voxel * p.channels, g);
            }
            UNROLL
            for (int w = 0; w < W; w++) {
                sums[0][w] += g[w];
                sums[1][w] = fmaf(g[w], before[w] - mean[w], sums[1][w]);
                if constexpr (R != 0) {
                    float through = condition.of(of_reference, w) > 0.f ? g[w] : 0.f;
                    sums[2][w] += through;
                    UNROLL
                    for (int r = 0; r < R; r++) sums[3 + r][w] = fmaf(through, of_reference[r], sums[3 + r][w]);
                }
            }
        }
    }
    double* partial = p.partial + ((size_t)blockIdx.z * gridDim.x + blockIdx.x) * K * p.channels;
    sum_lanes<K, W>(at, sums, shared, partial, p.channels);
}

#define BY_REFERENCES(T, NAME)                                     \
    if (p.references) BY_WIDTH(T, p.width, (NAME<T, 2, W>(p)))     \
    else BY_WIDTH(T, p.width, (NAME<T, 0, W>(p)))
extern "C" __global__ void __launch_bounds__(256) join_f32(Join p) { BY_REFERENCES(float, join_forward) }
extern "C" __global__ void __launch_bounds__(256) join_bf16(Join p) { BY_REFERENCES(u16, join_forward) }
extern "C" __global__ void __launch_bounds__(256) join_backward_f32(Join p) { BY_REFERENCES(float, join_backward) }
extern "C" __global__ void __launch_bounds__(256) join_backward_bf16(Join p) { BY_REFERENCES(u16, join_backward) }

/// A condition's 1x1 convolution and normalisation. Pointers are those of model 0; trained numbers lie `trained` floats apart,
/// statistics `statistics`, sigma `layers` floats.
struct Condition {
    const float* weight;  // inputs x channels
    const float* bias;
    const float* sigma;
    const float* norm_weight;
    const float* norm_bias;
    float* running_mean;
    float* running_variance;
    const double* mean;        // reference: models x inputs, of the reference image at this level
    const double* covariance;  // models x inputs x inputs
    const int* labels;         // label: models x images
    double* moments;           // models x 2 x channels
    float* out;                // reference: factors; label: models x images x channels
    float* dweight;            // gradients, for the backward kernels
    float* dnorm_weight;
    float* dnorm_bias;
    const double* sums;        // reference: partials of the join; label: models x images x channels, of g
    long long trained, statistics;
    int layers, inputs, channels, images, voxels, parts, rows, training;
};

__device__ __forceinline__ double condition_moments(const Condition& p, int model, int channel, double mean, double variance, double n,
                                                    double* shift) {
    float *running_mean = p.running_mean + model * p.statistics + channel, *running = p.running_variance + model * p.statistics + channel;
    if (p.training) {
        double unbiased = variance * n / (n - 1.0);
        *running_mean = (float)((double)*running_mean * (1.0 - JOIN_MOMENTUM) + JOIN_MOMENTUM * mean);
        *running = (float)((double)*running * (1.0 - JOIN_MOMENTUM) + JOIN_MOMENTUM * unbiased);
    } else {
        mean = *running_mean, variance = *running;
    }
    double* moments = p.moments + (size_t)model * 2 * p.channels + channel;
    moments[0] = mean, moments[p.channels] = variance;
    double scale = (double)p.norm_weight[model * p.trained + channel] * (1.0 / sqrt(variance + JOIN_EPSILON));
    *shift = (float)((double)p.norm_bias[model * p.trained + channel] - scale * mean);
    return (float)scale;
}

/// Factors and constant from the statistics of the reference image: the convolution is linear in few channels, so its moments follow
/// from theirs, and its output is never written down. Launch: (blocks of 256 channels, 1, models).
extern "C" __global__ void join_reference(Condition p) {
    int channel = blockIdx.x * blockDim.x + threadIdx.x, model = blockIdx.z, C = p.channels;
    if (channel >= C) return;
    double inverse = (double)(1.f / p.sigma[model * p.layers]), bias = p.bias[model * p.trained + channel];
    const float* weight = p.weight + model * p.trained + channel;
    double mean = 0, variance = 0;
    if (p.training) {
        const double *of = p.mean + model * p.inputs, *covariance = p.covariance + (size_t)model * p.inputs * p.inputs;
        for (int a = 0; a < p.inputs; a++) {
            mean += weight[a * C] * inverse * of[a];
            for (int b = 0; b < p.inputs; b++) variance += weight[a * C] * inverse * (weight[b * C] * inverse) * covariance[a * p.inputs + b];
        }
        mean += bias;
    }
    double shift, scale = condition_moments(p, model, channel, mean, max(variance, 0.0), (double)p.images * p.voxels, &shift);
    float* out = p.out + (size_t)model * (p.inputs + 1) * C + channel;
    for (int a = 0; a < p.inputs; a++) out[a * C] = (float)(weight[a * C] * inverse * scale);
    out[p.inputs * C] = (float)(bias * scale + shift);
}

/// The label's condition, after its ReLU: normalised over one value an image. Launch: (blocks of 256 channels, 1, models).
extern "C" __global__ void join_label(Condition p) {
    int channel = blockIdx.x * blockDim.x + threadIdx.x, model = blockIdx.z, C = p.channels;
    if (channel >= C) return;
    double inverse = (double)(1.f / p.sigma[model * p.layers]), bias = p.bias[model * p.trained + channel];
    const float* weight = p.weight + model * p.trained + channel;
    const int* labels = p.labels + model * p.images;
    double mean = 0, variance = 0;
    if (p.training) {
        for (int image = 0; image < p.images; image++) mean += weight[labels[image] * C] * inverse + bias;
        mean /= p.images;
        for (int image = 0; image < p.images; image++) {
            double off = weight[labels[image] * C] * inverse + bias - mean;
            variance += off * off;
        }
        variance /= p.images;
    }
    double shift, scale = condition_moments(p, model, channel, mean, variance, p.images, &shift);
    float* out = p.out + (size_t)model * p.images * C + channel;
    for (int image = 0; image < p.images; image++) {
        float value = (float)((weight[labels[image] * C] * inverse + bias) * scale + shift);
        out[image * C] = fmaxf(value, 0.f);
    }
}

/// Gradients of the reference condition (its weight as W / sigma), from the partials of the join. Launch: ((channels + 31) / 32, 1, models)
/// x 256, 2048 bytes.
extern "C" __global__ void join_reference_backward(Condition p) {
    double* shared = map_shared();
    int channel = blockIdx.x * 32 + threadIdx.x % 32, model = blockIdx.z, C = p.channels;
    bool inside = channel < C;
    size_t pitch = (size_t)p.rows * C;
    const double* column = p.sums + (size_t)model * p.parts * pitch + channel;
    double total = sum_column(column + 2 * C, p.parts, pitch, inside, shared), centred[2] = {};
    UNROLL
    for (int a = 0; a < 2; a++) {
        if (a >= p.inputs) break;
        __syncthreads();
        double with = sum_column(column + (3 + a) * C, p.parts, pitch, inside, shared);
        centred[a] = with - total * p.mean[model * p.inputs + a];
    }
    if (threadIdx.x >= 32 || !inside) return;
    double inverse_sigma = 1.0 / (double)p.sigma[model * p.layers];
    double inverse = 1.0 / sqrt(p.moments[(size_t)model * 2 * C + C + channel] + JOIN_EPSILON);
    const float* weight = p.weight + model * p.trained + channel;
    const double* covariance = p.covariance + (size_t)model * p.inputs * p.inputs;
    double product = 0;
    for (int a = 0; a < p.inputs; a++) product += weight[a * C] * inverse_sigma * centred[a];
    size_t at = model * p.trained + channel;
    p.dnorm_weight[at] = (float)(product * inverse);
    p.dnorm_bias[at] = (float)total;
    double outer = (double)p.norm_weight[at] * inverse;
    for (int a = 0; a < p.inputs; a++) {
        double along = 0;
        for (int b = 0; b < p.inputs; b++) along += weight[b * C] * inverse_sigma * covariance[b * p.inputs + a];
        p.dweight[at + a * C] = (float)(outer * (centred[a] - inverse * inverse * product * along));
    }
}

/// The sums of g of each image: models x images x channels, from the partials of the join. Launch: ((channels + 31) / 32, images, models)
/// x 256, 2048 bytes. `parts`: of one image.
extern "C" __global__ void join_image_sums(const double* partial, int parts, int rows, int channels, double* sums) {
    double* shared = map_shared();
    int channel = blockIdx.x * 32 + threadIdx.x % 32;
    size_t image = (size_t)blockIdx.z * gridDim.y + blockIdx.y, pitch = (size_t)rows * channels;
    bool inside = channel < channels;
    double sum = sum_column(partial + image * parts * pitch + channel, parts, pitch, inside, shared);
    if (threadIdx.x < 32 && inside) sums[image * channels + channel] = sum;
}

/// Gradients of the label's condition (its weight as W / sigma; the whole weight is written). Launch: (blocks of 256 channels, 1, models).
extern "C" __global__ void join_label_backward(Condition p) {
    int channel = blockIdx.x * blockDim.x + threadIdx.x, model = blockIdx.z, C = p.channels;
    if (channel >= C) return;
    double inverse_sigma = 1.0 / (double)p.sigma[model * p.layers];
    size_t at = model * p.trained + channel, first = (size_t)model * p.images * C + channel;
    const float* weight = p.weight + at;
    const int* labels = p.labels + model * p.images;
    const double* moments = p.moments + (size_t)model * 2 * C + channel;
    double mean = moments[0], inverse = 1.0 / sqrt(moments[C] + JOIN_EPSILON), bias = p.bias[at], total = 0, product = 0;
    for (int image = 0; image < p.images; image++) {
        double through = p.out[first + (size_t)image * C] > 0.f ? p.sums[first + (size_t)image * C] : 0.0;
        total += through;
        product += through * (weight[labels[image] * C] * inverse_sigma + bias - mean);
    }
    p.dnorm_weight[at] = (float)(product * inverse);
    p.dnorm_bias[at] = (float)total;
    double outer = (double)p.norm_weight[at] * inverse;
    for (int label = 0; label < p.inputs; label++) p.dweight[at + label * C] = 0.f;
    for (int image = 0; image < p.images; image++) {
        double through = p.out[first + (size_t)image * C] > 0.f ? p.sums[first + (size_t)image * C] : 0.0;
        double off = weight[labels[image] * C] * inverse_sigma + bias - mean;
        double inner = (total + inverse * inverse * product * off) / p.images;
        p.dweight[at + labels[image] * C] += (float)(outer * (through - inner));
    }
}
