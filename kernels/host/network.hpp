// One training step of a network, composed of the kernels: the order of src/model/pass.rs. The same source runs on a GPU and, through the
// shim, on a CPU. Convolutions are the plain ones; the normalisation and ReLU before the second one happens while it reads.
#pragma once
#include "../adam.cu"
#include "../batch.cu"
#include "../conv_plain.cu"
#include "../join.cu"
#include "../linear.cu"
#include "../loss.cu"
#include "../noise.cu"
#include "../norm.cu"
#include "../resample.cu"
#include "../spectral.cu"
#include "layout.hpp"
#include "runtime.hpp"
#include "tables.hpp"

using runtime::Buffer;

/// The kernel for maps in f32 or bf16.
#define LAUNCH_MAPS(kernel, ...)                                        \
    do {                                                                \
        if constexpr (sizeof(T) == 4) LAUNCH(kernel##_f32, __VA_ARGS__); \
        else LAUNCH(kernel##_bf16, __VA_ARGS__);                        \
    } while (0)

/// Maps: models x images x size x channels.
template <class T>
struct Maps {
    int images = 0, channels = 0;
    std::array<int, 3> size{};
    Buffer<T> data;
    int voxels() const { return size[0] * size[1] * size[2]; }
    int all() const { return images * voxels(); }
    int width() const { return geometry::width(channels, sizeof(T)); }
    int chunks() const { return geometry::chunks(channels, width()); }
    int blocks() const { return geometry::blocks(all(), channels, width()); }
};

/// Moments and affine of a normalisation.
struct Normed {
    Buffer<double> moments;
    Buffer<float> affine;
};
struct ConditionTape {
    Buffer<double> moments;
    Buffer<float> out;
};
template <class T>
struct Tape {
    Maps<T> first, second, out;
    Normed norms[2];
    std::vector<ConditionTape> conditions;
};
template <class T>
struct Level {
    Maps<T> maps;
    Buffer<double> mean, covariance;
};

template <class T>
class Network {
  public:
    const Architecture architecture;
    const Layout layout;
    const int models, images;
    Buffer<float> values, gradients, first, second, statistics, prepared;
    Buffer<u16> copy;
    Buffer<unsigned long long> steps, flag;
    Buffer<double> settings, losses;
    Buffer<float> factors, mu, logvar;

    Network(const Architecture& of, int models, int images, const std::vector<float>& values_of_one, const std::vector<float>& statistics_of_one)
        : architecture(of), layout(of), models(models), images(images) {
        auto repeated = [&](const std::vector<float>& one) {
            std::vector<float> all;
            for (int model = 0; model < models; model++) all.insert(all.end(), one.begin(), one.end());
            return all;
        };
        size_t count = models * layout.trained, vectors = (size_t)models * images * of.latent;
        values = Buffer<float>(repeated(values_of_one)), statistics = Buffer<float>(repeated(statistics_of_one));
        gradients = Buffer<float>(count), first = Buffer<float>(count), second = Buffer<float>(count), copy = Buffer<u16>(count);
        gradients.zero(), first.zero(), second.zero();
        steps = Buffer<unsigned long long>(1), flag = Buffer<unsigned long long>(models);
        steps.zero(), flag.zero();
        losses = Buffer<double>(SLOTS * models * 3), prepared = Buffer<float>(7 * models);
        mu = Buffer<float>(vectors), logvar = Buffer<float>(vectors), dmu_ = Buffer<float>(vectors), dlogvar_ = Buffer<float>(vectors);
        dz_ = Buffer<float>(vectors), kl_ = Buffer<double>(models * images);
        std::vector<LayerSizes> sizes;
        for (const Layer& layer : layout.layers) {
            int taps = layer.kernel[0] * layer.kernel[1] * layer.kernel[2];
            sizes.push_back({layer.weight, layer.u, taps, layer.inputs, layer.outputs, layer.spread});
        }
        tables_ = spectral_tables(sizes);
        layers_ = Buffer<SpectralLayer>(tables_.layers);
        v_tasks_ = Buffer<SpectralTask>(tables_.v), u_tasks_ = Buffer<SpectralTask>(tables_.u), dot_tasks_ = Buffer<SpectralTask>(tables_.dot);
        vectors_ = Buffer<float>(models * tables_.vectors), parts_ = Buffer<double>(models * tables_.parts);
        sigma_ = Buffer<float>(models * layout.layers.size()), inverse_ = Buffer<float>(models * layout.layers.size());
        LAUNCH(weights_rounded, geometry::divide_up(count, 4096), 1, 1, 256, 0, values.data(), copy.data(), (long long)count);
    }

    /// The reference images (images x channels x voxels) and labels of the batch, the same for every model.
    void condition(const std::vector<float>& reference, const std::vector<int>& labels) {
        Maps<T> whole = upload(reference, architecture.reference_channels);
        std::vector<int> all;
        for (int model = 0; model < models; model++) all.insert(all.end(), labels.begin(), labels.end());
        labels_ = Buffer<int>(all);
        levels_.clear();
        for (int level = 0; level <= architecture.levels(); level++) {
            Level<T> of;
            of.maps = maps(architecture.size_at(level), architecture.reference_channels);
            LAUNCH_MAPS(resample_nearest, of.maps.blocks(), of.maps.chunks(), models, 256, 0, resampled(whole, of.maps, 0));
            int references = architecture.reference_channels, K = references + references * (references + 1) / 2;
            int stretch = geometry::stretch(of.maps.all(), 1, 1, geometry::PARTS), parts = geometry::divide_up(of.maps.all(), stretch);
            Buffer<double> partial((size_t)models * parts * K);
            LAUNCH_MAPS(covariance_sums, parts, 1, models, 256, 2048, of.maps.data.data(), partial.data(), of.maps.all(), references, stretch);
            of.mean = Buffer<double>(models * references), of.covariance = Buffer<double>(models * references * references);
            LAUNCH(covariance_finish, 1, 1, models, 32, 256, partial.data(), parts, of.maps.all(), references, of.mean.data(), of.covariance.data());
            levels_.push_back(std::move(of));
        }
    }

    /// Images given channels first, for every model.
    Maps<T> upload(const std::vector<float>& of_one, int channels) {
        std::vector<float> all;
        for (int model = 0; model < models; model++) all.insert(all.end(), of_one.begin(), of_one.end());
        Buffer<float> given(all);
        Maps<T> to = maps(architecture.size, channels);
        LAUNCH_MAPS(batch_last, geometry::divide_up(to.voxels(), 256), models * images, 1, 256, 0, given.data(), to.data.data(), to.voxels(), channels);
        return to;
    }
    /// Images channels first, of all models.
    std::vector<float> download(const Maps<T>& from) {
        Buffer<float> to(from.data.size());
        LAUNCH_MAPS(batch_first, geometry::divide_up(from.voxels(), 256), models * images, 1, 256, 0, from.data.data(), to.data(), from.voxels(), from.channels);
        return to.download();
    }

    /// One power iteration of all layers.
    void normalise_weights() {
        Spectral p = spectral(v_tasks_);
        LAUNCH(spectral_v, tables_.v.size(), 1, models, 256, 2048, p);
        p = spectral(u_tasks_);
        LAUNCH(spectral_u, tables_.u.size(), 1, models, 256, 2048, p);
        LAUNCH(spectral_finish, tables_.layers.size(), 1, models, 256, 2048, p);
    }

    /// Forward pass through the encoder: mu and logvar.
    void encode(const Maps<T>& x) {
        encoder_.clear();
        for (const Block& of : layout.encoder) encoder_.push_back(forward(of, encoder_.empty() ? x : encoder_.back().out));
        const Maps<T>& last = encoder_.back().out;
        linear_forward(layout.mu, last.data.data(), mu.data());
        linear_forward(layout.logvar, last.data.data(), logvar.data());
    }
    /// Forward pass through the decoder.
    const Maps<T>& decode(Buffer<T>&& z) {
        z_ = std::move(z);
        before_ = maps(layout.decoder[0].input, layout.decoder[0].inputs);
        linear_forward(layout.fc, z_.data(), before_.data.data());
        start_norm_ = normalise(layout.bn, before_);
        start_ = maps(before_.size, before_.channels);
        activate(before_, start_norm_, start_);
        decoder_.clear();
        for (const Block& of : layout.decoder) decoder_.push_back(forward(of, decoder_.empty() ? start_ : decoder_.back().out));
        return decoder_.back().out;
    }

    /// Losses and all gradients; statistics and vectors u change. `noise`: models x images x latent.
    const Maps<T>& step(const Maps<T>& x, const Buffer<float>& noise) {
        training = true;
        normalise_weights();
        encode(x);
        Buffer<T> z((size_t)models * images * architecture.latent);
        LAUNCH_MAPS(loss_latent, images, 1, models, 256, 2048, mu.data(), logvar.data(), noise.data(), z.data(), kl_.data(), architecture.latent);
        const Maps<T>& out = decode(std::move(z));

        int length = out.voxels() * out.channels, stretch = geometry::stretch(length, 1, 1, geometry::image_parts(images));
        int parts = geometry::divide_up(length, stretch);
        Buffer<double> partial((size_t)models * images * parts);
        Maps<T> gradient = maps(out.size, out.channels);
        LAUNCH_MAPS(loss_error, parts, images, models, 256, 2048, out.data.data(), x.data.data(), gradient.data.data(), factors.data(), partial.data(), length, stretch);
        LAUNCH(loss_finish, 1, 1, models, 256, 2048, partial.data(), kl_.data(), factors.data(), steps.data(), images, parts, SLOTS, losses.data(), flag.data());

        for (size_t index = layout.decoder.size(); index-- > 0;)
            gradient = backward(layout.decoder[index], index ? decoder_[index - 1].out : start_, decoder_[index], std::move(gradient), true);
        norm_backward(layout.bn, start_norm_, gradient, before_, start_norm_.affine.data(), gradient);
        linear_backward(layout.fc, z_.data(), gradient.data.data(), dz_.data(), false);
        LAUNCH(loss_latent_backward, images, 1, models, 256, 0, mu.data(), logvar.data(), noise.data(), dz_.data(), factors.data(), dmu_.data(), dlogvar_.data(), architecture.latent);
        const Maps<T>& last = encoder_.back().out;
        gradient = maps(last.size, last.channels);
        linear_backward(layout.mu, last.data.data(), dmu_.data(), gradient.data.data(), false);
        linear_backward(layout.logvar, last.data.data(), dlogvar_.data(), gradient.data.data(), true);
        for (size_t index = layout.encoder.size(); index-- > 0;)
            gradient = backward(layout.encoder[index], index ? encoder_[index - 1].out : x, encoder_[index], std::move(gradient), index > 0);

        Spectral p = spectral(dot_tasks_);
        LAUNCH(spectral_dot, tables_.dot.size(), 1, models, 256, 2048, p);
        LAUNCH(spectral_gradient, tables_.dot.size(), 1, models, 256, 2048, p);
        return out;
    }

    /// Adam's step along the gradients.
    void update() {
        LAUNCH(adam_prepare, 1, 1, 1, 32, 0, steps.data(), settings.data(), prepared.data(), models);
        LAUNCH(adam, geometry::divide_up(layout.trained, 4096), 1, models, 256, 0, values.data(), gradients.data(), first.data(), second.data(), copy.data(), prepared.data(),
               layout.trained, layout.trained);
    }

    Maps<T> maps(std::array<int, 3> size, int channels) const {
        Maps<T> of;
        of.images = images, of.channels = channels, of.size = size;
        of.data = Buffer<T>((size_t)models * images * size[0] * size[1] * size[2] * channels);
        return of;
    }

    bool training = true;
    static constexpr int SLOTS = 16;

  private:
    Spectral spectral(const Buffer<SpectralTask>& tasks) {
        return {layers_.data(), tasks.data(), values.data(), gradients.data(), statistics.data(), vectors_.data(), parts_.data(), sigma_.data(), inverse_.data(),
                layout.trained, layout.statistics, tables_.vectors, tables_.parts, (int)layout.layers.size(), training};
    }
    static Resample resampled(const Maps<T>& from, Maps<T>& to, int add) {
        return {from.data.data(), to.data.data(), from.images, from.size[0], from.size[1], from.size[2], to.size[0], to.size[1], to.size[2], from.channels, from.width(), add};
    }

    /// Weights as the convolutions read them.
    const T* weights(const Layer& layer) const {
        if constexpr (sizeof(T) == 4) return values.data() + layer.weight;
        else return copy.data() + layer.weight;
    }
    static Window window(const Layer& layer) {
        Window of{};
        for (int axis = 0; axis < 3; axis++) of.kernel[axis] = layer.kernel[axis], of.stride[axis] = layer.stride[axis], of.padding[axis] = layer.padding[axis];
        return of;
    }
    void apply(const Layer& layer, const Maps<T>& x, const float* affine, Maps<T>& y, bool backward, bool add) {
        PlainApply p{};
        p.x = x.data.data(), p.affine = affine, p.w = weights(layer), p.y = y.data.data(), p.bias = backward ? nullptr : values.data() + layer.bias;
        p.factor = inverse_.data() + layer.number, p.pitch = layout.trained, p.factor_pitch = (long long)layout.layers.size();
        p.images = images, p.inputs = x.channels, p.outputs = y.channels, p.window = window(layer);
        p.spread = layer.spread != backward, p.turned = backward, p.accumulate = add;
        long long classes = 1, largest = images;
        for (int axis = 0; axis < 3; axis++) {
            p.in[axis] = x.size[axis], p.out[axis] = y.size[axis];
            int step = p.spread ? layer.stride[axis] : 1;
            classes *= step, largest *= geometry::divide_up(y.size[axis], step);
        }
        if (y.channels <= 16) LAUNCH_MAPS(plain_apply_narrow, geometry::divide_up(largest, 128), classes * geometry::divide_up(y.channels, 16), models, 256, 9472, p);
        else LAUNCH_MAPS(plain_apply_wide, geometry::divide_up(largest, 64), classes * geometry::divide_up(y.channels, 64), models, 256, 8448, p);
    }
    /// `affine`: x is read through a normalisation and a ReLU.
    Maps<T> convolve(const Layer& layer, const Maps<T>& x, std::array<int, 3> size, const float* affine = nullptr) {
        Maps<T> y = maps(size, layer.outputs);
        apply(layer, x, affine, y, false, false);
        return y;
    }
    void input_gradient(const Layer& layer, const Maps<T>& dy, Maps<T>& dx, bool add) { apply(layer, dy, nullptr, dx, true, add); }
    void weight_gradient(const Layer& layer, const Maps<T>& x, const Maps<T>& dy, const float* affine = nullptr) {
        const Maps<T>&moving = layer.spread ? dy : x, &still = layer.spread ? x : dy;
        int taps = layer.kernel[0] * layer.kernel[1] * layer.kernel[2], rows = taps * moving.channels, splits = geometry::divide_up(still.all(), 4096);
        splits = splits < 64 ? splits : 64;
        Buffer<float> partial((size_t)splits * models * rows * still.channels);
        PlainWeights p{};
        p.moving = moving.data.data(), p.still = still.data.data(), p.partial = partial.data(), p.images = images, p.window = window(layer);
        (layer.spread ? p.still_affine : p.moving_affine) = affine;
        p.moving_channels = moving.channels, p.still_channels = still.channels;
        for (int axis = 0; axis < 3; axis++) p.moving_size[axis] = moving.size[axis], p.still_size[axis] = still.size[axis];
        if (still.channels <= 16) LAUNCH_MAPS(plain_weights_narrow, geometry::divide_up(rows, 128), geometry::divide_up(still.channels, 16) * splits, models, 256, 9472, p);
        else LAUNCH_MAPS(plain_weights_wide, geometry::divide_up(rows, 64), geometry::divide_up(still.channels, 64) * splits, models, 256, 8448, p);
        PlainSum sum{partial.data(), nullptr, gradients.data() + layer.weight, layout.trained, 0, splits, taps, moving.channels, still.channels, layer.spread};
        LAUNCH(plain_sum, geometry::divide_up(rows * still.channels, 256), 1, models, 256, 0, sum);
    }

    Normed normalise(const Norm& norm, const Maps<T>& x) {
        Normed of{Buffer<double>(models * 2 * x.channels), Buffer<float>(models * 2 * x.channels)};
        float *weight = values.data() + norm.weight, *bias = values.data() + norm.bias;
        float *mean = statistics.data() + norm.mean, *variance = statistics.data() + norm.variance;
        if (!training) {
            LAUNCH(norm_running, geometry::divide_up(x.channels, 256), 1, models, 256, 0, x.channels, weight, bias, mean, variance, layout.trained, layout.statistics,
                   of.moments.data(), of.affine.data());
            return of;
        }
        int stretch = geometry::stretch(x.all(), x.channels, x.width(), geometry::PARTS), parts = geometry::divide_up(x.all(), stretch);
        Buffer<double> partial((size_t)models * parts * 2 * x.channels);
        LAUNCH_MAPS(norm_sums, parts, x.chunks(), models, 256, geometry::sum_bytes(x.width()), x.data.data(), partial.data(), x.all(), x.channels, x.width(), stretch);
        LAUNCH(norm_finish, geometry::divide_up(x.channels, 32), 1, models, 256, 2048, partial.data(), parts, x.channels, x.all(), weight, bias, mean, variance, layout.trained,
               layout.statistics, of.moments.data(), of.affine.data());
        return of;
    }
    void activate(const Maps<T>& x, const Normed& by, Maps<T>& y) {
        LAUNCH_MAPS(norm_relu, x.blocks(), x.chunks(), models, 256, 0, x.data.data(), by.affine.data(), y.data.data(), x.all(), x.channels, x.width());
    }
    /// The gradient of a normalisation's input; `affine`: with the ReLU behind it.
    void norm_backward(const Norm& norm, const Normed& of, const Maps<T>& dy, const Maps<T>& x, const float* affine, Maps<T>& dx) {
        int stretch = geometry::stretch(x.all(), x.channels, x.width(), geometry::PARTS), parts = geometry::divide_up(x.all(), stretch);
        Buffer<double> partial((size_t)models * parts * 2 * x.channels);
        LAUNCH_MAPS(norm_backward_sums, parts, x.chunks(), models, 256, geometry::sum_bytes(x.width()), dy.data.data(), x.data.data(), of.moments.data(), affine, partial.data(),
                    x.all(), x.channels, x.width(), stretch);
        Buffer<float> coefficients = norm_gradients(norm, of, partial, parts, 2, x, nullptr);
        LAUNCH_MAPS(norm_propagate, x.blocks(), x.chunks(), models, 256, 0, dy.data.data(), x.data.data(), coefficients.data(), affine, dx.data.data(), x.all(), x.channels, x.width());
    }
    Buffer<float> norm_gradients(const Norm& norm, const Normed& of, const Buffer<double>& partial, int parts, int rows, const Maps<T>& x, float* again) {
        Buffer<float> coefficients(models * 3 * x.channels);
        LAUNCH(norm_backward_finish, geometry::divide_up(x.channels, 32), 1, models, 256, 2048, partial.data(), parts, rows, x.channels, x.all(), of.moments.data(),
               values.data() + norm.weight, layout.trained, gradients.data() + norm.weight, gradients.data() + norm.bias, again, coefficients.data());
        return coefficients;
    }

    Condition condition_of(const Conditioned& of, const ConditionTape& tape, const Block& block) {
        Condition p{};
        const Level<T>& level = levels_[block.level];
        p.weight = values.data() + of.conv.weight, p.bias = values.data() + of.conv.bias, p.sigma = sigma_.data() + of.conv.number;
        p.norm_weight = values.data() + of.norm.weight, p.norm_bias = values.data() + of.norm.bias;
        p.running_mean = statistics.data() + of.norm.mean, p.running_variance = statistics.data() + of.norm.variance;
        p.mean = level.mean.data(), p.covariance = level.covariance.data(), p.labels = labels_.data(), p.moments = tape.moments.data(), p.out = tape.out.data();
        p.dweight = gradients.data() + of.conv.weight, p.dnorm_weight = gradients.data() + of.norm.weight, p.dnorm_bias = gradients.data() + of.norm.bias;
        p.trained = layout.trained, p.statistics = layout.statistics, p.layers = (int)layout.layers.size();
        p.inputs = of.conv.inputs, p.channels = of.conv.outputs, p.images = images, p.voxels = level.maps.voxels(), p.rows = 5, p.training = training;
        return p;
    }
    Join join(const Block& of, const Tape<T>& tape) {
        Join p{};
        const Maps<T>& out = tape.out;
        p.second = tape.second.data.data(), p.out = out.data.data(), p.affine = tape.norms[1].affine.data(), p.moments = tape.norms[1].moments.data();
        p.images = images, p.z = out.size[0], p.y = out.size[1], p.x = out.size[2], p.channels = out.channels, p.width = out.width();
        p.activation = of.last ? 2 : 1;
        p.stretch = geometry::stretch(out.voxels(), out.channels, out.width(), geometry::image_parts(images)), p.parts = geometry::divide_up(out.voxels(), p.stretch);
        if (!of.conditions.empty()) {
            p.references = architecture.reference_channels, p.reference = levels_[of.level].maps.data.data();
            p.factors = tape.conditions[0].out.data(), p.label = tape.conditions[1].out.data();
        }
        return p;
    }

    Tape<T> forward(const Block& of, const Maps<T>& input) {
        Tape<T> tape;
        tape.first = convolve(of.conv1, input, of.output);
        tape.norms[0] = normalise(of.bn1, tape.first);
        tape.second = convolve(of.conv2, tape.first, of.output, tape.norms[0].affine.data());
        tape.norms[1] = normalise(of.bn2, tape.second);
        Maps<T> bypass = of.up ? convolve(of.bypass, input, of.input) : convolve(of.bypass, pooled(of, input), of.output);
        for (size_t index = 0; index < of.conditions.size(); index++) {
            const Conditioned& by = of.conditions[index];
            int rows = index ? images : by.conv.inputs + 1;
            tape.conditions.push_back({Buffer<double>(models * 2 * of.outputs), Buffer<float>((size_t)models * rows * of.outputs)});
            Condition p = condition_of(by, tape.conditions[index], of);
            if (index) LAUNCH(join_label, geometry::divide_up(of.outputs, 256), 1, models, 256, 0, p);
            else LAUNCH(join_reference, geometry::divide_up(of.outputs, 256), 1, models, 256, 0, p);
        }
        tape.out = maps(of.output, of.outputs);
        Join p = join(of, tape);
        p.bypass = bypass.data.data(), p.bypass_z = bypass.size[0], p.bypass_y = bypass.size[1], p.bypass_x = bypass.size[2];
        LAUNCH_MAPS(join, images * p.parts, tape.out.chunks(), models, 256, 0, p);
        return tape;
    }
    Maps<T> pooled(const Block& of, const Maps<T>& input) {
        Maps<T> to = maps(of.output, of.inputs);
        LAUNCH_MAPS(resample_average, to.blocks(), to.chunks(), models, 256, 0, resampled(input, to, 0));
        return to;
    }

    /// Takes the gradient of a block's output, gives that of its input if it is wanted.
    Maps<T> backward(const Block& of, const Maps<T>& input, const Tape<T>& tape, Maps<T>&& gradient, bool wanted) {
        Join p = join(of, tape);
        if (of.last) p.activation = 0;  // the loss gave the gradient before the softplus
        int rows = of.conditions.empty() ? 2 : 5;
        Buffer<double> partial((size_t)models * images * p.parts * rows * of.outputs);
        p.gradient = gradient.data.data(), p.partial = partial.data();
        LAUNCH_MAPS(join_backward, images * p.parts, gradient.chunks(), models, 256, geometry::sum_bytes(gradient.width()), p);
        for (size_t index = 0; index < of.conditions.size(); index++) {
            Condition c = condition_of(of.conditions[index], tape.conditions[index], of);
            if (index) {
                Buffer<double> sums((size_t)models * images * of.outputs);
                LAUNCH(join_image_sums, geometry::divide_up(of.outputs, 32), images, models, 256, 2048, partial.data(), p.parts, rows, of.outputs, sums.data());
                c.sums = sums.data();
                LAUNCH(join_label_backward, geometry::divide_up(of.outputs, 256), 1, models, 256, 0, c);
            } else {
                c.sums = partial.data(), c.parts = images * p.parts;
                LAUNCH(join_reference_backward, geometry::divide_up(of.outputs, 32), 1, models, 256, 2048, c);
            }
        }
        Buffer<float> coefficients = norm_gradients(of.bn2, tape.norms[1], partial, images * p.parts, rows, tape.second, gradients.data() + of.bypass.bias);
        // The bypass.
        Maps<T> result;
        if (wanted) result = maps(input.size, input.channels);
        if (of.up) {
            Maps<T> half = maps(of.input, of.outputs);
            LAUNCH_MAPS(resample_corners, half.blocks(), half.chunks(), models, 256, 0, resampled(gradient, half, 0));
            weight_gradient(of.bypass, input, half);
            input_gradient(of.bypass, half, result, false);
        } else {
            weight_gradient(of.bypass, pooled(of, input), gradient);
            if (wanted) {
                Maps<T> half = maps(of.output, of.inputs);
                input_gradient(of.bypass, gradient, half, false);
                LAUNCH_MAPS(resample_spread, result.blocks(), result.chunks(), models, 256, 0, resampled(half, result, 0));
            }
        }
        // The second convolution. Biases before a normalisation have no gradient.
        const Maps<T>& before = tape.second;
        LAUNCH_MAPS(norm_propagate, before.blocks(), before.chunks(), models, 256, 0, gradient.data.data(), before.data.data(), coefficients.data(), (const float*)nullptr,
                    gradient.data.data(), before.all(), before.channels, before.width());
        weight_gradient(of.conv2, tape.first, gradient, tape.norms[0].affine.data());
        // The first convolution.
        Maps<T> inner = maps(of.output, of.inputs);
        input_gradient(of.conv2, gradient, inner, false);
        norm_backward(of.bn1, tape.norms[0], inner, tape.first, tape.norms[0].affine.data(), inner);
        weight_gradient(of.conv1, input, inner);
        if (wanted) input_gradient(of.conv1, inner, result, true);
        return result;
    }

    template <class A>
    static constexpr bool wide() { return sizeof(A) == 4; }
    /// c = a b: the product and its finish. `out` in A's or another type.
    template <class A, class B, class C>
    void product(const A* a, const B* b, C* out, int m, int n, int k, std::array<long long, 6> steps, const float* sigma, const float* bias, long long out_pitch, bool add) {
        int splits = geometry::divide_up(k, 1024), stretch = geometry::divide_up(k, splits);
        Buffer<float> partial((size_t)models * splits * m * n);
        Product p{a, b, partial.data(), steps[0], steps[1], m, n, k, stretch, splits, steps[2], steps[3], steps[4], steps[5]};
        int x = geometry::divide_up(n, 64), y = geometry::divide_up(m, 32) * splits;
        if constexpr (wide<A>() && wide<B>()) LAUNCH(linear_product_f32_f32, x, y, models, 256, 6272, p);
        else if constexpr (wide<A>()) LAUNCH(linear_product_f32_bf16, x, y, models, 256, 6272, p);
        else if constexpr (wide<B>()) LAUNCH(linear_product_bf16_f32, x, y, models, 256, 6272, p);
        else LAUNCH(linear_product_bf16_bf16, x, y, models, 256, 6272, p);
        int layers = (int)layout.layers.size(), blocks = geometry::divide_up((long long)m * n, 256);
        if constexpr (wide<C>())
            LAUNCH(linear_finish_f32, blocks, 1, models, 256, 0, partial.data(), splits, m, n, sigma, layers, bias, layout.trained, out, out_pitch, add);
        else
            LAUNCH(linear_finish_bf16, blocks, 1, models, 256, 0, partial.data(), splits, m, n, sigma, layers, bias, layout.trained, out, out_pitch, add);
    }
    template <class X, class Y>
    void linear_forward(const Layer& of, const X* x, Y* y) {
        long long in = of.inputs, out = of.outputs;
        product(x, values.data() + of.weight, y, images, out, in, {images * in, layout.trained, in, 1, out, 1}, sigma_.data() + of.number, values.data() + of.bias, images * out, false);
    }
    template <class X, class Y, class D>
    void linear_backward(const Layer& of, const X* x, const Y* dy, D* dx, bool add) {
        long long in = of.inputs, out = of.outputs;
        product(x, dy, gradients.data() + of.weight, in, out, images, {images * in, images * out, 1, in, out, 1}, nullptr, nullptr, layout.trained, false);
        if constexpr (wide<Y>()) LAUNCH(linear_bias_f32, geometry::divide_up(out, 256), 1, models, 256, 0, dy, gradients.data() + of.bias, images, (int)out, layout.trained);
        else LAUNCH(linear_bias_bf16, geometry::divide_up(out, 256), 1, models, 256, 0, dy, gradients.data() + of.bias, images, (int)out, layout.trained);
        product(dy, values.data() + of.weight, dx, images, in, out, {images * out, layout.trained, out, 1, 1, out}, sigma_.data() + of.number, nullptr, images * in, add);
    }

    Buffer<float> dmu_, dlogvar_, dz_;
    Buffer<double> kl_;
    SpectralTables tables_;
    Buffer<SpectralLayer> layers_;
    Buffer<SpectralTask> v_tasks_, u_tasks_, dot_tasks_;
    Buffer<float> vectors_, sigma_, inverse_;
    Buffer<double> parts_;
    Buffer<int> labels_;
    std::vector<Level<T>> levels_;
    std::vector<Tape<T>> encoder_, decoder_;
    Buffer<T> z_;
    Maps<T> before_, start_;
    Normed start_norm_;
};
