// The losses of a batch and where the backward pass starts. Everything stays on the device.
//
//   error     e_n = sum over voxels and channels of (out - x)^2; gradient = 2 by_error / N (out - x) (1 - e^-out)
//             out = softplus(a); 1 - e^-out = da out, so the gradient is the one before the softplus. Reads out and x, writes gradient
//   latent    z = mu + noise e^(logvar / 2); k_n = -1/2 sum (1 + logvar - mu^2 - e^logvar)
//   backward  dmu = dz + by_kl / N mu; dlogvar = dz noise 1/2 e^(logvar / 2) + by_kl / N 1/2 (e^logvar - 1)
//   finish    reconstruction = sum e_n / N, kl = sum k_n / N, total = by_error reconstruction + by_kl kl, kept under the step's
//             number; flag[model] becomes 1 + step at the first total that is no finite number
// factors: models x 2 (by_error, by_kl): 1, 1 or 2 (1 - beta), 2 beta. Sums: threads in f32, blocks and images in f64, fixed order.
//
// error: (parts, images, models) x 256, 2048 bytes; partial models x images x parts doubles. latent, latent_backward:
// (images, 1, models) x 256, the former with 2048 bytes. finish: (1, 1, models) x 256, 2048 bytes.
#include "maps.cuh"

/// The sum over a block of 256, in the order of halves; whole in thread 0.
__device__ __forceinline__ double loss_block_sum(double value, double* shared) {
    int thread = threadIdx.x;
    shared[thread] = value;
    for (int half = MAP_THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (thread < half) shared[thread] += shared[thread + half];
    }
    return shared[thread];
}

template <class T>
__device__ void loss_error_of(const T* out, const T* x, T* gradient, const float* factors, double* partial, int length, int stretch) {
    double* shared = map_shared();
    size_t image = (size_t)blockIdx.z * gridDim.y + blockIdx.y;
    out += image * length, x += image * length;
    if (gradient) gradient += image * length;
    int begin = blockIdx.x * stretch, end = min(length, begin + stretch);
    float factor = (float)(2.0 * (double)factors[2 * blockIdx.z] / (double)gridDim.y), sum = 0.f;
    UNROLL_BY(4)
    for (int i = begin + (int)threadIdx.x; i < end; i += MAP_THREADS) {
        float value = kept(out + i), off = value - kept(x + i);
        sum = fmaf(off, off, sum);
        if (gradient) keep(gradient + i, factor * off * -expm1f(-value));
    }
    double total = loss_block_sum(sum, shared);
    if (threadIdx.x == 0) partial[image * gridDim.x + blockIdx.x] = total;
}
/// `gradient` may be null: evaluation.
extern "C" __global__ void __launch_bounds__(256) loss_error_f32(const float* out, const float* x, float* gradient, const float* factors, double* partial,
                                          int length, int stretch) {
    loss_error_of(out, x, gradient, factors, partial, length, stretch);
}
extern "C" __global__ void __launch_bounds__(256) loss_error_bf16(const u16* out, const u16* x, u16* gradient, const float* factors, double* partial,
                                           int length, int stretch) {
    loss_error_of(out, x, gradient, factors, partial, length, stretch);
}

template <class T>
__device__ void loss_latent_of(const float* mu, const float* logvar, const float* noise, T* z, double* kl, int latent) {
    double* shared = map_shared();
    size_t image = (size_t)blockIdx.z * gridDim.x + blockIdx.x, first = image * latent;
    double sum = 0;
    for (int i = threadIdx.x; i < latent; i += MAP_THREADS) {
        float m = mu[first + i], l = logvar[first + i];
        keep(z + first + i, m + noise[first + i] * expf(0.5f * l));
        sum += -0.5 * (1.0 + (double)l - (double)m * (double)m - exp((double)l));
    }
    double total = loss_block_sum(sum, shared);
    if (threadIdx.x == 0) kl[image] = total;
}
extern "C" __global__ void __launch_bounds__(256) loss_latent_f32(const float* mu, const float* logvar, const float* noise, float* z, double* kl, int latent) {
    loss_latent_of(mu, logvar, noise, z, kl, latent);
}
extern "C" __global__ void __launch_bounds__(256) loss_latent_bf16(const float* mu, const float* logvar, const float* noise, u16* z, double* kl, int latent) {
    loss_latent_of(mu, logvar, noise, z, kl, latent);
}

extern "C" __global__ void __launch_bounds__(256) loss_latent_backward(const float* mu, const float* logvar, const float* noise, const float* dz, const float* factors,
                                                float* dmu, float* dlogvar, int latent) {
    size_t first = ((size_t)blockIdx.z * gridDim.x + blockIdx.x) * latent;
    float by_kl = (float)((double)factors[2 * blockIdx.z + 1] / (double)gridDim.x);
    for (int i = threadIdx.x; i < latent; i += MAP_THREADS) {
        float m = mu[first + i], l = logvar[first + i], upstream = dz[first + i];
        dmu[first + i] = fmaf(by_kl, m, upstream);
        dlogvar[first + i] = upstream * noise[first + i] * 0.5f * expf(0.5f * l) + by_kl * 0.5f * (expf(l) - 1.f);
    }
}

/// losses: slots x models x 3 doubles (total, reconstruction, KL), slot = step % slots, `step` the number of steps taken before this one.
extern "C" __global__ void __launch_bounds__(256) loss_finish(const double* partial, const double* kl, const float* factors, const unsigned long long* step, int images,
                                       int parts, int slots, double* losses, unsigned long long* flag) {
    double* shared = map_shared();
    int model = blockIdx.z;
    double error = 0, divergence = 0;
    for (int i = threadIdx.x; i < images * parts; i += MAP_THREADS) error += partial[(size_t)model * images * parts + i];
    for (int i = threadIdx.x; i < images; i += MAP_THREADS) divergence += kl[(size_t)model * images + i];
    error = loss_block_sum(error, shared);
    __syncthreads();
    divergence = loss_block_sum(divergence, shared);
    if (threadIdx.x) return;
    error /= images, divergence /= images;
    double total = (double)factors[2 * model] * error + (double)factors[2 * model + 1] * divergence;
    double* out = losses + ((size_t)(*step % slots) * gridDim.z + model) * 3;
    out[0] = total, out[1] = error, out[2] = divergence;
    if (!(fabs(total) <= 1.7976931348623157e308) && flag[model] == 0) flag[model] = 1 + *step;
}
