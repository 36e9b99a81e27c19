// Launch geometry of the kernels on maps: functions of sizes alone, so that sums are split the same way on every machine.
#pragma once
#include <vector>

namespace geometry {

constexpr int THREADS = 256;

inline int divide_up(long long a, long long b) { return (int)((a + b - 1) / b); }

/// Neighbouring channels that a thread reads at once: 16 bytes, two, or one.
inline int width(int channels, int bytes) {
    int most = 16 / bytes;
    return channels % most == 0 ? most : channels % 2 == 0 ? 2 : 1;
}
/// Blocks along y: 256 widths each.
inline int chunks(int channels, int width) { return divide_up(channels / width, THREADS); }
/// Threads that share out the voxels of a block.
inline int lanes(int channels, int width) {
    int groups = channels / width;
    return THREADS / (groups < THREADS ? groups : THREADS);
}
/// Voxels of one part of a sum: 4 to 512 a thread, so that there are about `parts` parts.
inline int stretch(long long voxels, int channels, int width, int parts) {
    int lanes = geometry::lanes(channels, width);
    long long each = divide_up(voxels, (long long)lanes * parts);
    return lanes * (int)(each < 4 ? 4 : each > 512 ? 512 : each);
}
/// Parts of a sum over a whole map, and of one image of a batch: about one wave of blocks on a large GPU.
constexpr int PARTS = 1024;
inline int image_parts(int images) { return images < PARTS ? PARTS / images : 1; }
/// Blocks of a pass that writes every voxel once; at least 4 voxels a thread, at most two waves.
inline int blocks(long long voxels, int channels, int width) {
    int wanted = divide_up(voxels, 4ll * lanes(channels, width));
    return wanted < 2112 ? wanted : 2112;
}
/// Bytes of shared memory of a sum.
inline int sum_bytes(int width) { return width * THREADS * 8; }

}  // namespace geometry
