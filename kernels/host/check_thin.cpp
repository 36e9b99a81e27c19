// conv_thin.cu: both gradients of 32 -> 2 against plain loops in f64.
#include "check.hpp"
#include "../conv_thin.cu"

using namespace check;

struct Case { int n, z, y, x; bool fused; int segment, blocks; };
constexpr int SECOND = 1000;  // as the barrier to skip: that of sum_partials

template <class S>
static void check_kernel(const char* kernel_name, void (*kernel)(Thin), bool has_dx, bool has_dw, const Case& c) {
    char name[100];
    snprintf(name, sizeof name, "%s %dx%dx%dx%d%s", kernel_name, c.n, c.z, c.y, c.x, c.fused ? " fused" : "");
    size_t voxels = (size_t)c.n * c.z * c.y * c.x;
    std::vector<u16> dy = random_bf16(voxels * 2, 1), w = random_bf16(S::COUNT, 0.1f), x = random_bf16(voxels * 32, 1);
    std::vector<float> scale = random_f32(32, 0.5f, 2), shift = random_f32(32, -0.5f, 0.5f), mean = random_f32(32, -0.5f, 0.5f), inverse = random_f32(32, 0.5f, 2);
    float factor = 0.37f;
    std::vector<u16> dx(voxels * 32);
    std::vector<float> sums(c.blocks * 64), partial(c.blocks * S::COUNT), total(64), dw(S::COUNT);
    size_t bytes = has_dw ? S::SHARED_DW : S::SHARED;

    // All results: dw, sums, dx.
    auto run = [&](unsigned seed) {
        std::fill(dx.begin(), dx.end(), 0xffff);
        for (auto* v : {&sums, &partial, &total, &dw}) std::fill(v->begin(), v->end(), NAN);
        bool read = has_dw || c.fused;
        Thin p{dy.data(), w.data(), &factor, read ? x.data() : nullptr, c.fused ? scale.data() : nullptr, shift.data(), mean.data(), inverse.data(),
               dx.data(), c.fused ? sums.data() : nullptr, partial.data(), c.n, c.segment, {c.z, c.y, c.x}};
        sim::launch({unsigned(c.blocks), 1, 1}, {S::THREADS, 1, 1}, bytes, seed, [&] { kernel(p); });
        int skipped = std::exchange(sim::machine.skipped, sim::machine.skipped == SECOND ? 0 : -1);
        std::vector<float> all;
        if (has_dw) {
            sim::launch({S::COUNT / 32, 1, 1}, {256, 1, 1}, 1024, seed, [&] { sum_partials(partial.data(), dw.data(), c.blocks, S::COUNT, &factor); });
            all = dw;
        }
        if (has_dx && c.fused) {
            sim::launch({2, 1, 1}, {256, 1, 1}, 1024, seed, [&] { sum_partials(sums.data(), total.data(), c.blocks, 64, nullptr); });
            all.insert(all.end(), total.begin(), total.end());
        }
        sim::machine.skipped = skipped;
        if (has_dx) for (u16 v : dx) all.push_back(from_bf16(v));
        return all;
    };

    if (mutating) {
        // Of block 0: one a plane, then the sums, then a turn a warp. Other blocks have fewer planes at most.
        int units = c.n * ((c.z + c.segment - 1) / c.segment) * ((c.y + S::TY - 1) / S::TY) * ((c.x + S::TX - 1) / S::TX), planes = 0;
        for (int u = 0; u < units; u += c.blocks) {
            int s = u / (((c.y + S::TY - 1) / S::TY) * ((c.x + S::TX - 1) / S::TX)) % ((c.z + c.segment - 1) / c.segment);
            planes += std::min(c.segment, c.z - s * c.segment);
        }
        remove_barriers(name, planes + (has_dx && c.fused) + (has_dw ? S::WARPS : 0), run);
        return remove_barriers(name, 1, run, SECOND);
    }
    std::vector<float> whole = run(1);
    const sim::Counters& k = sim::machine.counters;
    printf("%-48s %zu bytes of shared memory, %d threads, %.2f mma, %.2f gathers a voxel\n", name, bytes, S::THREADS, (double)k.multiplies / voxels, (double)k.loads / voxels);
    expect(name, "bank conflicts", k.load_real - k.load_ideal, 0.5);

    Naive naive{c.n, 32, 2, {c.z, c.y, c.x}, {c.z, c.y, c.x}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, false};
    std::vector<float> wide_x = widened(x), wide_dy = widened(dy), read = c.fused ? activate(wide_x, scale.data(), shift.data(), 32, true) : wide_x;
    const float* got = whole.data();
    if (has_dw) {
        std::vector<double> want = naive.weight_gradient(read, wide_dy);
        for (double& v : want) v *= factor;
        expect(name, "dw", relative(std::vector<float>(got, got + S::COUNT), want), 1e-6);
        got += S::COUNT;
    }
    if (has_dx) {
        std::vector<float> got_dx(whole.end() - voxels * 32, whole.end());
        std::vector<double> want = naive.input_gradient(wide_dy, widened(w)), want_sums(64, 0.0);
        for (size_t i = 0; i < want.size(); i++) {
            int ch = i % 32;
            bool masked = c.fused && !(std::fmaf(wide_x[i], scale[ch], shift[ch]) > 0);
            want[i] = masked ? 0 : want[i] * factor;
            want_sums[ch] += got_dx[i], want_sums[32 + ch] += got_dx[i] * ((double)wide_x[i] - mean[ch]) * inverse[ch];
        }
        expect(name, "dx beyond rounding", beyond_rounding(got_dx, want), 1e-6);
        expect(name, "dx", relative(got_dx, want), 4e-3);
        if (c.fused) expect(name, "sums", relative(std::vector<float>(got, got + 64), want_sums), 1e-6);
    }
    for (unsigned seed = 2; seed <= (quick ? 2u : 4u); seed++) expect(name, "bits of another order", !same_bits(run(seed), whole), 0.5);
    sim::machine.counters = {};
}

int main(int count, char** values) {
    arguments(count, values);
    std::vector<Case> cases = {{1, 5, 7, 9, true, 2, 2}, {2, 1, 1, 1, true, 1, 3}, {2, 9, 10, 17, false, 4, 2}, {2, 9, 10, 17, true, 16, 2},
                               {1, 4, 18, 35, true, 3, 3}, {2, 3, 33, 66, false, 2, 5}};
    if (quick) cases = {{2, 1, 1, 1, false, 1, 3}, {1, 4, 18, 35, true, 3, 3}};
    if (mutating) cases = {{1, 6, 20, 50, true, 3, 2}};  // every warp has voxels; several units a block
    for (const Case& c : cases) {
#define RUN(name, dx, dw, ...) if (wanted(#name)) check_kernel<name##_shape>(#name, name, dx, dw, c);
        THINS(RUN)
    }
    return verdict();
}
