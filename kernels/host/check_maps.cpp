// Holds norm.cu, join.cu, resample.cu and batch.cu against plain loops in f64: check_maps [barriers]
#include "compare.hpp"
#include "../batch.cu"
#include "../join.cu"
#include "../norm.cu"
#include "../resample.cu"

using namespace compare;
using Doubles = std::vector<double>;

struct Shape { int models, images, z, y, x, channels; int voxels() const { return z * y * x; } int all() const { return images * voxels(); } };
static std::string called(const char* name, const Shape& s, bool bf16) {
    char text[160];
    snprintf(text, sizeof text, "%s %s, %d models x %d images x %d %d %d x %d", name, bf16 ? "bf16" : "f32", s.models, s.images, s.z, s.y, s.x, s.channels);
    return text;
}
template <class T> constexpr double limit() { return sizeof(T) == 4 ? 1e-5 : 2e-2; }
#define RUN(T, kernel, ...)                                      \
    do {                                                         \
        if constexpr (sizeof(T) == 4) LAUNCH(kernel##_f32, __VA_ARGS__); \
        else LAUNCH(kernel##_bf16, __VA_ARGS__);                 \
    } while (0)

template <class T>
static void check_norm(const Shape& s, double offset) {
    int C = s.channels, n = s.all(), M = s.models, width = geometry::width(C, sizeof(T));
    size_t count = (size_t)M * n * C;
    std::vector<T> x = numbers<T>(count, offset - 1, offset + 1), dy = numbers<T>(count);
    std::vector<float> weight = numbers<float>(M * C, 0.5, 1.5), bias = numbers<float>(M * C), running_mean = numbers<float>(M * C), running_variance = numbers<float>(M * C, 0.5, 2);
    Doubles X = wide(x), DY = wide(dy);
    // In f64.
    Doubles moments(2 * M * C), affine(2 * M * C), mean_after, variance_after, sums(2 * M * C), coefficients(3 * M * C), dweight(M * C), dbias(M * C), y(count), dx(count), raw(2 * M * C);
    for (int m = 0; m < M; m++)
        for (int c = 0; c < C; c++) {
            double mean = 0, variance = 0;
            auto at = [&](int v) { return ((size_t)m * n + v) * C + c; };
            for (int v = 0; v < n; v++) mean += X[at(v)] / n;
            for (int v = 0; v < n; v++) variance += (X[at(v)] - mean) * (X[at(v)] - mean) / n;
            double inverse = 1 / std::sqrt(variance + 1e-5), scale = weight[m * C + c] * inverse, shift = bias[m * C + c] - scale * mean;
            size_t first = (size_t)m * 2 * C + c;
            moments[first] = mean, moments[first + C] = variance, affine[first] = scale, affine[first + C] = shift;
            raw[first] = mean * n, raw[first + C] = (variance + mean * mean) * n;
            double sum = 0, product = 0;
            for (int v = 0; v < n; v++) {
                double before = X[at(v)] * (float)scale + (float)shift, through = before > 0 ? DY[at(v)] : 0;
                y[at(v)] = std::max(0.0, before), sum += through, product += through * (X[at(v)] - mean);
            }
            sums[first] = sum, sums[first + C] = product, dweight[m * C + c] = product * inverse, dbias[m * C + c] = sum;
            double inner = -scale * inverse * inverse * product / n, constant = -scale * sum / n - inner * mean;
            size_t third = (size_t)m * 3 * C + c;
            coefficients[third] = scale, coefficients[third + C] = inner, coefficients[third + 2 * C] = constant;
            for (int v = 0; v < n; v++) dx[at(v)] = scale * (y[at(v)] > 0 ? DY[at(v)] : 0) + inner * X[at(v)] + constant;
        }
    for (int i = 0; i < M * C; i++) {
        size_t first = (size_t)(i / C) * 2 * C + i % C;
        mean_after.push_back(0.9 * running_mean[i] + 0.1 * moments[first]);
        variance_after.push_back(0.9 * running_variance[i] + 0.1 * moments[first + C] * n / (n - 1.0));
    }
    int stretch = geometry::lanes(C, width) * 3, parts = geometry::divide_up(n, stretch), chunks = geometry::chunks(C, width), blocks = geometry::blocks(n, C, width), bytes = geometry::sum_bytes(width);
    auto added = [&](const std::vector<double>& partial, int rows) {
        Doubles out(M * rows * C);
        for (size_t i = 0; i < partial.size(); i++) out[i / (rows * C) / parts * rows * C + i % (rows * C)] += partial[i];
        return out;
    };
    std::vector<double> partial;
    kernel(called("norm_sums", s, sizeof(T) == 2), [&] {
        partial = poisoned<double>((size_t)M * parts * 2 * C);
        RUN(T, norm_sums, parts, chunks, M, 256, bytes, x.data(), partial.data(), n, C, width, stretch);
        return std::vector<Doubles>{added(partial, 2)};
    }, {raw}, 1e-5);
    std::vector<double> got_moments;
    std::vector<float> got_affine;
    if (n > 1) kernel(called("norm_finish", s, sizeof(T) == 2), [&] {
        std::vector<float> mean = running_mean, variance = running_variance;
        got_moments = poisoned<double>(2 * M * C), got_affine = poisoned<float>(2 * M * C);
        LAUNCH(norm_finish, geometry::divide_up(C, 32), 1, M, 256, 2048, partial.data(), parts, C, n, weight.data(), bias.data(), mean.data(), variance.data(), C, C, got_moments.data(), got_affine.data());
        Doubles means, variances;
        for (int i = 0; i < M * 2 * C; i++) (i / C % 2 ? variances : means).push_back(got_moments[i]);
        return std::vector<Doubles>{means, variances, wide(mean), wide(variance)};
    }, [&] {
        Doubles means, variances;
        for (int i = 0; i < M * 2 * C; i++) (i / C % 2 ? variances : means).push_back(moments[i]);
        return std::vector<Doubles>{means, variances, mean_after, variance_after};
    }(), 1e-5);
    if (offset) return;
    std::vector<float> partial_f32(partial.begin(), partial.end());
    std::vector<float> of_affine(affine.begin(), affine.end()), of_coefficients(coefficients.begin(), coefficients.end());
    if (n > 1) kernel(called("norm_finish_fused", s, sizeof(T) == 2), [&] {
        std::vector<float> mean = running_mean, variance = running_variance;
        std::vector<double> m = poisoned<double>(2 * M * C);
        std::vector<float> a = poisoned<float>(2 * M * C);
        LAUNCH(norm_finish_fused, geometry::divide_up(C, 32), 1, M, 256, 2048, partial_f32.data(), parts, C, n, weight.data(), bias.data(), mean.data(), variance.data(), C, C, m.data(), a.data());
        return std::vector<Doubles>{m, wide(a)};
    }, {moments, affine}, 1e-5);
    kernel(called("norm_running", s, sizeof(T) == 2), [&] {
        std::vector<double> m = poisoned<double>(2 * M * C);
        std::vector<float> a = poisoned<float>(2 * M * C), means(M * C), variances(M * C);
        for (int i = 0; i < M * C; i++) means[i] = moments[i / C * 2 * C + i % C], variances[i] = moments[i / C * 2 * C + C + i % C];
        LAUNCH(norm_running, geometry::divide_up(C, 256), 1, M, 256, 0, C, weight.data(), bias.data(), means.data(), variances.data(), C, C, m.data(), a.data());
        return std::vector<Doubles>{m, wide(a)};
    }, {moments, affine}, 1e-5);
    kernel(called("norm_relu", s, sizeof(T) == 2), [&] {
        std::vector<T> out = poisoned<T>(count);
        RUN(T, norm_relu, blocks, chunks, M, 256, 0, x.data(), of_affine.data(), out.data(), n, C, width);
        return std::vector<Doubles>{wide(out)};
    }, {y}, limit<T>());
    kernel(called("norm_backward_sums", s, sizeof(T) == 2), [&] {
        partial = poisoned<double>((size_t)M * parts * 2 * C);
        RUN(T, norm_backward_sums, parts, chunks, M, 256, bytes, dy.data(), x.data(), moments.data(), of_affine.data(), partial.data(), n, C, width, stretch);
        return std::vector<Doubles>{added(partial, 2)};
    }, {sums}, 1e-5);
    kernel(called("norm_backward_finish", s, sizeof(T) == 2), [&] {
        std::vector<float> w = poisoned<float>(M * C), b = w, again = w, k = poisoned<float>(3 * M * C);
        LAUNCH(norm_backward_finish, geometry::divide_up(C, 32), 1, M, 256, 2048, partial.data(), parts, 2, C, n, moments.data(), weight.data(), C, w.data(), b.data(), again.data(), k.data());
        return std::vector<Doubles>{wide(w), wide(b), wide(again), wide(k)};
    }, {dweight, dbias, dbias, coefficients}, 1e-5);
    kernel(called("norm_propagate", s, sizeof(T) == 2), [&] {
        std::vector<T> out = dy;
        RUN(T, norm_propagate, blocks, chunks, M, 256, 0, out.data(), x.data(), of_coefficients.data(), of_affine.data(), out.data(), n, C, width);
        return std::vector<Doubles>{wide(out)};
    }, {dx}, limit<T>(), n == 1 ? coefficients[0] : 1e-30);  // one value has no gradient: what large terms leave
    for (size_t i = 0; i < count; i++) {
        size_t third = i / C / n * 3 * C + i % C;
        dx[i] = coefficients[third] * DY[i] + coefficients[third + C] * X[i] + coefficients[third + 2 * C];
    }
    kernel(called("norm_propagate without ReLU", s, sizeof(T) == 2), [&] {
        std::vector<T> out = poisoned<T>(count);
        RUN(T, norm_propagate, blocks, chunks, M, 256, 0, dy.data(), x.data(), of_coefficients.data(), nullptr, out.data(), n, C, width);
        return std::vector<Doubles>{wide(out)};
    }, {dx}, limit<T>());
}

template <class T>
static void check_join(const Shape& s, bool up, int references, int activation) {
    int C = s.channels, V = s.voxels(), M = s.models, N = s.images, rows = references ? 5 : 2;
    int low[3] = {up && s.z > 1 ? s.z / 2 : s.z, up ? s.y / 2 : s.y, up ? s.x / 2 : s.x}, L = low[0] * low[1] * low[2];
    size_t count = (size_t)M * N * V * C;
    std::vector<T> second = numbers<T>(count), bypass = numbers<T>((size_t)M * N * L * C), reference = numbers<T>((size_t)M * N * V * references, 0, 1), upstream = numbers<T>(count);
    std::vector<float> affine = numbers<float>(2 * M * C), factors = numbers<float>(M * (references + 1) * C), label = numbers<float>(M * N * C, 0, 0.5);
    std::vector<double> moments = wide(numbers<float>(2 * M * C));
    Doubles S = wide(second), B = wide(bypass), R = wide(reference), U = wide(upstream), out(count), gradient(count), sums((size_t)M * N * rows * C);
    std::vector<T> given(count);
    for (int m = 0; m < M; m++) for (int i = 0; i < N; i++) for (int v = 0; v < V; v++) for (int c = 0; c < C; c++) {
        size_t row = (size_t)m * N + i, at = (row * V + v) * C + c;
        int z = v / (s.y * s.x), y = v / s.x % s.y, x = v % s.x;
        int from = (z / (s.z / low[0]) * low[1] + y / (s.y / low[1])) * low[2] + x / (s.x / low[2]);
        double value = S[at] * affine[m * 2 * C + c] + affine[m * 2 * C + C + c] + B[(row * L + from) * C + c], condition = 0;
        if (references) {
            condition = factors[(m * (references + 1) + references) * C + c];
            for (int r = 0; r < references; r++) condition += factors[(m * (references + 1) + r) * C + c] * R[(row * V + v) * references + r];
            value += std::max(0.0, condition) + label[row * C + c];
        }
        out[at] = activation == 2 ? std::max(value, 0.0) + std::log1p(std::exp(-std::fabs(value))) : activation == 1 ? std::max(value, 0.0) : value;
        keep(&given[at], (float)out[at]);
        double before = kept(&given[at]), g = activation == 2 ? U[at] * -std::expm1(-before) : activation == 1 && before <= 0 ? 0 : U[at];
        gradient[at] = g;
        double* sum = &sums[row * rows * C + c];
        sum[0] += g, sum[C] += g * (S[at] - (float)moments[m * 2 * C + c]);
        if (references && condition > 0) {
            sum[2 * C] += g;
            for (int r = 0; r < references; r++) sum[(3 + r) * C] += g * R[(row * V + v) * references + r];
        }
    }
    Join p{};
    p.second = second.data(), p.bypass = bypass.data(), p.affine = affine.data(), p.moments = moments.data(), p.images = N, p.z = s.z, p.y = s.y, p.x = s.x;
    p.bypass_z = low[0], p.bypass_y = low[1], p.bypass_x = low[2], p.channels = C, p.width = geometry::width(C, sizeof(T)), p.references = references, p.activation = activation;
    if (references) p.reference = reference.data(), p.factors = factors.data(), p.label = label.data();
    p.stretch = geometry::lanes(C, p.width) * 2, p.parts = geometry::divide_up(V, p.stretch);
    int chunks = geometry::chunks(C, p.width);
    kernel(called("join", s, sizeof(T) == 2), [&] {
        std::vector<T> to = poisoned<T>(count);
        p.out = to.data();
        RUN(T, join, N * p.parts, chunks, M, 256, 0, p);
        return std::vector<Doubles>{wide(to)};
    }, {out}, limit<T>());
    kernel(called("join_backward", s, sizeof(T) == 2), [&] {
        std::vector<T> to = upstream;
        std::vector<double> partial = poisoned<double>((size_t)M * N * p.parts * rows * C);
        p.out = given.data(), p.gradient = to.data(), p.partial = partial.data();
        RUN(T, join_backward, N * p.parts, chunks, M, 256, geometry::sum_bytes(p.width), p);
        Doubles added(sums.size());
        for (size_t i = 0; i < partial.size(); i++) added[i / (rows * C) / p.parts * rows * C + i % (rows * C)] += partial[i];
        return std::vector<Doubles>{wide(to), added};
    }, {gradient, sums}, limit<T>());
    if (!references) return;
    // The partials of each image, added.
    std::vector<double> partial;
    for (size_t row = 0; row < (size_t)M * N; row++) for (int part = 0; part < 3; part++) for (int k = 0; k < rows * C; k++) partial.push_back(sums[row * rows * C + k] * (part + 1) / 6);
    Doubles of_image;
    for (size_t row = 0; row < (size_t)M * N; row++) for (int c = 0; c < C; c++) of_image.push_back(sums[row * rows * C + c]);
    kernel(called("join_image_sums", s, sizeof(T) == 2), [&] {
        std::vector<double> to = poisoned<double>((size_t)M * N * C);
        LAUNCH(join_image_sums, geometry::divide_up(C, 32), N, M, 256, 2048, partial.data(), 3, rows, C, to.data());
        return std::vector<Doubles>{to};
    }, {of_image}, 1e-5);
}

template <class T>
static void check_resample(const Shape& s) {  // s: the small map
    int C = s.channels, M = s.models, N = s.images, deep = s.z > 1 ? 2 : 1, width = geometry::width(C, sizeof(T)), corners = 4 * deep;
    int z = s.z * deep, y = s.y * 2, x = s.x * 2;
    size_t small = (size_t)M * s.all() * C, large = small * corners;
    std::vector<T> of_small = numbers<T>(small), of_large = numbers<T>(large);
    Doubles S = wide(of_small), L = wide(of_large), nearest(small), average(small), sum(small), spread(large), added(large), upsampled(large);
    for (size_t image = 0; image < (size_t)M * N; image++) for (int c = 0; c < z; c++) for (int b = 0; b < y; b++) for (int a = 0; a < x; a++) for (int ch = 0; ch < C; ch++) {
        size_t up = (((image * z + c) * y + b) * x + a) * C + ch, down = (((image * s.z + c / deep) * s.y + b / 2) * s.x + a / 2) * C + ch;
        if (c % deep == 0 && b % 2 == 0 && a % 2 == 0) nearest[down] = L[up];
        sum[down] += L[up], average[down] += L[up] / corners, spread[up] = S[down] / corners, added[up] = L[up] + S[down] / corners, upsampled[up] = S[down];
    }
    auto run = [&](const char* name, auto kernel_f32, auto kernel_bf16, bool down, int add, const Doubles& wanted) {
        kernel(called(name, s, sizeof(T) == 2), [&] {
            std::vector<T> to = add ? of_large : poisoned<T>(down ? small : large);
            Resample p = down ? Resample{of_large.data(), to.data(), N, z, y, x, s.z, s.y, s.x, C, width, add} : Resample{of_small.data(), to.data(), N, s.z, s.y, s.x, z, y, x, C, width, add};
            int blocks = geometry::blocks((long long)to.size() / M / C, C, width);
            if constexpr (sizeof(T) == 4) LAUNCH(kernel_f32, blocks, geometry::chunks(C, width), M, 256, 0, p);
            else LAUNCH(kernel_bf16, blocks, geometry::chunks(C, width), M, 256, 0, p);
            return std::vector<Doubles>{wide(to)};
        }, {wanted}, limit<T>());
    };
    run("resample_nearest", resample_nearest_f32, resample_nearest_bf16, true, 0, nearest);
    run("resample_average", resample_average_f32, resample_average_bf16, true, 0, average);
    run("resample_corners", resample_corners_f32, resample_corners_bf16, true, 0, sum);
    run("resample_spread", resample_spread_f32, resample_spread_bf16, false, 0, spread);
    run("resample_spread, added", resample_spread_f32, resample_spread_bf16, false, 1, added);
    run("resample_upsample", resample_upsample_f32, resample_upsample_bf16, false, 0, upsampled);
}

template <class T>
static void check_covariance(const Shape& s) {
    int R = s.channels, K = R + R * (R + 1) / 2, M = s.models, n = s.all();
    std::vector<T> x = numbers<T>((size_t)M * n * R, 0, 1);
    Doubles X = wide(x), mean(M * R), covariance(M * R * R), raw(M * K);
    for (int m = 0; m < M; m++) {
        for (int v = 0; v < n; v++) for (int a = 0; a < R; a++) mean[m * R + a] += X[((size_t)m * n + v) * R + a] / n;
        for (int v = 0; v < n; v++) for (int a = 0; a < R; a++) for (int b = 0; b < R; b++)
            covariance[(m * R + a) * R + b] += (X[((size_t)m * n + v) * R + a] - mean[m * R + a]) * (X[((size_t)m * n + v) * R + b] - mean[m * R + b]) / n;
        int k = R;
        for (int a = 0; a < R; a++) {
            raw[m * K + a] = mean[m * R + a] * n;
            for (int b = a; b < R; b++, k++) raw[m * K + k] = (covariance[(m * R + a) * R + b] + mean[m * R + a] * mean[m * R + b]) * n;
        }
    }
    int stretch = 300, parts = geometry::divide_up(n, stretch);
    std::vector<double> partial;
    kernel(called("covariance_sums", s, sizeof(T) == 2), [&] {
        partial = poisoned<double>((size_t)M * parts * K);
        RUN(T, covariance_sums, parts, 1, M, 256, 2048, x.data(), partial.data(), n, R, stretch);
        Doubles added(M * K);
        for (size_t i = 0; i < partial.size(); i++) added[i / K / parts * K + i % K] += partial[i];
        return std::vector<Doubles>{added};
    }, {raw}, 1e-5);
    kernel(called("covariance_finish", s, sizeof(T) == 2), [&] {
        std::vector<double> m = poisoned<double>(M * R), c = poisoned<double>(M * R * R);
        LAUNCH(covariance_finish, 1, 1, M, 32, 256, partial.data(), parts, n, R, m.data(), c.data());
        return std::vector<Doubles>{m, c};
    }, {mean, covariance}, n == 1 ? 1 : 1e-5);
}

template <class T>
static void check_batch(const Shape& s) {
    int C = s.channels, V = s.voxels(), N = s.images, set = C + 2;
    std::vector<float> first = numbers<float>((size_t)N * C * V), scale = numbers<float>(set, 0.1, 1);
    std::vector<unsigned char> bytes((size_t)N * set * V);
    std::vector<u16> words(bytes.size());
    for (size_t i = 0; i < bytes.size(); i++) bytes[i] = (unsigned char)source(), words[i] = (u16)source();
    std::vector<int> picked(C);
    for (int c = 0; c < C; c++) picked[c] = (c * 2 + 1) % set;
    Doubles last(first.size()), of_bytes(first.size()), of_words(first.size());
    for (int n = 0; n < N; n++) for (int c = 0; c < C; c++) for (int v = 0; v < V; v++) {
        size_t to = ((size_t)n * V + v) * C + c, from = ((size_t)n * set + picked[c]) * V + v;
        last[to] = first[((size_t)n * C + c) * V + v], of_bytes[to] = bytes[from] * (double)scale[picked[c]], of_words[to] = words[from] * (double)scale[picked[c]];
    }
    int blocks = geometry::divide_up(V, 512);
    kernel(called("batch_unpack, u8", s, sizeof(T) == 2), [&] {
        std::vector<T> to = poisoned<T>(first.size());
        RUN(T, batch_unpack_u8, blocks, N, 1, 256, 0, bytes.data(), scale.data(), picked.data(), to.data(), V, C, set);
        return std::vector<Doubles>{wide(to)};
    }, {of_bytes}, limit<T>());
    kernel(called("batch_unpack, u16", s, sizeof(T) == 2), [&] {
        std::vector<T> to = poisoned<T>(first.size());
        RUN(T, batch_unpack_u16, blocks, N, 1, 256, 0, words.data(), scale.data(), picked.data(), to.data(), V, C, set);
        return std::vector<Doubles>{wide(to)};
    }, {of_words}, limit<T>());
    std::vector<T> turned;
    kernel(called("batch_last", s, sizeof(T) == 2), [&] {
        turned = poisoned<T>(first.size());
        RUN(T, batch_last, blocks, N, 1, 256, 0, first.data(), turned.data(), V, C);
        return std::vector<Doubles>{wide(turned)};
    }, {last}, limit<T>());
    kernel(called("batch_first", s, sizeof(T) == 2), [&] {
        std::vector<float> to = poisoned<float>(first.size());
        RUN(T, batch_first, blocks, N, 1, 256, 0, turned.data(), to.data(), V, C);
        return std::vector<Doubles>{wide(to)};
    }, {wide(first)}, limit<T>());
}

template <class T>
static void check_all() {
    std::vector<Shape> shapes = {{1, 2, 3, 5, 7, 20}, {3, 1, 1, 1, 1, 3}, {3, 2, 1, 3, 2, 1}, {1, 1, 4, 6, 5, 32}, {1, 2, 2, 3, 5, 7}, {3, 3, 1, 9, 5, 2}, {1, 1, 1, 2, 2, sizeof(T) == 4 ? 1100 : 2200}, {1, 2, 1, 1, 3, 301}};
    if (mutating) shapes = {{1, 2, 3, 5, 7, 20}, {1, 1, 1, 90, 100, 2}};  // every thread and every row of a second stage has a part
    for (const Shape& s : shapes) {
        check_norm<T>(s, 0);
        if (sizeof(T) == 4 && s.all() > 1) check_norm<T>(s, 1000);
        Shape even{s.models, s.images, s.z > 1 ? s.z / 2 * 2 : 1, s.y / 2 * 2 + 2, s.x / 2 * 2 + 2, s.channels};
        check_join<T>(s, false, 0, 1), check_join<T>(even, true, 0, 2), check_join<T>(even, true, 2, 1), check_join<T>(s, false, 2, 0);
        if (!mutating) check_join<T>(s, false, 1, 2);
        check_resample<T>(s);
        if (s.channels <= 32) check_batch<T>(s);
    }
    check_covariance<T>({1, 2, 3, 11, 13, 2}), check_covariance<T>({1, 3, 1, 17, 19, 3});
    if (!mutating) check_covariance<T>({3, 1, 2, 3, 5, 1}), check_covariance<T>({1, 1, 1, 1, 1, 2});
}

int main(int count, char** arguments) {
    mutating = count > 1 && !strcmp(arguments[1], "barriers");
    check_all<float>();
    check_all<u16>();
    return finish("check_maps");
}
