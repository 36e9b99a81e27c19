// Times every kernel but the convolutions on maps of the 3D networks at full size, batch 32, bf16, and runs each twice to see the same bytes.
//   nvcc -std=c++17 -O2 -arch=native operations.cu -o operations && ./operations
// One JSON object a line: {"name", "ms", "bytes", "gb_s", "same"}; "copy" is what the card copies, the bound of all others.
#include <algorithm>
#include <functional>
#include <utility>
#include "../host/network.hpp"

typedef unsigned long long u64;

/// A sum of all words, each mixed with its place: whole numbers, so any order gives the same.
__global__ void digest_words(const u32* words, size_t count, u64* out) {
    u64 sum = 0;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        u64 mixed = (words[i] + 0x9E3779B97F4A7C15ull * (i + 1)) * 0xBF58476D1CE4E5B9ull;
        sum += mixed ^ (mixed >> 31);
    }
    atomicAdd(out, sum);
}
/// Numbers between -1 and 1 that look random.
template <class T>
__global__ void fill(T* to, size_t count, u32 seed, float scale, float offset) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        u32 bits = (u32)(i ^ (i >> 32)) * 2654435761u + seed * 40503u;
        bits ^= bits >> 16, bits *= 0x85ebca6bu, bits ^= bits >> 13, bits *= 0xc2b2ae35u, bits ^= bits >> 16;
        keep(to + i, offset + scale * ((float)(bits >> 8) * (2.f / 16777216.f) - 1.f));
    }
}
template <class T>
static Buffer<T> random_numbers(size_t count, u32 seed, float scale = 1.f, float offset = 0.f) {
    Buffer<T> of(count);
    fill<<<1024, 256>>>(of.data(), count, seed, scale, offset);
    return of;
}

struct Output { void* data; size_t bytes; };

static void measure(const char* name, double bytes, const std::vector<Output>& outputs, const std::function<void()>& run, const std::function<void()>& prepare = [] {}) {
    Buffer<u64> sum(1);
    u64 digests[2];
    for (u64& digest : digests) {
        for (const Output& out : outputs) cudaMemset(out.data, 0xff, out.bytes);
        prepare();
        run();
        sum.zero();
        for (const Output& out : outputs) digest_words<<<1024, 256>>>((const u32*)out.data, out.bytes / 4, sum.data());
        digest = sum.download()[0];
    }
    prepare();
    std::vector<float> took;
    cudaEvent_t begin, end;
    cudaEventCreate(&begin), cudaEventCreate(&end);
    for (int i = 0; i < 9; i++) {
        cudaEventRecord(begin), run(), cudaEventRecord(end);
        runtime::check(cudaEventSynchronize(end), name);
        float ms;
        cudaEventElapsedTime(&ms, begin, end);
        if (i >= 2) took.push_back(ms);
    }
    cudaEventDestroy(begin), cudaEventDestroy(end);
    std::sort(took.begin(), took.end());
    double ms = took[took.size() / 2];
    printf("{\"name\": \"%s\", \"ms\": %.4f, \"bytes\": %.0f, \"gb_s\": %.0f, \"same\": %s}\n", name, ms, bytes, bytes / ms / 1e6, digests[0] == digests[1] ? "true" : "false");
    fflush(stdout);
}
template <class T>
static Output all(const Buffer<T>& of) { return {of.data(), of.size() * sizeof(T) / 4 * 4}; }

constexpr int IMAGES = 32;
using T = u16;
struct Size { int z, y, x; long long voxels() const { return (long long)z * y * x; } };
constexpr Size FULL{64, 160, 96}, HALF{32, 80, 48}, QUARTER{16, 40, 24};

static void normalisation() {
    int channels = 32, width = geometry::width(channels, 2), voxels = (int)(IMAGES * FULL.voxels());
    size_t count = (size_t)voxels * channels;
    double map = 2.0 * count;
    Buffer<T> x = random_numbers<T>(count, 1, 1.f, 0.3f), dy = random_numbers<T>(count, 2), out(count);
    Buffer<float> weight = random_numbers<float>(channels, 3, 0.1f, 1.f), bias = random_numbers<float>(channels, 4), gradients(3 * channels), running(2 * channels), affine(2 * channels), coefficients(3 * channels);
    Buffer<double> moments(2 * channels);
    int stretch = geometry::stretch(voxels, channels, width, geometry::PARTS), parts = geometry::divide_up(voxels, stretch), chunks = geometry::chunks(channels, width);
    int blocks = geometry::blocks(voxels, channels, width), bytes = geometry::sum_bytes(width);
    Buffer<double> partial((size_t)parts * 2 * channels);
    measure("copy, 2 GB", 2 * map, {}, [&] { cudaMemcpyAsync(out.data(), x.data(), count * 2, cudaMemcpyDeviceToDevice); });
    measure("norm_sums, 32 channels full size", map, {all(partial)}, [&] { norm_sums_bf16<<<dim3(parts, chunks, 1), 256, bytes>>>(x.data(), partial.data(), voxels, channels, width, stretch); });
    measure("norm_finish", 16.0 * partial.size() / 2, {all(moments), all(affine)},
            [&] { norm_finish<<<dim3(1, 1, 1), 256, 2048>>>(partial.data(), parts, channels, voxels, weight.data(), bias.data(), running.data(), running.data() + channels, 0, 0, moments.data(), affine.data()); });
    measure("norm_relu", 2 * map, {all(out)}, [&] { norm_relu_bf16<<<dim3(blocks, chunks, 1), 256>>>(x.data(), affine.data(), out.data(), voxels, channels, width); });
    measure("norm_backward_sums", 2 * map, {all(partial)},
            [&] { norm_backward_sums_bf16<<<dim3(parts, chunks, 1), 256, bytes>>>(dy.data(), x.data(), moments.data(), affine.data(), partial.data(), voxels, channels, width, stretch); });
    measure("norm_backward_finish", 16.0 * partial.size() / 2, {all(coefficients), all(gradients)},
            [&] { norm_backward_finish<<<dim3(1, 1, 1), 256, 2048>>>(partial.data(), parts, 2, channels, voxels, moments.data(), weight.data(), 0, gradients.data(), gradients.data() + channels, gradients.data() + 2 * channels, coefficients.data()); });
    measure("norm_propagate", 3 * map, {all(out)},
            [&] { norm_propagate_bf16<<<dim3(blocks, chunks, 1), 256>>>(dy.data(), x.data(), coefficients.data(), affine.data(), out.data(), voxels, channels, width); });
}

static void join_of(const char* name, Size size, Size low, int channels, int references, int activation) {
    size_t count = (size_t)IMAGES * size.voxels() * channels;
    Buffer<T> second = random_numbers<T>(count, 1), bypass = random_numbers<T>((size_t)IMAGES * low.voxels() * channels, 2), out(count), gradient(count), upstream = random_numbers<T>(count, 3);
    Buffer<T> reference = random_numbers<T>((size_t)IMAGES * size.voxels() * std::max(references, 1), 4, 0.5f, 0.5f);
    Buffer<float> affine = random_numbers<float>(2 * channels, 5), factors = random_numbers<float>(3 * channels, 6), label = random_numbers<float>(IMAGES * channels, 7, 0.1f, 0.1f);
    Buffer<double> moments(2 * channels);
    moments.zero();
    Join p{};
    p.second = second.data(), p.bypass = bypass.data(), p.out = out.data(), p.gradient = gradient.data(), p.affine = affine.data(), p.moments = moments.data();
    p.images = IMAGES, p.z = size.z, p.y = size.y, p.x = size.x, p.bypass_z = low.z, p.bypass_y = low.y, p.bypass_x = low.x;
    p.channels = channels, p.width = geometry::width(channels, 2), p.references = references, p.activation = activation;
    p.stretch = geometry::stretch(size.voxels(), channels, p.width, geometry::image_parts(IMAGES)), p.parts = geometry::divide_up(size.voxels(), p.stretch);
    if (references) p.reference = reference.data(), p.factors = factors.data(), p.label = label.data();
    Buffer<double> partial((size_t)IMAGES * p.parts * 5 * channels);
    p.partial = partial.data();
    dim3 grid(IMAGES * p.parts, geometry::chunks(channels, p.width), 1);
    double map = 2.0 * count, of_reference = references ? 2.0 * IMAGES * size.voxels() * references : 0;
    std::string forward = std::string("join, ") + name, backward = std::string("join_backward, ") + name;
    measure(forward.c_str(), 2 * map + 2.0 * bypass.size() + of_reference, {all(out)}, [&] { join_bf16<<<grid, 256>>>(p); });
    if (activation == 2) p.activation = 0;
    measure(backward.c_str(), (p.activation ? 4 : 2) * map + of_reference, {all(partial), all(gradient)}, [&] { join_backward_bf16<<<grid, 256, geometry::sum_bytes(p.width)>>>(p); },
            [&] { cudaMemcpy(gradient.data(), upstream.data(), count * 2, cudaMemcpyDeviceToDevice); });
}

static void resampling() {
    auto of = [&](const char* name, void (*kernel)(Resample), Size from, Size to, int channels) {
        Buffer<T> source = random_numbers<T>((size_t)IMAGES * from.voxels() * channels, 1), out((size_t)IMAGES * to.voxels() * channels);
        int width = geometry::width(channels, 2);
        Resample p{source.data(), out.data(), IMAGES, from.z, from.y, from.x, to.z, to.y, to.x, channels, width, 0};
        dim3 grid(geometry::blocks(IMAGES * to.voxels(), channels, width), geometry::chunks(channels, width), 1);
        measure(name, 2.0 * (source.size() + out.size()), {all(out)}, [&] { kernel<<<grid, 256>>>(p); });
    };
    of("resample_average, 2 channels full to half", resample_average_bf16, FULL, HALF, 2);
    of("resample_average, 32 channels half to quarter", resample_average_bf16, HALF, QUARTER, 32);
    of("resample_spread, 32 channels quarter to half", resample_spread_bf16, QUARTER, HALF, 32);
    of("resample_corners, 2 channels full to half", resample_corners_bf16, FULL, HALF, 2);
    of("resample_corners, 32 channels half to quarter", resample_corners_bf16, HALF, QUARTER, 32);
    of("resample_nearest, 2 channels full to half", resample_nearest_bf16, FULL, HALF, 2);
    int voxels = (int)(IMAGES * FULL.voxels()), stretch = geometry::stretch(voxels, 1, 1, geometry::PARTS), parts = geometry::divide_up(voxels, stretch);
    Buffer<T> x = random_numbers<T>(2 * (size_t)voxels, 1);
    Buffer<double> partial((size_t)parts * 5);
    measure("covariance_sums, 2 channels full size", 4.0 * voxels, {all(partial)}, [&] { covariance_sums_bf16<<<parts, 256, 2048>>>(x.data(), partial.data(), voxels, 2, stretch); });
}

static void batches() {
    int voxels = (int)FULL.voxels(), blocks = geometry::divide_up(voxels, 1024);
    size_t count = (size_t)IMAGES * voxels * 2;
    Buffer<T> out(count);
    Buffer<u16> packed = random_numbers<u16>(count, 1);
    Buffer<float> scale = random_numbers<float>(2, 2);
    measure("batch_unpack_u8, 2 channels", 3.0 * count, {all(out)},
            [&] { batch_unpack_u8_bf16<<<dim3(blocks, IMAGES), 256>>>((const unsigned char*)packed.data(), scale.data(), nullptr, out.data(), voxels, 2, 2); });
    measure("batch_unpack_u16, 2 channels", 4.0 * count, {all(out)}, [&] { batch_unpack_u16_bf16<<<dim3(blocks, IMAGES), 256>>>(packed.data(), scale.data(), nullptr, out.data(), voxels, 2, 2); });
    Buffer<T> x = random_numbers<T>(count, 3), guess = random_numbers<T>(count, 4, 0.5f, 0.5f);
    int length = 2 * voxels, stretch = geometry::stretch(length, 1, 1, geometry::image_parts(IMAGES)), parts = geometry::divide_up(length, stretch);
    Buffer<double> partial((size_t)IMAGES * parts);
    Buffer<float> factors(std::vector<float>{1, 1});
    measure("loss_error, 2 channels", 6.0 * count, {all(out), all(partial)},
            [&] { loss_error_bf16<<<dim3(parts, IMAGES, 1), 256, 2048>>>(guess.data(), x.data(), out.data(), factors.data(), partial.data(), length, stretch); });
    size_t normals = 1 << 26;
    Buffer<float> noise(normals);
    Buffer<u32> key(std::vector<u32>{1, 2});
    Buffer<u64> step(std::vector<u64>{7});
    measure("noise_normals, 64 M", 4.0 * normals, {all(noise)}, [&] { noise_normals<<<2112, 256>>>(noise.data(), key.data(), step.data(), normals); });
    measure("noise_normals, 32 x 512", 4.0 * 16384, {}, [&] { noise_normals<<<32, 256>>>(noise.data(), key.data(), step.data(), 16384); });
}

static void weights() {
    Json config = Json::parse("{\"dims\": 3, \"latent\": 512, \"image_channels\": 2, \"reference_channels\": 0, \"classes\": 0, \"channels\": [32, 64, 128, 256, 512], \"size\": [64, 160, 96]}");
    Architecture architecture(config);
    Layout layout(architecture);
    std::vector<LayerSizes> sizes;
    std::vector<Turned> turned;
    double count = 0, of_turned = 0;
    for (const Layer& layer : layout.layers) {
        int taps = layer.kernel[0] * layer.kernel[1] * layer.kernel[2];
        sizes.push_back({layer.weight, layer.u, taps, layer.inputs, layer.outputs, layer.spread});
        count += (double)taps * layer.inputs * layer.outputs;
        if (taps == 27) turned.push_back({layer.weight, layer.weight, taps, layer.inputs, layer.outputs, 1, 0}), of_turned += (double)taps * layer.inputs * layer.outputs;
    }
    SpectralTables tables = spectral_tables(sizes);
    Buffer<SpectralLayer> layers(tables.layers);
    Buffer<SpectralTask> v(tables.v), u(tables.u), dot(tables.dot);
    Buffer<float> w = random_numbers<float>(layout.trained, 1, 0.02f), g = random_numbers<float>(layout.trained, 2), first = random_numbers<float>(layout.trained, 3), second = random_numbers<float>(layout.trained, 4, 0.4f, 0.5f);
    Buffer<float> statistics = random_numbers<float>(layout.statistics, 5), vectors(tables.vectors), sigma(tables.layers.size()), inverse(tables.layers.size());
    Buffer<double> scratch(tables.parts);
    scratch.zero();
    Spectral p{layers.data(), v.data(), w.data(), g.data(), statistics.data(), vectors.data(), scratch.data(), sigma.data(), inverse.data(), layout.trained, layout.statistics, tables.vectors, tables.parts, (int)tables.layers.size(), 0};
    auto with = [&](const Buffer<SpectralTask>& tasks) { Spectral of = p; of.tasks = tasks.data(); return of; };
    measure("spectral_v, all layers of 3D MR", 4 * count, {all(vectors)}, [&] { spectral_v<<<dim3(tables.v.size(), 1, 1), 256, 2048>>>(with(v)); });
    measure("spectral_u", 4 * count, {all(scratch)}, [&] { spectral_u<<<dim3(tables.u.size(), 1, 1), 256, 2048>>>(with(u)); },
            [&] { spectral_v<<<dim3(tables.v.size(), 1, 1), 256, 2048>>>(with(v)); });
    measure("spectral, v and u and finish", 8 * count, {all(vectors), all(sigma)}, [&] {
        spectral_v<<<dim3(tables.v.size(), 1, 1), 256, 2048>>>(with(v));
        spectral_u<<<dim3(tables.u.size(), 1, 1), 256, 2048>>>(with(u));
        spectral_finish<<<dim3(tables.layers.size(), 1, 1), 256, 2048>>>(p);
    });
    measure("spectral_dot", 8 * count, {all(scratch)}, [&] { spectral_dot<<<dim3(tables.dot.size(), 1, 1), 256, 2048>>>(with(dot)); });
    Buffer<float> fresh = random_numbers<float>(layout.trained, 2);
    measure("spectral_gradient", 8 * count, {all(g)}, [&] { spectral_gradient<<<dim3(tables.dot.size(), 1, 1), 256, 2048>>>(with(dot)); },
            [&] { cudaMemcpy(g.data(), fresh.data(), layout.trained * 4, cudaMemcpyDeviceToDevice); });
    cudaMemcpy(g.data(), fresh.data(), layout.trained * 4, cudaMemcpyDeviceToDevice);
    Buffer<u16> copy(layout.trained);
    Buffer<u64> step(1);
    step.zero();
    Buffer<double> settings(std::vector<double>{2e-4, 0.9, 0.999, 1e-8});
    Buffer<float> prepared(7), start = random_numbers<float>(layout.trained, 1, 0.02f);
    adam_prepare<<<1, 32>>>(step.data(), settings.data(), prepared.data(), 1);
    measure("adam, all numbers of 3D MR, with a bf16 copy", 30.0 * layout.trained, {all(copy)},
            [&] { adam<<<dim3(2112, 1, 1), 256>>>(w.data(), g.data(), first.data(), second.data(), copy.data(), prepared.data(), layout.trained, layout.trained); },
            [&] {
                cudaMemcpy(w.data(), start.data(), layout.trained * 4, cudaMemcpyDeviceToDevice);
                fill<<<1024, 256>>>(first.data(), (size_t)layout.trained, 3u, 1.f, 0.f), fill<<<1024, 256>>>(second.data(), (size_t)layout.trained, 4u, 0.4f, 0.5f);
            });
    int tiles = turned_tiles(turned);
    Buffer<Turned> table(turned);
    measure("weights_turned, 3x3x3 layers, bf16", 6 * of_turned, {all(copy)}, [&] { weights_turned_bf16<<<dim3(tiles, 1, 1), 256, 4352>>>(w.data(), copy.data(), table.data(), (int)turned.size(), 0, 0); });

    int k = 15360, n = 512, m = IMAGES, splits = 15;
    Buffer<float> x = random_numbers<float>((size_t)m * k, 6), partial((size_t)splits * m * n), y(m * n);
    Product product{x.data(), w.data(), partial.data(), 0, 0, m, n, k, 1024, splits, k, 1, n, 1};
    measure("linear, a head, forward, f32", 4.0 * ((double)k * n + (double)m * k + m * n), {all(y)}, [&] {
        linear_product_f32_f32<<<dim3(8, splits, 1), 256, 6272>>>(product);
        linear_finish_f32<<<64, 256>>>(partial.data(), splits, m, n, nullptr, 0, nullptr, 0, y.data(), 0, 0);
    });
    Buffer<float> dy = random_numbers<float>(m * n, 7), dw((size_t)k * n), of_product((size_t)k * n);
    Product gradient{x.data(), dy.data(), of_product.data(), 0, 0, k, n, m, 1024, 1, 1, k, n, 1};
    measure("linear, a head, weight gradient, f32", 4.0 * ((double)k * n + (double)m * k + m * n), {all(dw)}, [&] {
        linear_product_f32_f32<<<dim3(8, k / 32, 1), 256, 6272>>>(gradient);
        linear_finish_f32<<<geometry::divide_up((long long)k * n, 256), 256>>>(of_product.data(), 1, k, n, nullptr, 0, nullptr, 0, dw.data(), 0, 0);
    });
}

int main() {
    normalisation();
    join_of("32 channels half size, up", HALF, QUARTER, 32, 0, 1);
    join_of("32 channels half size, down, with conditions", HALF, HALF, 32, 2, 1);
    join_of("2 channels full size, softplus", FULL, HALF, 2, 0, 2);
    join_of("1 channel full size, softplus, with conditions", FULL, HALF, 1, 2, 2);
    resampling();
    batches();
    weights();
    return 0;
}
