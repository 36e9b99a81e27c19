// Convolutions as the definition says, one thread a number: the oracle of the whole step. Slow.
//
// Windows of any kernel, stride and padding; weights taps x inputs x outputs in f32. `spread`: a transposed convolution, input voxel i
// adds to output voxels i stride + tap - padding. `transposed`: the sum runs over the weights' outputs and gives their inputs, so an
// input gradient is the opposite of the forward pass with `transposed`. y = sum / sigma + bias, added to y with `add`.
#pragma once
#include "../maps.cuh"

struct Plain {
    const void* x;
    const void* y;  // written by the window, read (as the gradient of the output) by the weight gradient
    const float* weights;
    const float* bias;
    const float* sigma;
    float* dweights;
    long long trained;
    int layers, images, x_size[3], y_size[3], inputs, outputs, kernel[3], stride[3], padding[3];
    int spread, transposed, add;
};

/// The voxel of the other map that a tap leads to along one axis, or -1: from an output voxel to an input voxel of a convolution, or of a
/// transposed one.
__device__ __forceinline__ int plain_source(int voxel, int tap, int stride, int padding, int size, int spread) {
    int at = spread ? voxel + padding - tap : voxel * stride + tap - padding;
    if (at < 0) return -1;
    if (spread) {
        if (at % stride) return -1;
        at /= stride;
    }
    return at < size ? at : -1;
}

template <class T>
__device__ void plain_window(const Plain& p) {
    int summed = p.transposed ? p.outputs : p.inputs, made = p.transposed ? p.inputs : p.outputs;
    int xs = p.x_size[0] * p.x_size[1] * p.x_size[2], ys = p.y_size[0] * p.y_size[1] * p.y_size[2];
    long long at = (long long)blockIdx.x * MAP_THREADS + threadIdx.x;
    if (at >= (long long)p.images * ys * made) return;
    int channel = at % made, voxel = at / made % ys, image = at / made / ys;
    int z = voxel / (p.y_size[1] * p.y_size[2]), y = voxel / p.y_size[2] % p.y_size[1], x = voxel % p.y_size[2];
    const T* from = (const T*)p.x + ((size_t)blockIdx.z * p.images + image) * xs * summed;
    const float* w = p.weights + blockIdx.z * p.trained;
    float sum = 0.f;
    for (int kz = 0; kz < p.kernel[0]; kz++)
        for (int ky = 0; ky < p.kernel[1]; ky++)
            for (int kx = 0; kx < p.kernel[2]; kx++) {
                int iz = plain_source(z, kz, p.stride[0], p.padding[0], p.x_size[0], p.spread);
                int iy = plain_source(y, ky, p.stride[1], p.padding[1], p.x_size[1], p.spread);
                int ix = plain_source(x, kx, p.stride[2], p.padding[2], p.x_size[2], p.spread);
                if (iz < 0 || iy < 0 || ix < 0) continue;
                const T* of = from + (size_t)((iz * p.x_size[1] + iy) * p.x_size[2] + ix) * summed;
                const float* tap = w + (size_t)((kz * p.kernel[1] + ky) * p.kernel[2] + kx) * p.inputs * p.outputs;
                for (int s = 0; s < summed; s++) sum = fmaf(kept(of + s), p.transposed ? tap[(size_t)channel * p.outputs + s] : tap[(size_t)s * p.outputs + channel], sum);
            }
    float value = sum * (1.f / p.sigma[(size_t)blockIdx.z * p.layers]);
    if (p.bias) value += p.bias[blockIdx.z * p.trained + channel];
    T* to = (T*)p.y + (size_t)blockIdx.z * p.images * ys * made + at;
    if (p.add) value += kept(to);
    keep(to, value);
}
extern "C" __global__ void plain_window_f32(Plain p) { plain_window<float>(p); }
extern "C" __global__ void plain_window_bf16(Plain p) { plain_window<u16>(p); }

template <class T>
__device__ void plain_weights(const Plain& p) {
    int xs = p.x_size[0] * p.x_size[1] * p.x_size[2], ys = p.y_size[0] * p.y_size[1] * p.y_size[2];
    int at = blockIdx.x * MAP_THREADS + threadIdx.x;
    if (at >= p.kernel[0] * p.kernel[1] * p.kernel[2] * p.inputs * p.outputs) return;
    int output = at % p.outputs, input = at / p.outputs % p.inputs, tap = at / p.outputs / p.inputs;
    int kz = tap / (p.kernel[1] * p.kernel[2]), ky = tap / p.kernel[2] % p.kernel[1], kx = tap % p.kernel[2];
    const T* x = (const T*)p.x + (size_t)blockIdx.z * p.images * xs * p.inputs + input;
    const T* dy = (const T*)p.y + (size_t)blockIdx.z * p.images * ys * p.outputs + output;
    double sum = 0;
    for (int image = 0; image < p.images; image++)
        for (int z = 0; z < p.y_size[0]; z++)
            for (int y = 0; y < p.y_size[1]; y++) {
                int iz = plain_source(z, kz, p.stride[0], p.padding[0], p.x_size[0], p.spread);
                int iy = plain_source(y, ky, p.stride[1], p.padding[1], p.x_size[1], p.spread);
                if (iz < 0 || iy < 0) continue;
                float line = 0.f;
                for (int ox = 0; ox < p.y_size[2]; ox++) {
                    int ix = plain_source(ox, kx, p.stride[2], p.padding[2], p.x_size[2], p.spread);
                    if (ix < 0) continue;
                    size_t u = ((size_t)image * p.x_size[0] + iz) * p.x_size[1] + iy, v = ((size_t)image * p.y_size[0] + z) * p.y_size[1] + y;
                    line = fmaf(kept(x + (u * p.x_size[2] + ix) * p.inputs), kept(dy + (v * p.y_size[2] + ox) * p.outputs), line);
                }
                sum += line;
            }
    p.dweights[blockIdx.z * p.trained + at] = (float)sum;
}
extern "C" __global__ void plain_weights_f32(Plain p) { plain_weights<float>(p); }
extern "C" __global__ void plain_weights_bf16(Plain p) { plain_weights<u16>(p); }
