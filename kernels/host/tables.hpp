// The tables that spectral.cu and adam.cu read: which block works on what. Functions of the layers' sizes alone.
#pragma once
#include "geometry.hpp"

/// A layer as its weights lie: taps x inputs x outputs from `weight`, u from `u`.
struct LayerSizes {
    long long weight, u;
    int taps, inputs, outputs;
    bool by_inputs;
};

struct SpectralTables {
    std::vector<SpectralLayer> layers;
    std::vector<SpectralTask> v, u, dot;
    long long vectors = 0, parts = 0;  // numbers a model
};

inline SpectralTables spectral_tables(const std::vector<LayerSizes>& sizes) {
    constexpr int WEIGHTS = 1 << 16, COLUMNS = 64, ROWS = 1024, DOT = 1 << 14;
    using geometry::divide_up;
    SpectralTables all;
    for (const LayerSizes& of : sizes) {
        SpectralLayer layer{};
        int number = (int)all.layers.size(), rows = of.taps * of.inputs, axis = of.by_inputs ? of.inputs : of.outputs;
        layer.weight = of.weight, layer.u = of.u, layer.taps = of.taps, layer.inputs = of.inputs, layer.outputs = of.outputs;
        layer.by_inputs = of.by_inputs;
        layer.v = all.vectors, all.vectors += of.taps * (of.by_inputs ? of.outputs : of.inputs);
        layer.next = all.vectors, all.vectors += axis;
        int each = WEIGHTS / of.outputs;  // rows of a task of row products
        each = each < 8 ? 8 : each;
        if (of.by_inputs) {
            for (int tap = 0; tap < of.taps; tap++)
                for (int column = 0; column < of.outputs; column += COLUMNS) all.v.push_back({number, tap, 1, column, layer.v_tasks++});
            layer.u_parts = of.taps;
            for (int tap = 0; tap < of.taps; tap++)
                for (int row = 0; row < of.inputs; row += each)
                    all.u.push_back({number, tap * of.inputs + row, of.inputs - row < each ? of.inputs - row : each, 0, 0});
        } else {
            for (int row = 0; row < rows; row += each) all.v.push_back({number, row, rows - row < each ? rows - row : each, 0, layer.v_tasks++});
            layer.u_parts = divide_up(rows, ROWS);
            for (int part = 0; part < layer.u_parts; part++)
                for (int column = 0; column < of.outputs; column += COLUMNS)
                    all.u.push_back({number, part * ROWS, rows - part * ROWS < ROWS ? rows - part * ROWS : ROWS, column, part});
        }
        layer.first_dot_task = (int)all.dot.size();
        long long length = (long long)rows * of.outputs;
        for (long long first = 0; first < length; first += DOT)
            all.dot.push_back({number, (int)first, (int)(length - first < DOT ? length - first : DOT), 0, layer.dot_tasks++});
        layer.part = all.parts, all.parts += (long long)layer.u_parts * axis;
        layer.norm = all.parts, all.parts += layer.v_tasks;
        layer.dot = all.parts, all.parts += layer.dot_tasks;
        all.layers.push_back(layer);
    }
    return all;
}

/// Tiles of weights_turned for a table whose `tile` is filled in here.
inline int turned_tiles(std::vector<Turned>& table) {
    int tiles = 0;
    for (Turned& of : table) {
        of.tile = tiles;
        tiles += of.taps * geometry::divide_up(of.inputs, 32) * geometry::divide_up(of.outputs, 32);
    }
    return tiles;
}
