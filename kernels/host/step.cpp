// Runs training steps of small networks, composed of the kernels, against what PyTorch computed with them: outputs, losses, every
// gradient, and weights and statistics after three steps of Adam.
//   step FIXTURE... [--models M] [--bf16] [--seed S]
// With a host compiler the kernels run on the CPU, threads in an order drawn from the seed; nvcc makes the same program for a GPU:
//   c++ -std=c++17 -O2 -ffp-contract=off step.cpp -o step          nvcc -std=c++17 -O2 -arch=native -x cu step.cpp -o step
// The last number of a line is a digest of the weights: equal for equal bytes.
#include <algorithm>
#include <cmath>
#include "network.hpp"

static int failures = 0;

static float largest(const float* values, size_t count) {
    float most = 0;
    for (size_t i = 0; i < count; i++) most = std::max(most, std::fabs(values[i]));
    return most;
}

/// The largest difference in parts of the largest value, beyond `absolute`; no number is infinitely far.
static double distance(const float* got, const float* wanted, size_t count, double absolute) {
    double scale = largest(wanted, count), most = 0;
    for (size_t i = 0; i < count; i++) {
        double off = std::fabs((double)got[i] - wanted[i]) - absolute;
        if (!(off <= 1e300)) return INFINITY;
        if (off > 0) most = std::max(most, scale > 0 ? off / scale : INFINITY);
    }
    return most;
}

struct Worst {
    double share = 0, error = 0;
    std::string where;
    void add(const std::string& name, double found, double limit) {
        if (found / limit >= share) share = found / limit, error = found, where = name;
    }
};

static bool ends(const std::string& name, const char* with) {
    size_t length = strlen(with);
    return name.size() >= length && name.compare(name.size() - length, length, with) == 0;
}
static bool holds(const std::string& name, const char* what) { return name.find(what) != std::string::npos; }
/// A bias before a batch normalisation: no effect in training, its gradient is zero.
static bool without_effect(const std::string& name) {
    return ends(name, ".bias") && (holds(name, ".conv1.") || holds(name, ".conv2.") || holds(name, ".conv."));
}

static void report(const char* what, const Worst& worst) {
    bool good = worst.share <= 1;
    failures += !good;
    printf("  %-10s %8.1e  %3.0f %% of what is allowed, %s%s\n", what, worst.error, 100 * worst.share, worst.where.c_str(), good ? "" : "  FAILED");
}

static unsigned long long digest(const std::vector<float>& values) {
    unsigned long long hash = 1469598103934665603ull;
    for (float value : values) {
        u32 bits;
        memcpy(&bits, &value, 4);
        hash = (hash ^ bits) * 1099511628211ull;
    }
    return hash;
}

template <class T>
static void run(const char* path, int models) {
    // In bf16: outputs and losses to a few roundings, and the gradient as a whole. A batch normalisation over few values and a ReLU near
    // zero make single gradients of such small networks noise, and Adam makes whole steps of it.
    constexpr bool rounded = sizeof(T) == 2;
    // The narrow networks (4 channels, 24 values a normalisation at the bottom) enlarge every rounding; wide ones hold to 3 %.
    constexpr double loosened = rounded ? 500 : 1;
    Fixture fixture(path);
    Architecture architecture(fixture.config);
    Layout layout(architecture);
    auto tensor = [&](const char* name) -> const std::vector<float>& { return fixture.tensors.at(name); };
    std::vector<float> before, statistics, wanted_after, wanted_statistics, wanted_gradients;
    layout.import(fixture, "before", before, &statistics);
    layout.import(fixture, "after", wanted_after, &wanted_statistics);
    layout.import(fixture, "grad", wanted_gradients, nullptr);
    int images = fixture.shapes.at("x")[0], steps = (int)tensor("train/loss").size() / 3;
    size_t vectors = (size_t)images * architecture.latent;
    Network<T> network(architecture, models, images, before, statistics);
    auto all_models = [&](std::vector<double> one) {
        std::vector<double> all;
        for (int model = 0; model < models; model++) all.insert(all.end(), one.begin(), one.end());
        return all;
    };
    const Json& config = fixture.config;
    double rate = config.object.at("learning_rate").number;
    network.settings = Buffer<double>(all_models({rate, config.object.at("adam_betas").list[0].number, config.object.at("adam_betas").list[1].number, config.object.at("adam_eps").number}));
    const Json& beta = config.object.at("beta");
    std::vector<float> factors;
    for (int model = 0; model < models; model++) {
        factors.push_back(beta.kind == Json::NUMBER ? (float)(2 * (1 - beta.number)) : 1.f);
        factors.push_back(beta.kind == Json::NUMBER ? (float)(2 * beta.number) : 1.f);
    }
    network.factors = Buffer<float>(factors);
    if (architecture.classes) {
        std::vector<int> labels;
        for (float label : tensor("label")) labels.push_back((int)label);
        network.condition(tensor("ref"), labels);
    }
    Maps<T> x = network.upload(tensor("x"), architecture.image_channels);
    auto repeated = [&](const float* from) {
        std::vector<float> all;
        for (int model = 0; model < models; model++) all.insert(all.end(), from, from + vectors);
        return all;
    };
    auto compare = [&](Worst& worst, const std::vector<float>& got, const char* name, double limit) {
        const std::vector<float>& wanted = tensor(name);
        for (int model = 0; model < models; model++) worst.add(name, distance(got.data() + model * wanted.size(), wanted.data(), wanted.size(), 1e-7), limit);
    };

    printf("%s, %d model%s, %s\n", path, models, models > 1 ? "s" : "", sizeof(T) == 4 ? "f32" : "bf16");
    Worst evaluation, outputs, losses, gradients, after;
    network.training = false;
    network.normalise_weights();
    network.encode(x);
    compare(evaluation, network.mu.download(), "eval/mu", 1e-4 * loosened);
    compare(evaluation, network.logvar.download(), "eval/logvar", 1e-4 * loosened);
    {
        std::vector<T> z(models * vectors);
        std::vector<float> mu = network.mu.download();
        for (size_t i = 0; i < z.size(); i++) {
            if constexpr (sizeof(T) == 4) z[i] = mu[i];
            else {
                u32 bits;
                memcpy(&bits, &mu[i], 4);
                z[i] = (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
            }
        }
        compare(evaluation, network.download(network.decode(Buffer<T>(z))), "eval/x_hat_of_mu", 1e-4 * loosened);
    }
    report("evaluation", evaluation);

    for (int step = 0; step < steps; step++) {
        Buffer<float> noise(repeated(tensor("train/eps").data() + step * vectors));
        const Maps<T>& out = network.step(x, noise);
        std::vector<double> got = network.losses.download();
        const float* wanted = tensor("train/loss").data() + 3 * step;
        for (int model = 0; model < models; model++)
            for (int which = 0; which < 3; which++) {
                // Adam's steps along gradients that are nearly zero are rounding noise, which a small part of the loss feels first.
                double scale = step ? std::max(std::fabs(wanted[which]), 0.01f * std::fabs(tensor("train/loss")[3 * step])) : std::fabs(wanted[which]);
                double off = std::fabs(got[(step * models + model) * 3 + which] - wanted[which]) / scale;
                losses.add("loss " + std::to_string(step), off <= 1e300 ? off : INFINITY, 1e-4 * loosened);
            }
        if (step == 0) {
            compare(outputs, network.mu.download(), "train/mu", 1e-4 * loosened);
            compare(outputs, network.logvar.download(), "train/logvar", 1e-4 * loosened);
            compare(outputs, network.download(out), "train/x_hat", 1e-4 * loosened);
            report("outputs", outputs);
            std::vector<float> all = network.gradients.download();
            auto most = [&](const std::string& name) {
                for (const Slot& slot : layout.slots)
                    if (slot.name == name) return (double)largest(&wanted_gradients[slot.at], slot.length);
                return 0.0;
            };
            for (int model = 0; model < models; model++)
                for (const Slot& slot : layout.slots) {
                    if (!slot.trained) continue;
                    std::string name = slot.name, of = name.substr(0, name.rfind('.'));
                    double sibling = most(of + (ends(name, ".bias") ? ".weight" : ".bias"));
                    // What should vanish, or nearly does, keeps the rounding of the large terms that it is the sum of.
                    double absolute = without_effect(name) ? 1e-3 + 1e-5 * sibling : holds(name, "bn") ? 1e-6 + 1e-5 * sibling : 1e-6;
                    double limit = holds(name, ".cond.1.") ? 3e-3 : 1e-3;
                    if (!rounded) gradients.add(name, distance(&all[model * layout.trained + slot.at], &wanted_gradients[slot.at], slot.length, absolute), limit);
                }
            for (int model = 0; rounded && model < models; model++) {
                double off = 0, whole = 0;
                for (long long i = 0; i < layout.trained; i++) {
                    double wanted = wanted_gradients[i], difference = all[model * layout.trained + i] - wanted;
                    off += difference * difference, whole += wanted * wanted;
                }
                gradients.add("the whole, root of squares", std::sqrt(off / whole), architecture.channels[0] < 16 ? 0.3 : 0.03);
            }
            report("gradients", gradients);
        }
        network.update();
    }
    report("losses", losses);
    for (unsigned long long flag : network.flag.download())
        if (flag) printf("  flag of a loss that is not finite: %llu  FAILED\n", flag), failures++;

    // Adam turns the rounding noise of a zero gradient into steps of the learning rate, and running means follow the biases; where
    // a gradient is nearly zero, a part of a step.
    std::vector<float> values = network.values.download(), of_statistics = network.statistics.download();
    double walk = steps * rate;
    for (int model = 0; model < models; model++)
        for (const Slot& slot : layout.slots) {
            const std::string& name = slot.name;
            double drift = without_effect(name) ? 1.01 * walk : ends(name, "running_mean") || ends(name, ".u") ? 0.3 * walk : ends(name, "running_var") ? 0 : 0.02 * walk;
            const float* got = slot.trained ? &values[model * layout.trained + slot.at] : &of_statistics[model * layout.statistics + slot.at];
            const float* wanted = slot.trained ? &wanted_after[slot.at] : &wanted_statistics[slot.at];
            std::vector<float> mine(got, got + slot.length), theirs(wanted, wanted + slot.length);
            if (slot.trained) {
                double most = largest(&wanted_gradients[slot.at], slot.length);
                for (long long i = 0; i < slot.length; i++)
                    if (std::fabs(wanted_gradients[slot.at + i]) < 1e-3 * most && std::fabs(mine[i] - theirs[i]) <= 1.01 * walk) mine[i] = theirs[i] = 0;
            }
            after.add(name, distance(mine.data(), theirs.data(), slot.length, drift + 1e-7), 1e-4);
        }
    if (!rounded) report("after", after);
    std::vector<float> alone(values.begin(), values.begin() + layout.trained);
    for (int model = 1; model < models; model++)
        if (!std::equal(alone.begin(), alone.end(), values.begin() + model * layout.trained)) printf("  model %d differs from model 0  FAILED\n", model), failures++;
    printf("  digest %016llx\n", digest(alone));
}

int main(int count, char** arguments) {
    int models = 1;
    bool bf16 = false;
    std::vector<const char*> paths;
    for (int i = 1; i < count; i++) {
        if (!strcmp(arguments[i], "--models") && i + 1 < count) models = atoi(arguments[++i]);
        else if (!strcmp(arguments[i], "--seed") && i + 1 < count) runtime::seed = (unsigned)atoi(arguments[++i]);
        else if (!strcmp(arguments[i], "--bf16")) bf16 = true;
        else paths.push_back(arguments[i]);
    }
    if (paths.empty()) return fprintf(stderr, "usage: step FIXTURE... [--models M] [--bf16] [--seed S]\n"), 2;
    for (const char* path : paths) {
        if (bf16) run<u16>(path, models);
        else run<float>(path, models);
    }
    if (failures) printf("%d FAILED\n", failures);
    return failures ? 1 : 0;
}
