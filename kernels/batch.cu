// Batches on their way in and out: unpacked, and turned between channels first and channels last.
//
//   unpack  out[image][voxel][channel] = packed[image][channel][voxel] scale[channel]     reads 1 or 2 bytes a number, writes 4 or 2
//   turn    the same from f32 without a scale, and back
// packed: images x channels x voxels, as a packed training set keeps them; `picked` names the channel of the set for each channel
// of the map (null: all in order), `set_channels` how many the set has. Every model of a stack reads the same batch.
// scale: one float for each channel of the set: 1 / 65535 or 1 / 255 times the channel's full scale.
//
// Launch: (blocks, images, 1) x 256, any number of blocks; thread = voxel, so reads are whole lines and a write is a row of channels.
#include "maps.cuh"

template <class P, class T>
__device__ void batch_unpack(const P* packed, const float* scale, const int* picked, T* out, int voxels, int channels, int set_channels) {
    packed += (size_t)blockIdx.y * set_channels * voxels;
    out += (size_t)blockIdx.y * channels * voxels;
    for (int voxel = blockIdx.x * MAP_THREADS + threadIdx.x; voxel < voxels; voxel += gridDim.x * MAP_THREADS)
        for (int channel = 0; channel < channels; channel++) {
            int from = picked ? picked[channel] : channel;
            keep(out + (size_t)voxel * channels + channel, (float)packed[(size_t)from * voxels + voxel] * scale[from]);
        }
}
#define UNPACK(NAME, P, T)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) NAME(const P* packed, const float* scale, const int* picked, T* out, int voxels, int channels, int set_channels) { \
        batch_unpack(packed, scale, picked, out, voxels, channels, set_channels);                                                     \
    }
UNPACK(batch_unpack_u8_f32, unsigned char, float)
UNPACK(batch_unpack_u8_bf16, unsigned char, u16)
UNPACK(batch_unpack_u16_f32, u16, float)
UNPACK(batch_unpack_u16_bf16, u16, u16)

template <class T>
__device__ void batch_last(const float* first, T* last, int voxels, int channels) {
    size_t image = (size_t)blockIdx.y * channels * voxels;
    for (int voxel = blockIdx.x * MAP_THREADS + threadIdx.x; voxel < voxels; voxel += gridDim.x * MAP_THREADS)
        for (int channel = 0; channel < channels; channel++)
            keep(last + image + (size_t)voxel * channels + channel, first[image + (size_t)channel * voxels + voxel]);
}
template <class T>
__device__ void batch_first(const T* last, float* first, int voxels, int channels) {
    size_t image = (size_t)blockIdx.y * channels * voxels;
    for (int voxel = blockIdx.x * MAP_THREADS + threadIdx.x; voxel < voxels; voxel += gridDim.x * MAP_THREADS)
        for (int channel = 0; channel < channels; channel++)
            first[image + (size_t)channel * voxels + voxel] = kept(last + image + (size_t)voxel * channels + channel);
}
extern "C" __global__ void __launch_bounds__(256) batch_last_f32(const float* first, float* last, int voxels, int channels) { batch_last(first, last, voxels, channels); }
extern "C" __global__ void __launch_bounds__(256) batch_last_bf16(const float* first, u16* last, int voxels, int channels) { batch_last(first, last, voxels, channels); }
extern "C" __global__ void __launch_bounds__(256) batch_first_f32(const float* last, float* first, int voxels, int channels) { batch_first(last, first, voxels, channels); }
extern "C" __global__ void __launch_bounds__(256) batch_first_bf16(const u16* last, float* first, int voxels, int channels) { batch_first(last, first, voxels, channels); }
