// Runs the kernels on the CPU against naive loops in f64.
//   check [NAME] [barriers]
// NAME: only kernels whose name contains it. barriers: instead, takes out one __syncthreads after the
// other; every single one must be missed.
#include "../conv_tile.cu"

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

struct Case { int n, z, y, x; bool fused; };
static int failures = 0;

static double relative(const std::vector<double>& got, const std::vector<double>& want) {
    double error = 0, scale = 0;
    for (size_t i = 0; i < want.size(); i++) {
        if (std::isnan(got[i])) return NAN;
        error = std::max(error, std::fabs(got[i] - want[i]));
        scale = std::max(scale, std::fabs(want[i]));
    }
    return error / scale;
}

/// Prints a line; true when it is as good as it must be.
static void expect(const char* name, const Case& c, unsigned seed, const char* what, double error, double limit) {
    bool good = error < limit;
    failures += !good;
    printf("%-14s %d x %2d %2d %2d %s seed %u  %-11s %.1e %s\n", name, c.n, c.z, c.y, c.x, c.fused ? "fused" : "plain",
           seed, what, error, good ? "" : "FAILED");
}

/// y = bias + factor * sum of w x, in f64, from the activated input.
template <Kind KIND>
static std::vector<double> naive(const Case& c, int cin, int cout, const std::vector<double>& x, const std::vector<u16>& w,
                                 double factor, const std::vector<float>& bias) {
    int side = KIND == PLAIN ? 3 : 4;
    auto grown = [](int size) { return KIND == UP ? 2 * size : KIND == DOWN ? size / 2 : size; };
    int Z = grown(c.z), Y = grown(c.y), X = grown(c.x);
    std::vector<double> y((size_t)c.n * Z * Y * X * cout, 0.0);
    std::vector<double> wd(w.size());
    for (size_t i = 0; i < w.size(); i++) wd[i] = from_bf16(w[i]);
    for (int n = 0; n < c.n; n++)
        for (int iz = 0; iz < c.z; iz++) for (int iy = 0; iy < c.y; iy++) for (int ix = 0; ix < c.x; ix++)
            for (int kz = 0; kz < side; kz++) for (int ky = 0; ky < side; ky++) for (int kx = 0; kx < side; kx++) {
                // scatter, unlike the kernel; halves are no outputs
                auto target = [](int i, int k) { return KIND == UP ? 2 * i - 1 + k : KIND == PLAIN ? i + 1 - k : (i + 1 - k) % 2 ? -1 : (i + 1 - k) / 2; };
                int oz = target(iz, kz), oy = target(iy, ky), ox = target(ix, kx);
                if (oz < 0 || oz >= Z || oy < 0 || oy >= Y || ox < 0 || ox >= X) continue;
                const double* xv = &x[((((size_t)n * c.z + iz) * c.y + iy) * c.x + ix) * cin];
                const double* wt = &wd[(size_t)((kz * side + ky) * side + kx) * cin * cout];
                double* yv = &y[((((size_t)n * Z + oz) * Y + oy) * X + ox) * cout];
                for (int i = 0; i < cin; i++) for (int o = 0; o < cout; o++) yv[o] += xv[i] * wt[i * cout + o];
            }
    for (size_t i = 0; i < y.size(); i++) y[i] = bias[i % cout] + factor * y[i];
    return y;
}

/// What the tensor cores get out of shared memory, counted from the addresses that the kernel used.
static void print_counters(const char* name, size_t shared_bytes, int threads) {
    const sim::Counters& k = sim::machine.counters;
    printf("%-14s shared %6zu bytes, %3d threads; ldmatrix %.0f bytes an mma, conflicts %ld of %ld; cp.async conflicts %ld of %ld\n", name,
           shared_bytes, threads, (double)k.load_bytes / k.multiplies, k.load_real - k.load_ideal, k.load_ideal,
           k.copy_real - k.copy_ideal, k.copy_ideal);
    failures += k.load_real != k.load_ideal || k.copy_real != k.copy_ideal;
    sim::machine.counters = {};
}

/// Random input of a layer, as the kernel sees it and in f64: with and without its roundings.
struct Input {
    std::vector<u16> x;
    std::vector<float> scale, shift;
    std::vector<double> rounded, exact;
    Input(const Case& c, int channels) : scale(random_f32(channels, 0.5f, 2)), shift(random_f32(channels, -0.5f, 0.5f)) {
        for (float v : random_f32((size_t)c.n * c.z * c.y * c.x * channels, -1, 1)) {
            int ch = x.size() % channels;
            x.push_back(to_bf16(v));
            float read = from_bf16(x.back());
            rounded.push_back(c.fused ? from_bf16(to_bf16(std::max(std::fmaf(read, scale[ch], shift[ch]), 0.f))) : read);
            exact.push_back(c.fused ? std::max((double)v * scale[ch] + shift[ch], 0.0) : (double)v);
        }
    }
};

/// Runs once whole, then with one barrier less each time: how many of the losses changed the result?
static void mutate(const char* name, int barriers, const std::function<std::vector<float>(unsigned seed)>& run) {
    std::vector<float> whole = run(1);
    int noticed = 0;
    for (int b = 0; b < barriers; b++) {
        sim::machine.skipped = b;
        bool changed = false;
        for (unsigned seed = 1; seed <= 3 && !changed; seed++) changed = run(seed) != whole;
        if (changed) noticed++;
        else printf("%-14s nobody misses barrier %d\n", name, b);
    }
    sim::machine.skipped = -1;
    failures += noticed != barriers;
    printf("%-14s %d of %d removed barriers noticed\n", name, noticed, barriers);
}
static bool mutating = false;

template <Kind KIND, class S>
static void check_forward(const char* name, void (*kernel)(Forward), const Case& tiled, unsigned seeds) {
    Case c = tiled;  // the input: odd sizes for DOWN too, whose last plane only the padding reaches
    if (KIND == DOWN) c.z = 2 * c.z, c.y = 2 * c.y + 1, c.x *= 2;
    Input input(c, S::CIN);
    std::vector<u16> w = random_bf16(S::SIDE * S::SIDE * S::SIDE * S::CIN * S::COUT, 0.1f);
    std::vector<float> bias = random_f32(S::COUT, -1, 1);
    float factor = 0.37f;
    dim3 grid{unsigned(tiled.x + S::TX - 1) / S::TX, unsigned(tiled.y + S::TY - 1) / S::TY, unsigned((tiled.z + S::TZ - 1) / S::TZ * c.n)};
    std::vector<u16> y((size_t)c.n * tiled.z * tiled.y * tiled.x * (KIND == UP ? 8 : 1) * S::COUT);
    std::vector<float> moments(grid.count() * 2 * S::COUT);
    auto run = [&](unsigned seed) {
        std::fill(y.begin(), y.end(), 0xffff);
        std::fill(moments.begin(), moments.end(), NAN);
        Forward p{input.x.data(), c.fused ? input.scale.data() : nullptr, input.shift.data(), w.data(), bias.data(), &factor,
                  y.data(), moments.data(), {c.z, c.y, c.x}};
        sim::launch(grid, {S::THREADS, 1, 1}, S::SHARED, seed, [&] { kernel(p); });
        std::vector<float> all = moments;
        for (u16 v : y) all.push_back(from_bf16(v));
        return all;
    };
    if (mutating) return mutate(name, S::GROUPS + 1, run);

    std::vector<float> first = run(1);
    print_counters(name, S::SHARED, S::THREADS);
    std::vector<double> got(first.begin() + moments.size(), first.end()), want = naive<KIND>(c, S::CIN, S::COUT, input.rounded, w, factor, bias);
    double beyond = 0, top = 0;  // beyond half a step of bf16, the rounding of the result itself
    for (size_t i = 0; i < got.size(); i++) {
        top = std::max(top, std::fabs(want[i]));
        double over = std::fabs(got[i] - want[i]) - std::ldexp(std::fabs(want[i]), -8);
        beyond = std::isnan(got[i]) || std::isnan(beyond) ? NAN : std::max(beyond, over);
    }
    expect(name, c, 1, "same inputs", beyond / top, 1e-5);
    expect(name, c, 1, "f64 inputs", relative(got, naive<KIND>(c, S::CIN, S::COUT, input.exact, w, factor, bias)), 1e-2);
    std::vector<double> sums(2 * S::COUT, 0.0), wanted(2 * S::COUT, 0.0);
    for (size_t i = 0; i < moments.size(); i++) sums[i % (2 * S::COUT)] += moments[i];
    for (size_t i = 0; i < got.size(); i++) wanted[i % S::COUT] += got[i], wanted[S::COUT + i % S::COUT] += got[i] * got[i];
    expect(name, c, 1, "moments", relative(sums, wanted), 1e-5);
    for (unsigned seed = 2; seed <= seeds; seed++) expect(name, c, seed, "same bits", run(seed) != first, 0.5);
    sim::machine.counters = {};
}

template <Kind KIND, class S, int CIN, int COUT>
static void check_gradient(const char* name, void (*kernel)(Gradient), const Case& c, unsigned seeds) {
    constexpr int TAPS = S::SIDE * S::SIDE * S::SIDE, SPLITS = 2;
    Input input(c, CIN);
    std::vector<u16> dy = random_bf16(input.x.size() / CIN * S::CLASSES * COUT, 1);
    std::vector<float> partial((size_t)SPLITS * TAPS * CIN * COUT), dw(TAPS * CIN * COUT);
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
    if (mutating) return mutate(name, (c.n * ((c.z + S::TZ - 1) / S::TZ) * ((c.y + S::TY - 1) / S::TY) * ((c.x + S::TX - 1) / S::TX) + SPLITS - 1) / SPLITS, run);

    std::vector<float> first = run(1);
    print_counters(name, S::SHARED, S::THREADS);
    std::vector<double> want(dw.size(), 0.0), ideal(dw.size(), 0.0);
    size_t o_index = 0;  // walks over outputs, gathers inputs
    int Z = c.z * S::STRIDE, Y = c.y * S::STRIDE, X = c.x * S::STRIDE;
    for (int n = 0; n < c.n; n++) for (int oz = 0; oz < Z; oz++) for (int oy = 0; oy < Y; oy++) for (int ox = 0; ox < X; ox++, o_index++)
        for (int k = 0; k < TAPS; k++) {
            int at[3] = {oz, oy, ox}, tap[3] = {k / (S::SIDE * S::SIDE), k / S::SIDE % S::SIDE, k % S::SIDE}, size[3] = {c.z, c.y, c.x};
            bool inside = true;
            for (int d = 0; d < 3; d++) {
                int twice = KIND == UP ? at[d] + 1 - tap[d] : at[d] + tap[d] - 1;
                inside &= twice >= 0 && twice % S::STRIDE == 0 && twice / S::STRIDE < size[d];
                at[d] = twice / S::STRIDE;
            }
            if (!inside) continue;
            size_t v = (((size_t)n * c.z + at[0]) * c.y + at[1]) * c.x + at[2];
            for (int i = 0; i < CIN; i++) for (int o = 0; o < COUT; o++) {
                double g = from_bf16(dy[o_index * COUT + o]);
                want[(k * CIN + i) * COUT + o] += input.rounded[v * CIN + i] * g;
                ideal[(k * CIN + i) * COUT + o] += input.exact[v * CIN + i] * g;
            }
        }
    std::vector<double> got(first.begin(), first.end());
    expect(name, c, 1, "same inputs", relative(got, want), 1e-5);
    expect(name, c, 1, "f64 inputs", relative(got, ideal), 1e-2);
    for (unsigned seed = 2; seed <= seeds; seed++) expect(name, c, seed, "same bits", run(seed) != first, 0.5);
    sim::machine.counters = {};
}

int main(int count, char** arguments) {
    const char* only = "";
    for (int i = 1; i < count; i++)
        if (!strcmp(arguments[i], "barriers")) mutating = true;
        else only = arguments[i];
    std::vector<Case> cases = {{1, 5, 7, 9, true}, {2, 1, 1, 1, true}, {2, 9, 10, 17, false}};
    if (mutating) cases = {{1, 5, 7, 9, true}};  // several tiles, all of them at a border
#define RUN(name, kind, ...)    \
    if (strstr(#name, only))    \
        for (const Case& c : cases) check_forward<kind, name##_shape>(#name, name, c, 3);
    FORWARDS(RUN)
    RUN(pair_32_2, PLAIN)
#define RUN_GRADIENT(name, kind, in, out, ...) \
    if (strstr(#name, only))                   \
        for (const Case& c : cases) check_gradient<kind, name##_shape, in, out>(#name, name, c, 2);
    GRADIENTS(RUN_GRADIENT)
    printf("%d failures\n", failures);
    return failures != 0;
}
