// What the checks share: random numbers, comparisons, and the removal of barriers.
#pragma once
#include "../device.cuh"

namespace check {

inline std::mt19937 source(1);
inline int failures = 0, checked = 0;
inline bool mutating = false, quick = false;
inline const char* only = "";

/// `CHECK [NAME] [barriers] [quick]`. NAME: only kernels whose name contains it. barriers: take out one __syncthreads
/// after the other instead; every single one must be missed. quick: fewer cases and orders.
inline void arguments(int count, char** values) {
    for (int i = 1; i < count; i++)
        if (!strcmp(values[i], "barriers")) mutating = true;
        else if (!strcmp(values[i], "quick")) quick = true;
        else only = values[i];
}
inline bool wanted(const char* name) { return strstr(name, only); }
inline int verdict() {  // a check that checked nothing failed
    printf("%d failures of %d\n", failures, checked);
    return failures != 0 || !checked;
}

inline float uniform(float from, float to) { return std::uniform_real_distribution<float>(from, to)(source); }
inline std::vector<u16> random_bf16(size_t count, float scale) {
    std::vector<u16> values(count);
    for (u16& v : values) v = to_bf16(uniform(-scale, scale));
    return values;
}
inline std::vector<float> random_f32(size_t count, float from, float to) {
    std::vector<float> values(count);
    for (float& v : values) v = uniform(from, to);
    return values;
}

/// The largest difference over the largest number wanted; NaN where anything is.
template <class A, class B>
double relative(const A& got, const B& want) {
    double error = 0, scale = 0;
    for (size_t i = 0; i < want.size(); i++) {
        if (std::isnan(got[i])) return NAN;
        error = std::max(error, (double)std::fabs((double)got[i] - (double)want[i]));
        scale = std::max(scale, (double)std::fabs((double)want[i]));
    }
    return error / scale;
}
/// How far a number lies beyond the half step of bf16 that storing it costs, over the largest number wanted.
template <class A, class B>
double beyond_rounding(const A& got, const B& want) {
    double beyond = 0, top = 0;
    for (size_t i = 0; i < want.size(); i++) {
        if (std::isnan(got[i])) return NAN;
        top = std::max(top, (double)std::fabs(want[i]));
        beyond = std::max(beyond, (double)std::fabs((double)got[i] - want[i]) - std::ldexp(std::fabs(want[i]), -8));
    }
    return beyond / top;
}
inline std::vector<float> widened(const std::vector<u16>& values) {
    std::vector<float> wide(values.size());
    for (size_t i = 0; i < values.size(); i++) wide[i] = from_bf16(values[i]);
    return wide;
}
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && !memcmp(a.data(), b.data(), a.size() * sizeof(float));
}

/// A line of the report; counts a failure unless `error` is below `limit` (NaN is not).
inline void expect(const char* name, const char* what, double error, double limit) {
    bool good = error < limit;
    failures += !good, checked++;
    printf("%-48s %-24s %.1e %s\n", name, what, error, good ? "" : "FAILED");
}

/// Takes out one barrier after the other: some order of threads must change the bits.
template <class Run>
void remove_barriers(const char* name, int barriers, Run run, int first = 0) {
    std::vector<float> whole = run(1);
    int noticed = 0;
    for (int b = 0; b < barriers; b++) {
        sim::machine.skipped = first + b;
        bool changed = false;
        for (unsigned seed = 1; seed <= 6 && !changed; seed++) changed = !same_bits(run(seed), whole);
        noticed += changed;
        if (!changed) printf("%-48s nobody misses barrier %d of %d\n", name, b, barriers);
    }
    sim::machine.skipped = -1;
    failures += noticed != barriers, checked++;
    printf("%-48s %d of %d removed barriers noticed\n", name, noticed, barriers);
}

/// A convolution in f64, written as a scatter from the input voxels, unlike every kernel. Sizes and windows are Z, Y, X.
struct Naive {
    int images, inputs, outputs;
    int in[3], out[3], kernel[3], stride[3], padding[3];
    bool spread;  // transposed
    size_t in_voxels() const { return (size_t)images * in[0] * in[1] * in[2]; }
    size_t out_voxels() const { return (size_t)images * out[0] * out[1] * out[2]; }
    int taps() const { return kernel[0] * kernel[1] * kernel[2]; }

    /// f(input voxel, output voxel, tap) for every product.
    template <class F>
    void products(F f) const {
        size_t v = 0;
        for (int n = 0; n < images; n++)
            for (int z = 0; z < in[0]; z++) for (int y = 0; y < in[1]; y++) for (int x = 0; x < in[2]; x++, v++)
                for (int t = 0; t < taps(); t++) {
                    int at[3] = {z, y, x}, tap[3] = {t / kernel[2] / kernel[1], t / kernel[2] % kernel[1], t % kernel[2]}, o[3];
                    bool real = true;
                    for (int d = 0; d < 3; d++) {
                        if (spread) o[d] = at[d] * stride[d] + tap[d] - padding[d];
                        else {
                            int twice = at[d] + padding[d] - tap[d];
                            real &= twice >= 0 && twice % stride[d] == 0;
                            o[d] = twice / stride[d];
                        }
                        real &= o[d] >= 0 && o[d] < out[d];
                    }
                    if (real) f(v, (((size_t)n * out[0] + o[0]) * out[1] + o[1]) * out[2] + o[2], t);
                }
    }
    /// taps x inputs x outputs; x voxels x inputs
    std::vector<double> forward(const std::vector<float>& x, const std::vector<float>& w) const {
        std::vector<double> y(out_voxels() * outputs, 0.0);
        products([&](size_t v, size_t o, int t) {
            for (int i = 0; i < inputs; i++)
                for (int k = 0; k < outputs; k++) y[o * outputs + k] += (double)x[v * inputs + i] * w[((size_t)t * inputs + i) * outputs + k];
        });
        return y;
    }
    std::vector<double> input_gradient(const std::vector<float>& dy, const std::vector<float>& w) const {
        std::vector<double> dx(in_voxels() * inputs, 0.0);
        products([&](size_t v, size_t o, int t) {
            for (int i = 0; i < inputs; i++)
                for (int k = 0; k < outputs; k++) dx[v * inputs + i] += (double)dy[o * outputs + k] * w[((size_t)t * inputs + i) * outputs + k];
        });
        return dx;
    }
    std::vector<double> weight_gradient(const std::vector<float>& x, const std::vector<float>& dy) const {
        std::vector<double> dw((size_t)taps() * inputs * outputs, 0.0);
        products([&](size_t v, size_t o, int t) {
            for (int i = 0; i < inputs; i++)
                for (int k = 0; k < outputs; k++) dw[((size_t)t * inputs + i) * outputs + k] += (double)x[v * inputs + i] * dy[o * outputs + k];
        });
        return dw;
    }
};

/// relu(x scale + shift), rounded as a kernel that reads bf16 does.
inline std::vector<float> activate(const std::vector<float>& x, const float* scale, const float* shift, int channels, bool rounded) {
    std::vector<float> y(x.size());
    for (size_t i = 0; i < x.size(); i++) {
        y[i] = std::max(std::fmaf(x[i], scale[i % channels], shift[i % channels]), 0.f);
        if (rounded) y[i] = from_bf16(to_bf16(y[i]));
    }
    return y;
}

}  // namespace check
