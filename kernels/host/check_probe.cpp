// probe.cu: the instruction as the shim understands it.
#include "check.hpp"
#include "../probe.cu"

using namespace check;

static void check_probe(const char* name, void (*kernel)(const u16*, const u16*, float*), int columns) {
    std::vector<u16> x = random_bf16(64 * 16, 1), w = random_bf16(16 * columns, 1);
    std::vector<float> y(64 * columns, NAN);
    sim::launch({1, 1, 1}, {128, 1, 1}, 2048, 1, [&] { kernel(x.data(), w.data(), y.data()); });
    std::vector<double> want(y.size(), 0.0);
    for (int i = 0; i < 64; i++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < columns; n++) want[i * columns + n] += (double)from_bf16(x[i * 16 + k]) * from_bf16(w[k * columns + n]);
    expect(name, "product", relative(y, want), 1e-6);
}

int main() {
    check_probe("probe_64", probe_64, 64);
    check_probe("probe_32", probe_32, 32);
    return verdict();
}
