// conv_tile.cu: every kernel against plain loops in f64, fused and not; odd sizes, one voxel, several tiles.
#include "check.hpp"
#include "../conv_tile.cu"

using namespace check;

struct Case { int n, z, y, x; bool fused; };  // z, y, x: as the tiles count them

static std::string label(const char* name, const Case& c) {
    char text[100];
    snprintf(text, sizeof text, "%s %dx%dx%dx%d%s", name, c.n, c.z, c.y, c.x, c.fused ? " fused" : "");
    return text;
}

/// The input of DOWN is odd along y, so that only the padding reaches its last plane.
static Naive convolution(Kind kind, const Case& c, int inputs, int outputs) {
    Naive n{c.n, inputs, outputs, {c.z, c.y, c.x}, {}, {}, {}, {1, 1, 1}, kind == UP};
    for (int d = 0; d < 3; d++) {
        n.kernel[d] = kind == PLAIN ? 3 : 4, n.stride[d] = kind == PLAIN ? 1 : 2;
        if (kind == DOWN) n.in[d] = 2 * n.in[d] + (d == 1);
        n.out[d] = kind == UP ? 2 * n.in[d] : n.in[d] / n.stride[d];
    }
    return n;
}

/// What the tensor cores get out of shared memory, counted from the addresses that the kernel used.
static void expect_no_conflicts(const char* name, size_t shared_bytes, int threads) {
    const sim::Counters& k = sim::machine.counters;
    printf("%-48s %zu bytes of shared memory, %d threads, %.0f bytes of ldmatrix an mma\n", name, shared_bytes, threads, (double)k.load_bytes / k.multiplies);
    expect(name, "bank conflicts", k.load_real - k.load_ideal + k.copy_real - k.copy_ideal, 0.5);
    sim::machine.counters = {};
}

/// A layer's input: bf16, and as it is read.
struct Input {
    std::vector<u16> x;
    std::vector<float> scale, shift, read;
    Input(const Naive& n, bool fused)
        : x(random_bf16(n.in_voxels() * n.inputs, 1)), scale(random_f32(n.inputs, 0.5f, 2)), shift(random_f32(n.inputs, -0.5f, 0.5f)), read(widened(x)) {
        if (fused) read = activate(read, scale.data(), shift.data(), n.inputs, true);
    }
};

template <Kind KIND, class S>
static void check_forward(const char* kernel_name, void (*kernel)(Forward), const Case& c, unsigned seeds) {
    Naive naive = convolution(KIND, c, S::CIN, S::COUT);
    std::string text = label(kernel_name, c);
    const char* name = text.c_str();
    Input input(naive, c.fused);
    std::vector<u16> w = random_bf16(naive.taps() * S::CIN * S::COUT, 0.1f), y(naive.out_voxels() * S::COUT);
    std::vector<float> bias = random_f32(S::COUT, -1, 1);
    float factor = 0.37f;
    dim3 grid{unsigned(c.x + S::TX - 1) / S::TX, unsigned(c.y + S::TY - 1) / S::TY, unsigned((c.z + S::TZ - 1) / S::TZ * c.n)};
    std::vector<float> moments(grid.count() * 2 * S::COUT);
    auto run = [&](unsigned seed) {
        std::fill(y.begin(), y.end(), 0xffff);
        std::fill(moments.begin(), moments.end(), NAN);
        Forward p{input.x.data(), c.fused ? input.scale.data() : nullptr, input.shift.data(), w.data(), bias.data(), &factor,
                  y.data(), moments.data(), {naive.in[0], naive.in[1], naive.in[2]}};
        sim::launch(grid, {S::THREADS, 1, 1}, S::SHARED, seed, [&] { kernel(p); });
        std::vector<float> all = widened(y);
        all.insert(all.end(), moments.begin(), moments.end());
        return all;
    };
    if (mutating) return remove_barriers(name, S::GROUPS + 1, run);

    std::vector<float> all = run(1), got(all.begin(), all.begin() + y.size());
    expect_no_conflicts(name, S::SHARED, S::THREADS);
    std::vector<double> want = naive.forward(input.read, widened(w)), sums(2 * S::COUT, 0.0), wanted(2 * S::COUT, 0.0);
    for (size_t i = 0; i < want.size(); i++) want[i] = want[i] * factor + bias[i % S::COUT];
    expect(name, "beyond rounding", beyond_rounding(got, want), 1e-5);
    expect(name, "whole", relative(got, want), 4e-3);
    for (size_t i = 0; i < moments.size(); i++) sums[i % (2 * S::COUT)] += moments[i];
    for (size_t i = 0; i < got.size(); i++) wanted[i % S::COUT] += got[i], wanted[S::COUT + i % S::COUT] += (double)got[i] * got[i];
    expect(name, "moments", relative(sums, wanted), 1e-5);
    for (unsigned seed = 2; seed <= seeds; seed++) expect(name, "bits of another order", !same_bits(run(seed), all), 0.5);
    sim::machine.counters = {};
}

template <Kind KIND, class S, int CIN, int COUT>
static void check_gradient(const char* kernel_name, void (*kernel)(Gradient), const Case& c, unsigned seeds) {
    Naive naive = convolution(KIND, c, CIN, COUT);
    std::string text = label(kernel_name, c);
    const char* name = text.c_str();
    constexpr int SPLITS = 2;
    Input input(naive, c.fused);
    std::vector<u16> dy = random_bf16(naive.out_voxels() * COUT, 1);
    std::vector<float> dw(naive.taps() * CIN * COUT), partial(SPLITS * dw.size());
    auto run = [&](unsigned seed) {
        std::fill(partial.begin(), partial.end(), NAN);
        std::fill(dw.begin(), dw.end(), NAN);
        Gradient p{input.x.data(), c.fused ? input.scale.data() : nullptr, input.shift.data(), dy.data(), partial.data(), c.n, {c.z, c.y, c.x}};
        sim::launch({SPLITS, CIN / 32 * (COUT / 32), S::CLASSES}, {S::THREADS, 1, 1}, S::SHARED, seed, [&] { kernel(p); });
        int skipped = std::exchange(sim::machine.skipped, -1), count = dw.size();
        sim::launch({unsigned(count + 255) / 256, 1, 1}, {256, 1, 1}, 0, seed, [&] { sum_splits(partial.data(), dw.data(), SPLITS, count, 1.f); });
        sim::machine.skipped = skipped;
        return dw;
    };
    int tiles = c.n * ((c.z + S::TZ - 1) / S::TZ) * ((c.y + S::TY - 1) / S::TY) * ((c.x + S::TX - 1) / S::TX);
    if (mutating) return remove_barriers(name, (tiles + SPLITS - 1) / SPLITS, run);

    std::vector<float> got = run(1);
    expect_no_conflicts(name, S::SHARED, S::THREADS);
    expect(name, "dw", relative(got, naive.weight_gradient(input.read, widened(dy))), 1e-5);
    for (unsigned seed = 2; seed <= seeds; seed++) expect(name, "bits of another order", !same_bits(run(seed), got), 0.5);
    sim::machine.counters = {};
}

int main(int count, char** values) {
    arguments(count, values);
    std::vector<Case> cases = {{1, 5, 7, 9, true}, {2, 1, 1, 1, true}, {2, 9, 10, 17, false}};
    if (quick) cases = {{1, 3, 9, 5, true}};
    if (mutating) cases = {{1, 5, 7, 9, true}};  // several tiles, all of them at a border
#define RUN(name, kind, ...) \
    if (wanted(#name))       \
        for (const Case& c : cases) check_forward<kind, name##_shape>(#name, name, c, quick ? 2 : 3);
    FORWARDS(RUN)
    GROUPED_FORWARDS(RUN)
    RUN(pair_32_2, PLAIN)
#define RUN_GRADIENT(name, kind, in, out, ...) \
    if (wanted(#name))                         \
        for (const Case& c : cases) check_gradient<kind, name##_shape, in, out>(#name, name, c, 2);
    GRADIENTS(RUN_GRADIENT)
    return verdict();
}
