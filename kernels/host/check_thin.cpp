// Runs the kernels of conv_thin.cu on the CPU against naive loops in f64.
//   check_thin [NAME] [barriers]
#include "../conv_thin.cu"

static std::mt19937 source(1);
static float uniform(float from, float to) { return std::uniform_real_distribution<float>(from, to)(source); }
static std::vector<u16> random_bf16(size_t count, float scale) {
    std::vector<u16> values(count);
    for (u16& v : values) v = to_bf16(uniform(-scale, scale));
    return values;
}
static std::vector<float> random_f32(size_t count, float from, float to) {
    std::vector<float> values(count);
    for (float& v : values) v = uniform(from, to);
    return values;
}

struct Case { int n, z, y, x; bool fused; int segment, blocks; };
static int failures = 0;
static bool mutating = false;
constexpr int SECOND = 1000;  // as the barrier to skip: that of sum_partials

static void expect(const char* name, const Case& c, const char* what, double error, double limit) {
    bool good = error < limit;
    failures += !good;
    printf("%-10s %d x %2d %2d %2d %s  %-22s %.1e %s\n", name, c.n, c.z, c.y, c.x, c.fused ? "fused" : "plain", what, error, good ? "" : "FAILED");
}

static double relative(const float* got, const std::vector<double>& want) {
    double error = 0, scale = 0;
    for (size_t i = 0; i < want.size(); i++) {
        if (std::isnan(got[i])) return NAN;
        error = std::max(error, std::fabs(got[i] - want[i]));
        scale = std::max(scale, std::fabs(want[i]));
    }
    return error / scale;
}

template <class S>
static void check(const char* name, void (*kernel)(Thin), bool has_dx, bool has_dw, const Case& c) {
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

    std::vector<float> whole = run(1);
    if (mutating) {
        // Of block 0: one a plane, then the sums, then a turn a warp; and the one of sum_partials. Other blocks have fewer planes at most.
        int units = c.n * ((c.z + c.segment - 1) / c.segment) * ((c.y + S::TY - 1) / S::TY) * ((c.x + S::TX - 1) / S::TX), planes = 0;
        for (int u = 0; u < units; u += c.blocks) {
            int s = u / (((c.y + S::TY - 1) / S::TY) * ((c.x + S::TX - 1) / S::TX)) % ((c.z + c.segment - 1) / c.segment);
            planes += std::min(c.segment, c.z - s * c.segment);
        }
        int barriers = planes + (has_dx && c.fused) + (has_dw ? S::WARPS : 0) + 1, noticed = 0;
        for (int b = 0; b < barriers; b++) {
            sim::machine.skipped = b + 1 < barriers ? b : SECOND;
            bool changed = false;
            for (unsigned seed = 1; seed <= 4 && !changed; seed++) {
                std::vector<float> now = run(seed);
                changed = memcmp(now.data(), whole.data(), whole.size() * 4) != 0;
            }
            noticed += changed;
            if (!changed) printf("%-10s nobody misses barrier %d of %d\n", name, b, barriers);
        }
        sim::machine.skipped = -1;
        failures += noticed != barriers;
        printf("%-10s %d of %d removed barriers noticed\n", name, noticed, barriers);
        return;
    }
    const sim::Counters& k = sim::machine.counters;
    printf("%-10s shared %zu bytes; %.2f mma, %.2f gathers a voxel; bank conflicts %ld of %ld\n", name, bytes, (double)k.multiplies / voxels,
           (double)k.loads / voxels, k.load_real - k.load_ideal, k.load_ideal);
    failures += k.load_real != k.load_ideal;

    // dx scattered from dy, unlike the kernel; dw gathered over y.
    std::vector<double> want(voxels * 32, 0.0), want_dw(S::COUNT, 0.0), want_sums(64, 0.0);
    auto activated = [&](size_t v, int i) {
        float raw = from_bf16(x[v * 32 + i]);
        return c.fused ? from_bf16(to_bf16(std::max(std::fmaf(raw, scale[i], shift[i]), 0.f))) : raw;
    };
    size_t o = 0;
    for (int n = 0; n < c.n; n++) for (int z = 0; z < c.z; z++) for (int y = 0; y < c.y; y++) for (int xx = 0; xx < c.x; xx++, o++)
        for (int t = 0; t < 27; t++) {
            int uz = z + t / 9 - 1, uy = y + t / 3 % 3 - 1, ux = xx + t % 3 - 1;
            if (uz < 0 || uz >= c.z || uy < 0 || uy >= c.y || ux < 0 || ux >= c.x) continue;
            size_t u = (((size_t)n * c.z + uz) * c.y + uy) * c.x + ux;
            for (int i = 0; i < 32; i++) for (int out = 0; out < 2; out++) {
                double d = from_bf16(dy[o * 2 + out]);
                want[u * 32 + i] += factor * d * from_bf16(w[(t * 32 + i) * 2 + out]);
                want_dw[(t * 32 + i) * 2 + out] += factor * d * activated(u, i);
            }
        }
    const float* got = whole.data();
    if (has_dw) {
        expect(name, c, "dw", relative(got, want_dw), 1e-6);
        got += S::COUNT;
    }
    if (has_dx) {
        const float* got_dx = got + (c.fused ? 64 : 0);
        double beyond = 0, top = 0;  // beyond half a step of bf16, the rounding of the result itself
        long zeros = 0;
        for (size_t i = 0; i < want.size(); i++) {
            int ch = i % 32;
            float raw = from_bf16(x[i]);
            if (c.fused && std::fmaf(raw, scale[ch], shift[ch]) <= 0) want[i] = 0, zeros++;
            want_sums[ch] += got_dx[i], want_sums[32 + ch] += got_dx[i] * ((double)raw - mean[ch]) * inverse[ch];
            top = std::max(top, std::fabs(want[i]));
            double over = std::fabs(got_dx[i] - want[i]) - std::ldexp(std::fabs(want[i]), -8);
            beyond = std::isnan(got_dx[i]) || std::isnan(beyond) ? NAN : std::max(beyond, over);
        }
        expect(name, c, "dx beyond its rounding", beyond / top, 1e-6);
        expect(name, c, "dx", relative(got_dx, want), 4e-3);
        if (c.fused) {
            expect(name, c, "sums", relative(got, want_sums), 1e-6);
            printf("%-10s masked %.0f %%\n", name, 100. * zeros / want.size());
        }
    }
    for (unsigned seed = 2; seed <= 4; seed++) expect(name, c, "bits of another order", memcmp(run(seed).data(), whole.data(), whole.size() * 4) != 0, 0.5);
    sim::machine.counters = {};
}

int main(int count, char** arguments) {
    const char* only = "";
    for (int i = 1; i < count; i++)
        if (!strcmp(arguments[i], "barriers")) mutating = true;
        else only = arguments[i];
    std::vector<Case> cases = {{1, 5, 7, 9, true, 2, 2}, {2, 1, 1, 1, true, 1, 3}, {2, 9, 10, 17, false, 4, 2}, {2, 9, 10, 17, true, 16, 2},
                               {1, 4, 18, 35, true, 3, 3}, {2, 3, 33, 66, false, 2, 5}};
    if (mutating) cases = {{1, 6, 20, 50, true, 3, 2}};  // every warp has voxels; several units a block
    for (const Case& c : cases) {
#define RUN(name, dx, dw, ...) if (strstr(#name, only)) check<name##_shape>(#name, name, dx, dw, c);
        THINS(RUN)
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
