// Holds loss.cu, adam.cu, noise.cu, spectral.cu and linear.cu, and the launch geometry, against plain code in f64: check_numbers [barriers]
#include "compare.hpp"
#include "../adam.cu"
#include "../linear.cu"
#include "../loss.cu"
#include "../noise.cu"
#include "../spectral.cu"
#include "tables.hpp"

using namespace compare;
using Doubles = std::vector<double>;
#define RUN(T, kernel, ...)                                      \
    do {                                                         \
        if constexpr (sizeof(T) == 4) LAUNCH(kernel##_f32, __VA_ARGS__); \
        else LAUNCH(kernel##_bf16, __VA_ARGS__);                 \
    } while (0)
template <class T> constexpr double limit() { return sizeof(T) == 4 ? 1e-5 : 2e-2; }
typedef unsigned long long u64;

template <class T>
static void check_loss(int models, int images, int length, int latent) {
    size_t count = (size_t)models * images * length, vectors = (size_t)models * images * latent;
    std::vector<T> out = numbers<T>(count, 0.01, 2), x = numbers<T>(count, 0, 1);
    std::vector<float> factors = numbers<float>(2 * models, 0.2, 2), mu = numbers<float>(vectors), logvar = numbers<float>(vectors, -2, 1), noise = numbers<float>(vectors, -2, 2), dz = numbers<float>(vectors);
    Doubles O = wide(out), X = wide(x), gradient(count), error(models * images), z(vectors), kl(models * images), dmu(vectors), dlogvar(vectors), losses;
    for (size_t i = 0; i < count; i++) {
        size_t image = i / length;
        gradient[i] = 2.0 * factors[2 * (image / images)] / images * (O[i] - X[i]) * (1 - std::exp(-O[i])), error[image] += (O[i] - X[i]) * (O[i] - X[i]);
    }
    for (size_t i = 0; i < vectors; i++) {
        double m = mu[i], l = logvar[i], by_kl = (double)factors[2 * (i / latent / images) + 1] / images;
        z[i] = m + noise[i] * std::exp(l / 2), kl[i / latent] -= 0.5 * (1 + l - m * m - std::exp(l));
        dmu[i] = dz[i] + by_kl * m, dlogvar[i] = dz[i] * noise[i] * 0.5 * std::exp(l / 2) + by_kl * 0.5 * (std::exp(l) - 1);
    }
    for (int m = 0; m < models; m++) {
        double e = 0, k = 0;
        for (int i = 0; i < images; i++) e += error[m * images + i] / images, k += kl[m * images + i] / images;
        losses.insert(losses.end(), {factors[2 * m] * e + factors[2 * m + 1] * k, e, k});
    }
    int stretch = 300, parts = geometry::divide_up(length, stretch);
    std::vector<double> partial, of_kl;
    kernel("loss_error", [&] {
        std::vector<T> g = poisoned<T>(count);
        partial = poisoned<double>((size_t)models * images * parts);
        RUN(T, loss_error, parts, images, models, 256, 2048, out.data(), x.data(), g.data(), factors.data(), partial.data(), length, stretch);
        Doubles added(models * images);
        for (size_t i = 0; i < partial.size(); i++) added[i / parts] += partial[i];
        return std::vector<Doubles>{added, wide(g)};
    }, {error, gradient}, limit<T>());
    kernel("loss_latent", [&] {
        std::vector<T> to = poisoned<T>(vectors);
        of_kl = poisoned<double>(models * images);
        RUN(T, loss_latent, images, 1, models, 256, 2048, mu.data(), logvar.data(), noise.data(), to.data(), of_kl.data(), latent);
        return std::vector<Doubles>{wide(to), of_kl};
    }, {z, kl}, limit<T>());
    kernel("loss_latent_backward", [&] {
        std::vector<float> a = poisoned<float>(vectors), b = a;
        LAUNCH(loss_latent_backward, images, 1, models, 256, 0, mu.data(), logvar.data(), noise.data(), dz.data(), factors.data(), a.data(), b.data(), latent);
        return std::vector<Doubles>{wide(a), wide(b)};
    }, {dmu, dlogvar}, 1e-5);
    u64 step = 5;
    kernel("loss_finish", [&] {
        std::vector<double> to(4 * models * 3, -1);
        std::vector<u64> flag(models, 0);
        LAUNCH(loss_finish, 1, 1, models, 256, 2048, partial.data(), of_kl.data(), factors.data(), &step, images, parts, 4, to.data(), flag.data());
        return std::vector<Doubles>{Doubles(to.begin() + models * 3, to.begin() + 2 * models * 3), Doubles(flag.begin(), flag.end())};
    }, {losses, Doubles(models)}, 1e-5);
    if (mutating) return;
    // The flag keeps the first step whose loss is no number.
    std::vector<double> to(4 * models * 3), bad = partial;
    std::vector<u64> flag(models, 0);
    bad.back() = NAN;
    for (u64 now : {7, 8}) LAUNCH(loss_finish, 1, 1, models, 256, 2048, bad.data(), of_kl.data(), factors.data(), &now, images, parts, 4, to.data(), flag.data());
    judge("loss_finish", "flag", flag.back() == 8 && (models == 1 || flag[0] == 0) ? 0 : 1, 0.5);
}

static void check_adam(int models, int count) {
    int pitch = (count + 3) / 4 * 4;
    std::vector<float> w = numbers<float>(models * pitch), m(models * pitch), v(models * pitch), prepared(7 * models);
    std::vector<double> settings;
    for (int model = 0; model < models; model++) settings.insert(settings.end(), {2e-4 * (model + 1), 0.9, 0.999, 1e-8});
    Doubles W = wide(w), first(W.size()), second(W.size());
    std::vector<float> one = m, two = v, expected = w;
    std::vector<u16> copy = poisoned<u16>(w.size());
    u64 step = 0;
    for (int t = 1; t <= 3; t++) {
        std::vector<float> g = numbers<float>(w.size());
        std::vector<float> before_w = w, before_m = m, before_v = v;
        u64 before = step;
        for (int i = 0; i < models * pitch; i++) {
            if (i % pitch >= count) continue;
            double rate = settings[i / pitch * 4];
            first[i] = 0.9 * first[i] + 0.1 * g[i], second[i] = 0.999 * second[i] + 0.001 * g[i] * g[i];
            W[i] -= rate * first[i] / (1 - std::pow(0.9, t)) / (std::sqrt(second[i] / (1 - std::pow(0.999, t))) + 1e-8);
            // As the CPU does it, in f32: the same bits.
            one[i] = 0.9f * one[i] + (float)(1 - 0.9) * g[i], two[i] = 0.999f * two[i] + (float)(1 - 0.999) * (g[i] * g[i]);
            expected[i] -= (float)(rate / (1 - std::pow(0.9, (double)t))) * one[i] / (std::sqrt(two[i]) * (float)(1 / std::sqrt(1 - std::pow(0.999, (double)t))) + 1e-8f);
        }
        kernel("adam", [&] {
            w = before_w, m = before_m, v = before_v, step = before;
            LAUNCH(adam_prepare, 1, 1, 1, 64, 0, &step, settings.data(), prepared.data(), models);
            LAUNCH(adam, 2, 1, models, 256, 0, w.data(), g.data(), m.data(), v.data(), copy.data(), prepared.data(), count, pitch);
            return std::vector<Doubles>{wide(w), wide(m), wide(v), {(double)step}};
        }, {W, first, second, {(double)t}}, 1e-5);
        if (mutating) return;
        judge("adam", "bits of the CPU", w == expected && m == one && v == two ? 0 : 1, 0.5);
        for (int i = 0; i < models * pitch; i++)
            if (i % pitch < count && copy[i] != to_bf16(w[i])) judge("adam", "bf16 copy", 1, 0.5);
    }
    kernel("weights_rounded", [&] {
        copy = poisoned<u16>(w.size());
        LAUNCH(weights_rounded, 2, 1, 1, 256, 0, w.data(), copy.data(), (long long)w.size());
        return std::vector<Doubles>{wide(copy)};
    }, {wide(w)}, 4e-3);
}

static void check_turned() {
    struct Sizes { int taps, inputs, outputs, flipped; };
    std::vector<Turned> table;
    std::vector<float> w;
    int models = 3;
    for (Sizes s : {Sizes{27, 5, 3, 1}, Sizes{1, 33, 70, 0}, Sizes{8, 32, 32, 1}, Sizes{9, 1, 1, 1}}) {
        table.push_back({(long long)w.size(), (long long)w.size(), s.taps, s.inputs, s.outputs, s.flipped, 0});
        w.resize(w.size() + s.taps * s.inputs * s.outputs);
    }
    long long pitch = w.size();
    w = numbers<float>(models * pitch);
    Doubles wanted(w.size());
    for (int model = 0; model < models; model++)
        for (const Turned& of : table)
            for (int tap = 0; tap < of.taps; tap++) for (int i = 0; i < of.inputs; i++) for (int o = 0; o < of.outputs; o++)
                wanted[model * pitch + of.to + ((of.flipped ? of.taps - 1 - tap : tap) * of.outputs + o) * of.inputs + i] = w[model * pitch + of.from + (tap * of.inputs + i) * of.outputs + o];
    int tiles = turned_tiles(table);
    kernel("weights_turned", [&] {
        std::vector<float> to = poisoned<float>(w.size());
        LAUNCH(weights_turned_f32, tiles, 1, models, 256, 4352, w.data(), to.data(), table.data(), (int)table.size(), pitch, pitch);
        return std::vector<Doubles>{wide(to)};
    }, {wanted}, 0);
    kernel("weights_turned, bf16", [&] {
        std::vector<u16> to = poisoned<u16>(w.size());
        LAUNCH(weights_turned_bf16, tiles, 1, models, 256, 4352, w.data(), to.data(), table.data(), (int)table.size(), pitch, pitch);
        return std::vector<Doubles>{wide(to)};
    }, {wanted}, 4e-3);
}

static void check_noise() {
    // Known answers of Random123.
    Words zero = philox(Words{0, 0, 0, 0}, 0, 0), ones = philox(Words{~0u, ~0u, ~0u, ~0u}, ~0u, ~0u);
    judge("philox", "known answers", zero.a == 0x6627e8d5 && zero.b == 0xe169c58d && zero.c == 0xbc57ac4c && zero.d == 0x9b00dbd8 && ones.a == 0x408f276d && ones.b == 0x41c83b0e &&
          ones.c == 0xa20bc7c6 && ones.d == 0x6d5451fd ? 0 : 1, 0.5);
    std::vector<u32> key = {1, 2, 3, 4, 5, 6};
    u64 step = (5ull << 32) + 9;
    int count = 4097, models = 3;
    Doubles uniforms, normals;
    for (int model = 0; model < models; model++)
        for (int i = 0; i < count; i++) {
            Words of = philox(Words{(u32)(i / 2), 0, 9, 5}, key[2 * model], key[2 * model + 1]);
            auto uniform = [](u32 high, u32 low) { return std::ldexp((double)(((u64)high << 32 | low) >> 11), -53); };
            double radius = std::sqrt(-2 * std::log(1 - uniform(of.a, of.b))), angle = 2 * M_PI * uniform(of.c, of.d);
            uniforms.push_back(i % 2 ? uniform(of.c, of.d) : uniform(of.a, of.b));
            normals.push_back(radius * (i % 2 ? std::sin(angle) : std::cos(angle)));
        }
    kernel("noise_normals", [&] {
        std::vector<float> to = poisoned<float>(models * count);
        LAUNCH(noise_normals, 3, 1, models, 256, 0, to.data(), key.data(), &step, count);
        return std::vector<Doubles>{wide(to)};
    }, {normals}, 1e-7);
    kernel("noise_uniforms", [&] {
        std::vector<double> to = poisoned<double>(models * count);
        LAUNCH(noise_uniforms, 3, 1, models, 256, 0, to.data(), key.data(), &step, count);
        return std::vector<Doubles>{to};
    }, {uniforms}, 0);
    double mean = 0, square = 0;
    for (double value : normals) mean += value / normals.size(), square += value * value / normals.size();
    judge("noise_normals", "mean", std::fabs(mean), 0.03), judge("noise_normals", "variance", std::fabs(square - 1), 0.04);
}

static void check_spectral(int models, bool large) {
    std::vector<LayerSizes> sizes;
    long long trained = 0, statistics = 0;
    auto layer = [&](int taps, int inputs, int outputs, bool by_inputs) {
        sizes.push_back({trained, statistics, taps, inputs, outputs, by_inputs});
        trained += (long long)taps * inputs * outputs, statistics += by_inputs ? inputs : outputs;
    };
    layer(27, 5, 3, false), layer(16, 7, 7, true), layer(1, 2, 33, false), layer(1, 90, 70, false), layer(8, 3, 65, true), layer(1, 1, 1, false);
    if (mutating) layer(250, 2, 3, true), layer(1, 4, 300, false), layer(9, 3, 64, true), layer(1, 200, 200, false);  // every thread has a part
    if (large) layer(64, 40, 40, true), layer(64, 40, 40, false), layer(1, 3, 9000, false), layer(1, 2100, 70, false);
    SpectralTables tables = spectral_tables(sizes);
    std::vector<float> w = numbers<float>(models * trained), gradients = numbers<float>(models * trained), start = numbers<float>(models * statistics, -1, 1), before = start;
    Doubles sigma, u_after(models * statistics), gradient(models * trained), vectors(models * tables.vectors);
    for (int m = 0; m < models; m++)
        for (size_t number = 0; number < sizes.size(); number++) {
            const LayerSizes& of = sizes[number];
            const float* W = &w[m * trained + of.weight];
            int axis = of.by_inputs ? of.inputs : of.outputs, rest = of.taps * (of.by_inputs ? of.outputs : of.inputs);
            auto place = [&](int one, int other) { return of.by_inputs ? ((long long)(other / of.outputs) * of.inputs + one) * of.outputs + other % of.outputs : (long long)other * of.outputs + one; };
            Doubles v(rest), u(axis);
            double norm = 0, length = 0, dot = 0;
            for (int j = 0; j < rest; j++) {
                for (int i = 0; i < axis; i++) v[j] += (double)W[place(i, j)] * start[m * statistics + of.u + i];
                norm += v[j] * v[j];
            }
            for (double& value : v) value /= std::max(std::sqrt(norm), 1e-12);
            for (int i = 0; i < axis; i++) {
                for (int j = 0; j < rest; j++) u[i] += W[place(i, j)] * v[j];
                length += u[i] * u[i];
            }
            for (int i = 0; i < axis; i++) u_after[m * statistics + of.u + i] = u[i] /= std::sqrt(length);
            double s = std::sqrt(length);
            sigma.push_back(s);
            for (int i = 0; i < axis; i++) vectors[m * tables.vectors + tables.layers[number].next + i] = u[i];
            for (int j = 0; j < rest; j++) vectors[m * tables.vectors + tables.layers[number].v + j] = v[j];
            long long first = m * trained + of.weight;
            for (long long i = 0; i < (long long)axis * rest; i++) dot += (double)gradients[first + i] * W[i];
            for (int i = 0; i < axis; i++) for (int j = 0; j < rest; j++) gradient[first + place(i, j)] = (gradients[first + place(i, j)] - dot / s * u[i] * v[j]) / s;
        }
    std::vector<float> of_vectors, of_sigma(models * sizes.size()), of_inverse, of_gradients;
    std::vector<double> parts;
    Spectral p{tables.layers.data(), nullptr, w.data(), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, trained, statistics, tables.vectors, tables.parts, (int)sizes.size(), 1};
    auto tasks = [&](const std::vector<SpectralTask>& of) {
        p.tasks = of.data(), p.gradients = of_gradients.data(), p.statistics = start.data(), p.vectors = of_vectors.data(), p.parts = parts.data(), p.sigma = of_sigma.data(), p.inverse = of_inverse.data();
        return (unsigned)of.size();
    };
    auto iterate = [&] {
        start = before, of_vectors = poisoned<float>(models * tables.vectors), parts = poisoned<double>(models * tables.parts), of_sigma = poisoned<float>(models * sizes.size()), of_inverse = of_sigma;
        unsigned blocks = tasks(tables.v);
        LAUNCH(spectral_v, blocks, 1, models, 256, 2048, p);
        blocks = tasks(tables.u);
        LAUNCH(spectral_u, blocks, 1, models, 256, 2048, p);
        LAUNCH(spectral_finish, sizes.size(), 1, models, 256, 2048, p);
        return std::vector<Doubles>{wide(of_sigma), wide(start), wide(of_vectors), wide(of_inverse)};
    };
    auto correct = [&] {
        of_gradients = gradients;
        unsigned blocks = tasks(tables.dot);
        LAUNCH(spectral_dot, blocks, 1, models, 256, 2048, p);
        LAUNCH(spectral_gradient, blocks, 1, models, 256, 2048, p);
        return std::vector<Doubles>{wide(of_gradients)};
    };
    Doubles inverse;
    for (double s : sigma) inverse.push_back(1 / s);
    kernel("spectral", iterate, {sigma, u_after, vectors, inverse}, 1e-5);
    if (mutating) iterate();
    kernel("spectral_gradient", correct, {gradient}, 1e-5);
    if (mutating) return;
    p.training = 0;
    iterate();
    judge("spectral", "u kept in evaluation", start == before ? 0 : 1, 0.5);
}

template <class A, class B>
static void check_linear(int models, int m, int n, int k) {
    std::vector<A> a = numbers<A>((size_t)models * m * k), a_turned(a.size());
    std::vector<B> b = numbers<B>((size_t)models * k * n), b_turned(b.size());
    std::vector<float> bias = numbers<float>(models * n), sigma = numbers<float>(models, 0.5, 2), before = numbers<float>((size_t)models * m * n);
    Doubles X = wide(a), W = wide(b), wanted((size_t)models * m * n), plain(wanted.size());
    for (int model = 0; model < models; model++) {
        for (int i = 0; i < m; i++) for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int l = 0; l < k; l++) sum += X[((size_t)model * m + i) * k + l] * W[((size_t)model * k + l) * n + j];
            size_t at = ((size_t)model * m + i) * n + j;
            plain[at] = sum, wanted[at] = before[at] + bias[model * n + j] + sum / sigma[model];
        }
        for (int i = 0; i < m; i++) for (int l = 0; l < k; l++) a_turned[((size_t)model * k + l) * m + i] = a[((size_t)model * m + i) * k + l];
        for (int l = 0; l < k; l++) for (int j = 0; j < n; j++) b_turned[((size_t)model * n + j) * k + l] = b[((size_t)model * k + l) * n + j];
    }
    int stretch = 50, splits = geometry::divide_up(k, stretch);
    auto run = [&](bool turned) {
        std::vector<float> partial = poisoned<float>((size_t)models * splits * m * n), out = turned ? poisoned<float>(before.size()) : before;
        Product p{turned ? a_turned.data() : a.data(), turned ? b_turned.data() : b.data(), partial.data(), (long long)m * k, (long long)k * n, m, n, k, stretch, splits, turned ? 1 : k, turned ? m : 1, turned ? 1 : n, turned ? k : 1};
        unsigned x = geometry::divide_up(n, 64), y = geometry::divide_up(m, 32) * splits;
        if constexpr (sizeof(A) == 4 && sizeof(B) == 4) LAUNCH(linear_product_f32_f32, x, y, models, 256, 6272, p);
        else if constexpr (sizeof(A) == 4) LAUNCH(linear_product_f32_bf16, x, y, models, 256, 6272, p);
        else if constexpr (sizeof(B) == 4) LAUNCH(linear_product_bf16_f32, x, y, models, 256, 6272, p);
        else LAUNCH(linear_product_bf16_bf16, x, y, models, 256, 6272, p);
        LAUNCH(linear_finish_f32, geometry::divide_up(m * n, 256), 1, models, 256, 0, partial.data(), splits, m, n, turned ? nullptr : sigma.data(), 1, turned ? nullptr : bias.data(), n, out.data(), m * n, !turned);
        return std::vector<Doubles>{wide(out)};
    };
    // The products themselves are exact enough in f32, whatever the factors are kept in.
    kernel("linear", [&] { return run(false); }, {wanted}, 1e-5);
    if (mutating) {  // those of the product only: the finish has none
        int barriers = 2 * geometry::divide_up(stretch, LINEAR_K) - 1;  // the last one closes the last tile
        std::vector<Doubles> whole = run(true);
        for (int barrier = 0; barrier < barriers; barrier++) {
            sim::machine.skipped = barrier;
            bool noticed = false;
            for (unsigned seed = 1; seed <= 6 && !noticed; seed++) runtime::seed = seed, noticed = memcmp(run(true)[0].data(), whole[0].data(), whole[0].size() * 8) != 0;
            judge("linear_product", "a barrier that nobody misses", noticed ? 0 : 1, 0.5);
        }
        sim::machine.skipped = -1;
        return;
    }
    kernel("linear, turned", [&] { return run(true); }, {plain}, 1e-5);
    Doubles sums(models * k);
    for (size_t i = 0; i < X.size(); i++) sums[i / k / m * k + i % k] += X[i];
    kernel("linear_bias", [&] {
        std::vector<float> to = poisoned<float>(models * k);
        RUN(A, linear_bias, geometry::divide_up(k, 256), 1, models, 256, 0, a.data(), to.data(), m, k, k);
        return std::vector<Doubles>{wide(to)};
    }, {sums}, 1e-5);
}

static void check_geometry() {
    using namespace geometry;
    judge("geometry", "width", width(32, 2) == 8 && width(32, 4) == 4 && width(2, 2) == 2 && width(6, 4) == 2 && width(7, 2) == 1 && width(12, 2) == 2 ? 0 : 1, 0.5);
    judge("geometry", "lanes", lanes(32, 8) == 64 && lanes(3, 1) == 85 && lanes(4096, 8) == 1 && chunks(4096, 8) == 2 && chunks(2, 2) == 1 ? 0 : 1, 0.5);
    for (int channels : {1, 2, 3, 32, 64, 512, 5000})
        for (long long voxels : {1ll, 960ll, 31457280ll}) {
            int w = width(channels, 2), s = stretch(voxels, channels, w, PARTS), parts = divide_up(voxels, s);
            bool good = s % lanes(channels, w) == 0 && (long long)parts * s >= voxels && (long long)(parts - 1) * s < voxels && s / lanes(channels, w) <= 512 && s / lanes(channels, w) >= 4;
            good = good && blocks(voxels, channels, w) >= 1 && blocks(voxels, channels, w) <= 2112 && sum_bytes(w) <= 48 << 10;
            // Few parts at the sizes that occur: the second stage is short.
            if (voxels * channels <= 31457280ll * 32) good = good && parts <= PARTS;
            judge("geometry", "stretch", good ? 0 : 1, 0.5);
        }
    // Every weight belongs to exactly one task of each kind.
    std::vector<LayerSizes> sizes = {{0, 0, 64, 512, 512, true}, {64ll << 18, 512, 27, 32, 2, false}, {(64ll << 18) + 1728, 514, 1, 512, 15360, false}};
    SpectralTables tables = spectral_tables(sizes);
    long long dot = 0, v = 0, u = 0, all = 0;
    for (const LayerSizes& of : sizes) all += (long long)of.taps * of.inputs * of.outputs;
    for (const SpectralTask& task : tables.dot) dot += task.rows;
    for (const SpectralTask& task : tables.v) {
        const LayerSizes& of = sizes[task.layer];
        v += of.by_inputs ? (long long)of.inputs * std::min(64, of.outputs - task.column) : (long long)task.rows * of.outputs;
    }
    for (const SpectralTask& task : tables.u) {
        const LayerSizes& of = sizes[task.layer];
        u += of.by_inputs ? (long long)task.rows * of.outputs : (long long)task.rows * std::min(64, of.outputs - task.column);
    }
    judge("tables", "weights of all tasks", dot == all && v == all && u == all ? 0 : 1, 0.5);
}

int main(int count, char** arguments) {
    mutating = count > 1 && !strcmp(arguments[1], "barriers");
    if (!mutating) check_geometry(), check_noise();
    for (int models : {1, 3}) {
        if (mutating) check_loss<float>(models, 260, 300, 300);
        else check_loss<float>(models, 2, 700, 5), check_loss<u16>(models, 2, 700, 300);
        check_adam(models, 1003), check_turned();
        check_spectral(models, models == 1 && !mutating);
        check_linear<float, float>(models, 5, 70, 130);
        if (mutating) break;
        check_loss<float>(models, 1, 1, 1), check_adam(models, 2), check_adam(models, 4);
        check_linear<u16, float>(models, 33, 3, 51), check_linear<float, u16>(models, 1, 1, 1), check_linear<u16, u16>(models, 34, 65, 17);
    }
    return finish("check_numbers");
}
