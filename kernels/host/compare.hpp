// What the checks of the kernels share: random numbers, f64 results to compare with, other orders of threads, missing barriers.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include "../maps.cuh"
#include "geometry.hpp"
#include "runtime.hpp"

namespace compare {

inline std::mt19937 source(1);
inline int failures = 0, compared = 0;
inline bool mutating = false;

inline double uniform(double from, double to) { return std::uniform_real_distribution<double>(from, to)(source); }

/// Numbers as a map keeps them.
template <class T>
std::vector<T> numbers(size_t count, double from = -1, double to = 1) {
    std::vector<T> of(count);
    for (T& value : of) keep(&value, (float)uniform(from, to));
    return of;
}
template <class T>
std::vector<double> wide(const std::vector<T>& of) {
    std::vector<double> out;
    for (const T& value : of) {
        if constexpr (sizeof(T) == 8) out.push_back(value);
        else out.push_back(kept(&value));
    }
    return out;
}
template <class T>
std::vector<T> poisoned(size_t count) {
    std::vector<T> of(count);
    memset((void*)of.data(), 0xff, count * sizeof(T));
    return of;
}

inline std::vector<double> together(std::vector<std::vector<double>> parts) {
    std::vector<double> all;
    for (const std::vector<double>& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
}

inline void judge(const std::string& name, const char* what, double error, double limit) {
    bool good = error <= limit;
    compared++, failures += !good;
    if (!good) printf("%s: %s %.2e, allowed %.1e  FAILED\n", name.c_str(), what, error, limit);
}

/// The largest difference in parts of the largest value wanted, or of `scale` where the value should vanish.
inline double relative(const std::vector<double>& got, const std::vector<double>& wanted, double scale = 1e-30) {
    double error = 0;
    if (got.size() != wanted.size()) return INFINITY;
    for (size_t i = 0; i < wanted.size(); i++) {
        if (!(std::fabs(got[i] - wanted[i]) <= 1e300)) return INFINITY;
        error = std::max(error, std::fabs(got[i] - wanted[i])), scale = std::max(scale, std::fabs(wanted[i]));
    }
    return error / scale;
}

/// Runs a kernel in several orders: its results must be those of f64 loops, each in its own scale, and every order must give the same
/// bits. Or, when barriers are taken out: each one that is taken out must show in one of six orders.
inline void kernel(const std::string& name, const std::function<std::vector<std::vector<double>>()>& run, const std::vector<std::vector<double>>& wanted, double limit, double scale = 1e-30) {
    auto in_order = [&](unsigned seed) {
        runtime::seed = seed;
        return run();
    };
    std::vector<std::vector<double>> first = in_order(1);
    auto same = [&](const std::vector<std::vector<double>>& other) {
        std::vector<double> a = together(first), b = together(other);
        return a.size() == b.size() && !memcmp(a.data(), b.data(), a.size() * sizeof(double));
    };
    if (mutating) {
        int barriers = 0;
        for (const sim::Fiber& fiber : sim::machine.fibers) barriers = std::max(barriers, fiber.barriers);
        for (int barrier = 0; barrier < barriers; barrier++) {
            sim::machine.skipped = barrier;
            bool noticed = false;
            for (unsigned seed = 1; seed <= 6 && !noticed; seed++) noticed = !same(in_order(seed));
            compared++, failures += !noticed;
            if (!noticed) printf("%s: nobody misses barrier %d of %d  FAILED\n", name.c_str(), barrier, barriers);
        }
        sim::machine.skipped = -1;
        return;
    }
    for (size_t which = 0; which < wanted.size(); which++) judge(name + " [" + std::to_string(which) + "]", "error", relative(first[which], wanted[which], scale), limit);
    for (unsigned seed = 2; seed <= 3; seed++) judge(name, "other bits in another order", same(in_order(seed)) ? 0 : 1, 0.5);
}

inline int finish(const char* program) {
    printf("%s: %d comparisons, %d FAILED\n", program, compared, failures);
    return failures || !compared ? 1 : 0;
}

}  // namespace compare
