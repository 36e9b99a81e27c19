// Where the numbers of a network lie: as in src/model/layout.rs, every tensor beginning at a multiple of four numbers.
#pragma once
#include <array>
#include "safetensors.hpp"

struct Layer {
    long long weight, bias, u;
    int inputs, outputs, kernel[3], stride[3], padding[3];
    bool spread;
    int number;
};
struct Norm { long long weight, bias, mean, variance; };
struct Conditioned { Layer conv; Norm norm; };
struct Block {
    bool up, last;
    int level, inputs, outputs;
    std::array<int, 3> input, output;
    Layer bypass, conv1, conv2;
    Norm bn1, bn2;
    std::vector<Conditioned> conditions;
};

struct Slot {
    std::string name;
    std::vector<int> shape;
    bool trained;
    long long at, length;
    std::array<int, 3> axes, order;
};

struct Architecture {
    int dimensions, latent, image_channels, reference_channels, classes;
    std::array<int, 3> size;
    std::vector<int> channels;

    /// From the numbers that a fixture's `config` holds.
    explicit Architecture(const Json& config)
        : dimensions(config.whole("dims")), latent(config.whole("latent")), image_channels(config.whole("image_channels")),
          reference_channels(config.whole("reference_channels")), classes(config.whole("classes")), channels(config.wholes("channels")) {
        std::vector<int> given = config.wholes("size");
        size = {given.size() == 3 ? given[0] : 1, given[given.size() - 2], given[given.size() - 1]};
    }
    std::array<int, 3> size_at(int level) const { return {dimensions == 3 ? size[0] >> level : 1, size[1] >> level, size[2] >> level}; }
    int levels() const { return (int)channels.size(); }
    int positions() const {
        std::array<int, 3> grid = size_at(levels());
        return grid[0] * grid[1] * grid[2];
    }
};

class Layout {
  public:
    std::vector<Slot> slots;
    std::vector<Layer> layers;
    std::vector<Block> encoder, decoder;
    Layer mu, logvar, fc;
    Norm bn;
    long long trained = 0, statistics = 0;

    explicit Layout(const Architecture& architecture) : architecture_(architecture) {
        int levels = architecture.levels(), before = architecture.image_channels, flat = architecture.channels.back() * architecture.positions();
        auto channels_at = [&](int level) { return level ? architecture.channels[level - 1] : architecture.image_channels; };
        for (int level = 0; level < levels; level++) {
            encoder.push_back(block("enc.path." + std::to_string(level), level, level + 1, before, architecture.channels[level]));
            before = architecture.channels[level];
        }
        mu = linear("enc.mu", flat, architecture.latent);
        logvar = linear("enc.logvar", flat, architecture.latent);
        fc = linear("dec.fc", architecture.latent, flat);
        bn = norm("dec.bn", architecture.channels.back());
        for (int step = 0; step < levels; step++) {
            int level = levels - step;
            decoder.push_back(block("dec.path." + std::to_string(step), level, level - 1, channels_at(level), channels_at(level - 1)));
        }
    }

    /// The flat numbers of the tensors `prefix/NAME`.
    void import(const Fixture& fixture, const std::string& prefix, std::vector<float>& values, std::vector<float>* of_statistics) const {
        values.assign(trained, 0.f);
        if (of_statistics) of_statistics->assign(statistics, 0.f);
        for (const Slot& slot : slots) {
            if (!slot.trained && !of_statistics) continue;
            const std::vector<float>& from = fixture.tensors.at(prefix + "/" + slot.name);
            if ((long long)from.size() != slot.length) fprintf(stderr, "%s has another size\n", slot.name.c_str()), exit(2);
            std::vector<float>& to = slot.trained ? values : *of_statistics;
            permuted(slot, [&](long long theirs, long long ours) { to[slot.at + ours] = from[theirs]; });
        }
    }

  private:
    template <class F>
    static void permuted(const Slot& slot, F visit) {
        const std::array<int, 3>&axes = slot.axes, &order = slot.order;
        long long pitch[3] = {(long long)axes[1] * axes[2], axes[2], 1}, ours = 0;
        for (int a = 0; a < axes[order[0]]; a++)
            for (int b = 0; b < axes[order[1]]; b++)
                for (int c = 0; c < axes[order[2]]; c++) visit(a * pitch[order[0]] + b * pitch[order[1]] + c * pitch[order[2]], ours++);
    }
    long long slot(const std::string& name, std::vector<int> shape, bool of_trained, std::array<int, 3> axes, std::array<int, 3> order) {
        long long length = 1, &end = of_trained ? trained : statistics, at = end;
        for (int side : shape) length *= side;
        end += (length + 3) / 4 * 4;
        slots.push_back({name, shape, of_trained, at, length, axes, order});
        return at;
    }
    Layer layer(const std::string& name, std::vector<int> shape, int inputs, int outputs, int kernel, int stride, int padding, bool spread,
                std::array<int, 3> axes, std::array<int, 3> order) {
        Layer of{};
        bool start = name == "dec.fc";
        std::array<int, 3> vector = start ? std::array<int, 3>{axes[0], axes[1], 1} : std::array<int, 3>{outputs, 1, 1};
        std::array<int, 3> turned = start ? std::array<int, 3>{2, 1, 0} : std::array<int, 3>{0, 1, 2};
        of.weight = slot(name + ".weight", shape, true, axes, order);
        of.bias = slot(name + ".bias", {outputs}, true, vector, turned);
        of.u = slot(name + ".u", {shape[0]}, false, start ? vector : std::array<int, 3>{shape[0], 1, 1}, turned);
        of.inputs = inputs, of.outputs = outputs, of.spread = spread, of.number = (int)layers.size();
        for (int axis = 0; axis < 3; axis++) {
            bool here = axis || architecture_.dimensions == 3;
            of.kernel[axis] = here ? kernel : 1, of.stride[axis] = here ? stride : 1, of.padding[axis] = here ? padding : 0;
        }
        layers.push_back(of);
        return of;
    }
    Layer convolution(const std::string& name, int inputs, int outputs, int kernel, int stride, int padding, bool spread) {
        std::vector<int> shape = {spread ? inputs : outputs, spread ? outputs : inputs};
        int taps = 1;
        for (int axis = 0; axis < architecture_.dimensions; axis++) shape.push_back(kernel), taps *= kernel;
        std::array<int, 3> order = spread ? std::array<int, 3>{2, 0, 1} : std::array<int, 3>{2, 1, 0};
        return layer(name, shape, inputs, outputs, kernel, stride, padding, spread, {shape[0], shape[1], taps}, order);
    }
    Layer linear(const std::string& name, int inputs, int outputs) {
        int positions = architecture_.positions();
        bool start = name == "dec.fc";
        std::array<int, 3> axes = start ? std::array<int, 3>{outputs / positions, positions, inputs} : std::array<int, 3>{outputs, inputs / positions, positions};
        return layer(name, {outputs, inputs}, inputs, outputs, 1, 1, 0, false, axes, {2, 1, 0});
    }
    Norm norm(const std::string& name, int channels) {
        auto part = [&](const char* what, bool of_trained) { return slot(name + what, {channels}, of_trained, {channels, 1, 1}, {0, 1, 2}); };
        long long weight = part(".weight", true), bias = part(".bias", true), mean = part(".running_mean", false);
        return {weight, bias, mean, part(".running_var", false)};
    }
    Block block(const std::string& name, int from, int to, int inputs, int outputs) {
        Block of{};
        of.up = to < from, of.last = of.up && to == 0, of.level = to, of.inputs = inputs, of.outputs = outputs;
        of.input = architecture_.size_at(from), of.output = architecture_.size_at(to);
        of.bypass = convolution(name + ".bypass", inputs, outputs, 1, 1, 0, false);
        of.conv1 = convolution(name + ".conv1", inputs, inputs, 4, 2, 1, of.up);
        of.bn1 = norm(name + ".bn1", inputs);
        of.conv2 = convolution(name + ".conv2", inputs, outputs, 3, 1, 1, false);
        of.bn2 = norm(name + ".bn2", outputs);
        if (architecture_.classes)
            for (int index = 0; index < 2; index++) {
                std::string part = name + ".cond." + std::to_string(index);
                Layer conv = convolution(part + ".conv", index ? architecture_.classes : architecture_.reference_channels, outputs, 1, 1, 0, false);
                of.conditions.push_back({conv, norm(part + ".bn", outputs)});
            }
        return of;
    }
    Architecture architecture_;
};
