// conv_plain.cu: forward, input gradient and weight gradient of every kind of convolution against plain loops in f64.
#include "check.hpp"
#include "../conv_plain.cu"

using namespace check;

struct Case { bool spread; int dimensions, kernel, stride, padding, inputs, outputs, models, images, in[3]; };

static unsigned tiles(int count, int size) { return (count + size - 1) / size; }

template <class T> struct Store;
template <> struct Store<float> {
    static std::vector<float> random(size_t n, float scale) { return random_f32(n, -scale, scale); }
    static std::vector<float> wide(const std::vector<float>& v) { return v; }
    static std::vector<float> poison(size_t n) { return std::vector<float>(n, NAN); }
};
template <> struct Store<u16> {
    static std::vector<u16> random(size_t n, float scale) { return random_bf16(n, scale); }
    static std::vector<float> wide(const std::vector<u16>& v) { return widened(v); }
    static std::vector<u16> poison(size_t n) { return std::vector<u16>(n, 0xffff); }
};

static bool is_narrow(int columns) { return columns <= 16; }

template <class T>
static void launch_apply(const PlainApply& p, int models, unsigned seed) {
    const int* s = p.window.stride;
    int classes = p.spread ? s[0] * s[1] * s[2] : 1, count = p.images;
    for (int d = 0; d < 3; d++) count *= p.spread ? (p.out[d] + s[d] - 1) / s[d] : p.out[d];
    bool narrow = is_narrow(p.outputs);
    dim3 grid{tiles(count, narrow ? 128 : 64), classes * tiles(p.outputs, narrow ? 16 : 64), (unsigned)models};
    int bytes = narrow ? PlainTile<128, 16>::SHARED : PlainTile<64, 64>::SHARED;
    sim::launch(grid, {256, 1, 1}, bytes, seed, [&] {
        if constexpr (sizeof(T) == 4) narrow ? plain_apply_narrow_f32(p) : plain_apply_wide_f32(p);
        else narrow ? plain_apply_narrow_bf16(p) : plain_apply_wide_bf16(p);
    });
}
template <class T>
static void launch_weights(const PlainWeights& p, int models, unsigned splits, unsigned seed) {
    bool narrow = is_narrow(p.still_channels);
    int rows = p.window.kernel[0] * p.window.kernel[1] * p.window.kernel[2] * p.moving_channels;
    dim3 grid{tiles(rows, narrow ? 128 : 64), splits * tiles(p.still_channels, narrow ? 16 : 64), (unsigned)models};
    int bytes = narrow ? PlainTile<128, 16>::SHARED : PlainTile<64, 64>::SHARED;
    sim::launch(grid, {256, 1, 1}, bytes, seed, [&] {
        if constexpr (sizeof(T) == 4) narrow ? plain_weights_narrow_f32(p) : plain_weights_wide_f32(p);
        else narrow ? plain_weights_narrow_bf16(p) : plain_weights_wide_bf16(p);
    });
}

template <class T>
static void check_case(const Case& c, bool active) {
    Naive naive{c.images, c.inputs, c.outputs, {}, {}, {}, {}, {}, c.spread};
    for (int d = 0; d < 3; d++) {
        bool flat = c.dimensions == 2 && d == 0;
        naive.in[d] = c.in[d], naive.kernel[d] = flat ? 1 : c.kernel, naive.stride[d] = flat ? 1 : c.stride, naive.padding[d] = flat ? 0 : c.padding;
        naive.out[d] = c.spread ? (c.in[d] - 1) * naive.stride[d] + naive.kernel[d] - 2 * naive.padding[d]
                                : (c.in[d] + 2 * naive.padding[d] - naive.kernel[d]) / naive.stride[d] + 1;
    }
    char name[100];
    snprintf(name, sizeof name, "%s %s %dD k%d s%d %d->%d %dx%d %dx%dx%d%s", sizeof(T) == 4 ? "f32" : "bf16", c.spread ? "spread" : "gather",
             c.dimensions, c.kernel, c.stride, c.inputs, c.outputs, c.models, c.images, c.in[0], c.in[1], c.in[2], active ? " relu" : "");
    if (!wanted(name)) return;

    size_t x_count = naive.in_voxels() * c.inputs, y_count = naive.out_voxels() * c.outputs, w_count = (size_t)naive.taps() * c.inputs * c.outputs;
    size_t pitch = w_count + c.outputs + 3;  // weights, then biases, then something else
    std::vector<T> x = Store<T>::random(c.models * x_count, 1), dy = Store<T>::random(c.models * y_count, 1), w = Store<T>::random(c.models * pitch, 0.3f);
    std::vector<T> before = Store<T>::random(c.models * x_count, 1);
    std::vector<float> bias = random_f32(c.models * pitch, -1, 1), affine(c.models * 2 * c.inputs), factor = random_f32(c.models * 2, 0.3f, 2);
    for (size_t i = 0; i < affine.size(); i++) affine[i] = i / c.inputs % 2 ? uniform(-0.5f, 0.5f) : uniform(0.5f, 2);
    constexpr int SPLITS = 3;

    // y, dx (added to what was there), dw
    auto run = [&](unsigned seed) {
        std::vector<T> y = Store<T>::poison(c.models * y_count), dx = before;
        std::vector<float> partial(SPLITS * c.models * w_count, NAN), dw(c.models * pitch, NAN), all;
        Window window;
        memcpy(&window, naive.kernel, sizeof window);
        PlainApply p{x.data(), active ? affine.data() : nullptr, w.data(), bias.data(), factor.data() + 1, y.data(), (long long)pitch, 2, c.images,
                     c.inputs, c.outputs, {}, {}, window, c.spread, 0, 0};
        memcpy(p.in, naive.in, sizeof p.in), memcpy(p.out, naive.out, sizeof p.out);
        launch_apply<T>(p, c.models, seed);
        PlainApply q{dy.data(), nullptr, w.data(), nullptr, factor.data() + 1, dx.data(), (long long)pitch, 2, c.images,
                     c.outputs, c.inputs, {}, {}, window, !c.spread, 1, 1};
        memcpy(q.in, naive.out, sizeof q.in), memcpy(q.out, naive.in, sizeof q.out);
        launch_apply<T>(q, c.models, seed);
        PlainWeights g{x.data(), dy.data(), active ? affine.data() : nullptr, nullptr, partial.data(), c.images, c.inputs, c.outputs, {}, {}, window};
        memcpy(g.moving_size, naive.in, sizeof g.moving_size), memcpy(g.still_size, naive.out, sizeof g.still_size);
        if (c.spread) {
            std::swap(g.moving, g.still), std::swap(g.moving_affine, g.still_affine), std::swap(g.moving_channels, g.still_channels);
            std::swap(g.moving_size, g.still_size);
        }
        launch_weights<T>(g, c.models, SPLITS, seed);
        PlainSum s{partial.data(), factor.data() + 1, dw.data(), (long long)pitch, 2, SPLITS, naive.taps(), g.moving_channels, g.still_channels, c.spread};
        int skipped = std::exchange(sim::machine.skipped, -1);
        sim::launch({tiles(w_count, 256), 1, (unsigned)c.models}, {256, 1, 1}, 0, seed, [&] { plain_sum(s); });
        sim::machine.skipped = skipped;
        all = Store<T>::wide(y);
        for (float v : Store<T>::wide(dx)) all.push_back(v);
        for (int m = 0; m < c.models; m++) all.insert(all.end(), dw.begin() + m * pitch, dw.begin() + m * pitch + w_count);
        return all;
    };
    // Of the forward pass: two a step of the depth; those of the last step are the last.
    if (mutating) return remove_barriers(name, 2 * tiles(naive.taps() / (c.spread ? naive.stride[0] * naive.stride[1] * naive.stride[2] : 1) * c.inputs, PLAIN_DEPTH) - 1, run);

    std::vector<float> all = run(1), wide_x = Store<T>::wide(x), wide_dy = Store<T>::wide(dy), wide_w = Store<T>::wide(w), wide_before = Store<T>::wide(before);
    std::vector<double> y, dx, dw;
    for (int m = 0; m < c.models; m++) {
        auto part = [](const std::vector<float>& v, size_t from, size_t count) { return std::vector<float>(v.begin() + from, v.begin() + from + count); };
        std::vector<float> xm = part(wide_x, m * x_count, x_count), wm = part(wide_w, m * pitch, w_count), dym = part(wide_dy, m * y_count, y_count);
        const float* scale = affine.data() + m * 2 * c.inputs;
        if (active) xm = activate(xm, scale, scale + c.inputs, c.inputs, sizeof(T) == 2);
        double f = factor[2 * m + 1];
        std::vector<double> one = naive.forward(xm, wm);
        for (size_t i = 0; i < one.size(); i++) y.push_back(one[i] * f + bias[m * pitch + i % c.outputs]);
        one = naive.input_gradient(dym, wm);
        for (size_t i = 0; i < one.size(); i++) dx.push_back(one[i] * f + wide_before[m * x_count + i]);
        for (double v : naive.weight_gradient(xm, dym)) dw.push_back(v * f);
    }
    std::vector<float> got_y(all.begin(), all.begin() + y.size()), got_dx(all.begin() + y.size(), all.begin() + y.size() + dx.size());
    std::vector<float> got_dw(all.begin() + y.size() + dx.size(), all.end());
    if (sizeof(T) == 2) {
        expect(name, "y beyond rounding", beyond_rounding(got_y, y), 1e-5);
        expect(name, "dx beyond rounding", beyond_rounding(got_dx, dx), 1e-5);
    } else {
        expect(name, "y", relative(got_y, y), 1e-5);
        expect(name, "dx", relative(got_dx, dx), 1e-5);
    }
    expect(name, "dw", relative(got_dw, dw), 1e-5);
    for (unsigned seed = 2; seed <= (quick ? 2u : 4u); seed++) expect(name, "bits of another order", !same_bits(run(seed), all), 0.5);
}

int main(int count, char** values) {
    arguments(count, values);
    std::vector<Case> cases = {
        {false, 3, 3, 1, 1, 5, 7, 1, 1, {3, 4, 5}},    // odd sizes and channels
        {false, 3, 4, 2, 1, 3, 3, 2, 2, {4, 6, 5}},    // DOWN, an odd axis, two models
        {true, 3, 4, 2, 1, 6, 4, 2, 1, {2, 3, 3}},     // UP
        {false, 3, 1, 1, 0, 24, 33, 1, 3, {1, 1, 1}},  // a label
        {true, 3, 4, 2, 1, 17, 2, 1, 2, {1, 1, 1}},    // one voxel
        {false, 2, 3, 1, 1, 2, 70, 3, 2, {1, 7, 5}},   // 2D, more than a tile of channels
        {true, 2, 4, 2, 1, 33, 5, 1, 2, {1, 4, 3}},
        {false, 2, 4, 2, 1, 1, 20, 2, 1, {1, 9, 6}},
        {true, 3, 3, 3, 0, 2, 3, 1, 1, {2, 2, 2}},     // strides that no network has
        {true, 2, 2, 3, 0, 2, 3, 1, 1, {1, 3, 2}},     // outputs that nobody reaches
    };
    if (mutating) cases = {{false, 3, 3, 1, 1, 2, 40, 1, 1, {3, 4, 5}}, {true, 2, 4, 2, 1, 12, 3, 1, 1, {1, 4, 3}}};
    for (size_t i = 0; i < cases.size(); i++) {
        check_case<float>(cases[i], i % 2 == 0);
        if (!mutating) check_case<u16>(cases[i], i % 2 == 1);
    }
    return verdict();
}
