// conv_wide.cu: forward passes and what they are as input gradients, against plain loops in f64; 2D and 3D, several models.
#include "check.hpp"
#include "../conv_wide.cu"

using namespace check;

struct Case { int models, images, inputs, outputs, z, y, x, blocks; bool fused, flipped; };  // z, y, x: of the output

template <class S>
static void check_kernel(const char* kernel_name, void (*kernel)(Wide), const Case& c, unsigned seeds) {
    Naive naive{c.images, c.inputs, c.outputs, {c.z, c.y, c.x}, {c.z, c.y, c.x}, {}, {}, {}, false};
    for (int d = 0; d < 3; d++) {
        bool flat = S::FLAT && d == 0;
        if (flat) naive.in[d] = naive.out[d] = 1;
        naive.kernel[d] = flat ? 1 : S::SIDE, naive.stride[d] = flat ? 1 : S::STRIDE, naive.padding[d] = flat ? 0 : 1;
        if (!flat && S::STRIDE == 2) naive.in[d] = 2 * naive.out[d] + (d == 1);  // an odd axis: only the padding reaches its last plane
    }
    char name[100];
    snprintf(name, sizeof name, "%s %dx%d %d->%d %dx%dx%d%s%s", kernel_name, c.models, c.images, c.inputs, c.outputs, c.z, c.y, c.x, c.fused ? " fused" : "",
             c.flipped ? " flipped" : "");
    size_t x_count = naive.in_voxels() * c.inputs, y_count = naive.out_voxels() * c.outputs, w_count = (size_t)naive.taps() * c.inputs * c.outputs;
    size_t pitch = w_count + 8;  // models' weights apart, still on 16 bytes
    std::vector<u16> x = random_bf16(c.models * x_count, 1), w = random_bf16(c.models * pitch, 0.1f);
    std::vector<float> affine(c.models * 2 * c.inputs), bias = random_f32(c.models * pitch, -1, 1), factor = random_f32(2 * c.models, 0.3f, 2);
    for (size_t i = 0; i < affine.size(); i++) affine[i] = i / c.inputs % 2 ? uniform(-0.5f, 0.5f) : uniform(0.5f, 2);
    int planes = S::FLAT ? naive.out[1] : naive.out[0], rows = S::FLAT ? c.images : naive.out[1];  // the tile's z and y
    int tiles = (planes + S::TZ - 1) / S::TZ * ((rows + S::TY - 1) / S::TY) * ((naive.out[2] + S::TX - 1) / S::TX) * (S::FLAT ? 1 : c.images);
    auto run = [&](unsigned seed) {
        std::vector<u16> y(c.models * y_count, 0xffff);
        std::vector<float> moments((size_t)c.models * tiles * 2 * c.outputs, NAN);
        Wide p{x.data(), c.fused ? affine.data() : nullptr, w.data(), bias.data(), factor.data() + 1, y.data(), moments.data(), (long long)pitch, 2,
               c.images, c.inputs, c.outputs, c.flipped, {naive.in[0], naive.in[1], naive.in[2]}};
        sim::launch({unsigned(c.blocks), unsigned(c.outputs / S::COLUMNS), unsigned(c.models)}, {S::THREADS, 1, 1}, S::SHARED, seed, [&] { kernel(p); });
        std::vector<float> all = widened(y);
        all.insert(all.end(), moments.begin(), moments.end());
        return all;
    };
    int my_tiles = (tiles + c.blocks - 1) / c.blocks;  // of block 0
    if (mutating) return remove_barriers(name, my_tiles * (S::CLASSES * (c.inputs / 32) * S::GROUPS + 1), run);

    std::vector<float> all = run(1), got(all.begin(), all.begin() + c.models * y_count);
    const sim::Counters& k = sim::machine.counters;
    printf("%-48s %d bytes of shared memory, %d threads, %.0f bytes of ldmatrix an mma\n", name, S::SHARED, S::THREADS, (double)k.load_bytes / k.multiplies);
    expect(name, "bank conflicts", k.load_real - k.load_ideal + k.copy_real - k.copy_ideal, 0.5);
    std::vector<double> want, sums(2 * c.models * c.outputs, 0.0), wanted(sums.size(), 0.0);
    for (int m = 0; m < c.models; m++) {
        std::vector<float> xm = widened({x.begin() + m * x_count, x.begin() + (m + 1) * x_count}), wm = widened({w.begin() + m * pitch, w.begin() + m * pitch + w_count});
        const float* scale = affine.data() + m * 2 * c.inputs;
        if (c.fused) xm = activate(xm, scale, scale + c.inputs, c.inputs, true);
        if (c.flipped) {
            std::vector<float> turned(wm.size());
            size_t size = (size_t)c.inputs * c.outputs;
            for (int t = 0; t < naive.taps(); t++) std::copy_n(wm.begin() + t * size, size, turned.begin() + (naive.taps() - 1 - t) * size);
            wm = turned;
        }
        std::vector<double> one = naive.forward(xm, wm);
        for (size_t i = 0; i < one.size(); i++) want.push_back(one[i] * factor[2 * m + 1] + bias[m * pitch + i % c.outputs]);
        for (int t = 0; t < tiles; t++)
            for (int i = 0; i < 2 * c.outputs; i++) sums[m * 2 * c.outputs + i] += all[got.size() + ((size_t)m * tiles + t) * 2 * c.outputs + i];
        for (size_t i = 0; i < y_count; i++) {
            double v = got[m * y_count + i];
            wanted[m * 2 * c.outputs + i % c.outputs] += v, wanted[(m * 2 + 1) * c.outputs + i % c.outputs] += v * v;
        }
    }
    expect(name, "beyond rounding", beyond_rounding(got, want), 1e-5);
    expect(name, "whole", relative(got, want), 4e-3);
    expect(name, "moments", relative(sums, wanted), 1e-5);
    for (unsigned seed = 2; seed <= seeds; seed++) expect(name, "bits of another order", !same_bits(run(seed), all), 0.5);
    sim::machine.counters = {};
}

int main(int count, char** values) {
    arguments(count, values);
    // Several tiles a block, all at a border; parts of 32 inputs; blocks of outputs; one voxel.
    std::vector<Case> cases = {{1, 1, 64, 64, 5, 7, 9, 1, true, false}, {2, 2, 32, 64, 1, 1, 1, 1, true, true}, {1, 9, 96, 128, 5, 2, 17, 3, false, false}};
    if (quick) cases = {{1, 1, 64, 64, 5, 3, 5, 1, true, true}};
    if (mutating) cases = {{1, 1, 64, 64, 5, 7, 9, 1, true, false}};
#define RUN(name, ...) \
    if (wanted(#name)) \
        for (const Case& c : cases) check_kernel<name##_shape>(#name, name, c, quick ? 2 : 3);
    WIDES(RUN)
    return verdict();
}
