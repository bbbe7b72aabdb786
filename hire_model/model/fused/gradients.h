// What the backward pass of stages 6 to 8 reads and sums, apart from the stages themselves.
//
// Each thread sums the gradients of the weights and of the lanes over its contexts. The threads' sums are added in
// order, so that a result depends on the number of threads but not on their timing.
#pragma once

#include "stages.h"

namespace hire {

// Where the gradients of a pass go, in torch's layout and zero at first; library.py has the same fields. All are null
// where the model does not have them.
struct Gradients {
    // Of the contexts. `gram` and `edges` are [count]([kinds])[longest][longest].
    float *directions, *keys, *summary, *gram, *lengths, *edges;
    // Of the lanes: x, the weights in the alignment score, and the products of roles [count][kinds][longest][longest].
    float *x, *weights, *products;
    // Of the weights, [size][size] and [size]; `sharpness` is one number.
    float *first, *first_bias, *second, *second_bias, *scale, *scale_bias, *out, *out_bias, *max_weight, *sharpness;
};

// Return the floats between two rows of a transposed matrix [lanes][width]. With a power of 2, the rows would share few
// places of the first-level cache.
constexpr int turned_step(int width) { return width + W; }

// Add the sums over `lanes` of left[lane][row] * right[lane][column] to to[row][column], for blocks of MR rows and
// vectors of W columns.
__attribute__((noinline)) inline void add_outer(int lanes, const float* left, size_t left_step, int blocks,
                                                const float* right, size_t right_step, int vectors, float* to,
                                                size_t to_step) {
    for (int at = 0, calls = (vectors + NV - 1) / NV; calls; --calls) {
        const int count = (vectors - at + calls - 1) / calls;  // 2 + 2 vectors, not 3 + 1
        with_vectors(count, [&](auto n) {
            multiply<n.value>(blocks, lanes, {left, left_step, MR}, right + at * W, right_step,
                              [&](int b, Vec(&sums)[MR][n.value]) {
                for (int i = 0; i < MR; ++i)
                    for (int v = 0; v < n.value; ++v) {
                        float* cell = to + size_t(b * MR + i) * to_step + (at + v) * W;
                        store(cell, load(cell) + sums[i][v]);
                    }
            });
        });
        at += count;
    }
}

// A context in the layouts of the backward pass, and the sums of its gradients over all tiles.
struct ContextGradient {
    int rows;              // fragments, padded as in `Attention`
    Floats directions;     // [rows][width] unit vectors
    Floats keys;           // packed left [blocks][2 width][MR]: all scales, then all shifts
    Floats edges;          // packed left [kinds][blocks][n][MR]: row r of the left matrix is row r of the edge map
    Floats to_directions;  // [rows][width]
    Floats to_keys;        // [rows][2 width]
    Floats to_summary;     // [width][W], to be summed over W
    Floats to_gram;        // [rows][rows]
    Floats to_lengths;     // [rows][W], to be summed over W
    Floats to_edges;       // [kinds][rows][rows]

    void prepare(const Model& model, const Pass& pass, const Context& context, bool align, bool relate) {
        const size_t n = context.n, width = model.width();
        rows = round_up(std::max(context.n, 1), std::max(W, MR));
        directions.assign(rows * width, 0.0f);
        for (size_t r = 0; r < n; ++r)
            for (int f = 0; f < model.size; ++f)
                directions[r * width + f] =
                    context.x[(r / MR * model.size + f) * MR + r % MR] / context.length[r];
        if (pass.keys) turn_keys(context, int(width));
        if (relate) turn_edges(model, context);
        to_directions.assign(rows * width, 0.0f);
        to_keys.assign(pass.keys ? rows * 2 * width : 0, 0.0f);
        to_summary.assign(width * W, 0.0f);
        to_gram.assign(align ? rows * rows : 0, 0.0f);
        to_lengths.assign(rows * W, 0.0f);
        to_edges.assign(relate ? size_t(model.kinds) * rows * rows : 0, 0.0f);
    }

    // Write the sums of context `item`; `context.rows` has the places of its fragments.
    void write(const Model& model, const Context& context, int64_t item, int64_t longest, const Gradients& to) const {
        const size_t size = model.size, width = model.width();
        for (int f = 0; f < model.size; ++f) to.summary[item * size + f] = sum(load(to_summary.data() + f * W));
        for (int r = 0; r < context.n; ++r) {
            const int64_t row = item * longest + context.rows[r];
            if (to.directions) std::copy_n(to_directions.data() + r * width, size, to.directions + row * size);
            for (int half = 0; to.keys && half < 2; ++half)
                std::copy_n(to_keys.data() + (2 * r + half) * width, size, to.keys + (2 * row + half) * size);
            if (to.lengths) to.lengths[row] = sum(load(to_lengths.data() + r * W));
            for (int s = 0; s < context.n; ++s) {
                const int column = context.rows[s];
                if (to.gram) to.gram[row * longest + column] = to_gram[size_t(r) * rows + s];
                for (int k = 0; to.edges && k < model.kinds; ++k)
                    to.edges[((item * model.kinds + k) * longest + context.rows[r]) * longest + column] =
                        to_edges[(size_t(k) * rows + r) * rows + s];
            }
        }
    }

   private:
    void turn_keys(const Context& context, int width) {
        const size_t n = context.n, half = MR / 2;
        keys.assign(size_t(context.blocks) * 2 * width * MR, 0.0f);
        for (size_t r = 0; r < n; ++r)
            for (int f = 0; f < 2 * width; ++f) {
                const size_t feature = f % width, from = (feature / half * n + r) * MR + feature % half;
                keys[(r / MR * 2 * width + f) * MR + r % MR] = context.keys[f < width ? from : from + half];
            }
    }

    void turn_edges(const Model& model, const Context& context) {
        const size_t n = context.n, map = context.blocks * n * MR;
        edges.assign(model.kinds * map, 0.0f);
        for (int k = 0; k < model.kinds; ++k)
            for (size_t r = 0; r < n; ++r)
                for (size_t s = 0; s < n; ++s)
                    edges[k * map + (r / MR * n + s) * MR + r % MR] = context.edges[k * map + (s / MR * n + r) * MR + s % MR];
    }
};

// A tile in the layouts of the backward pass.
struct TileTurned {
    Floats directions;  // [lanes][turned_step(width)] unit vectors
    Floats words;       // as Tile::words, but [kinds][i][j]

    TileTurned(const Model& model, const Tile& tile, bool relate) {
        const int width = model.width(), step = turned_step(width);
        directions.resize(tile.panels.size() * NR * step);
        for (size_t p = 0; p < tile.panels.size(); ++p)
            turn(tile.x.data() + p * width * NR, NR, width, NV, directions.data() + p * NR * step, step);
        for (size_t lane = 0; lane < tile.inverse.size(); ++lane)
            for (int f = 0; f < width; ++f) directions[lane * step + f] *= tile.inverse[lane];
        if (!relate) return;
        words.assign(tile.words.size(), 0.0f);
        for (size_t item = 0; item < tile.start.size(); ++item) {
            const int n = tile.size[item], padded = round_up(n, W);
            for (int k = 0; k < model.kinds; ++k) {
                const size_t at = tile.words_at[item] + size_t(k) * n * padded;
                for (int i = 0; i < n; ++i)
                    for (int j = 0; j < n; ++j) words[at + i * padded + j] = tile.words[at + j * padded + i];
            }
        }
    }
};

// The sums of the gradients of a tile, over the contexts of a thread.
struct TileSums {
    Floats x;        // [panels][width][NR]
    Floats weights;  // [lanes]
    Floats words;    // as Tile::words

    explicit TileSums(const Tile& tile)
        : x(tile.x.size(), 0.0f), weights(tile.share.size(), 0.0f), words(tile.words.size(), 0.0f) {}

    void write(const Model& model, const Items& items, const Tile& tile, const Gradients& to) const {
        const size_t size = model.size, width = model.width(), longest = items.longest;
        std::vector<int> rows;
        for (size_t item = 0; item < tile.start.size(); ++item) {
            const size_t from = tile.begin + item, n = tile.size[item], padded = round_up(tile.size[item], W);
            find_rows(items, int64_t(from), rows);
            for (size_t j = 0; j < n; ++j) {
                const size_t lane = tile.start[item] + j, row = from * longest + rows[j];
                for (size_t f = 0; f < size; ++f)
                    to.x[row * size + f] += x[(lane / NR * width + f) * NR + lane % NR];
                if (to.weights) to.weights[row] += weights[lane];
                for (int k = 0; to.products && k < model.kinds; ++k)
                    for (size_t i = 0; i < n; ++i)
                        to.products[((from * model.kinds + k) * longest + rows[j]) * longest + rows[i]] +=
                            words[tile.words_at[item] + (k * n + j) * padded + i];
            }
        }
    }
};

// The sums of the gradients of the weights, over the contexts of a thread.
struct WeightSums {
    Floats first, second, scale, out;                      // [width][width]
    Floats first_bias, second_bias, scale_bias, out_bias;  // [width]
    Floats max_weight;                                     // [width]
    double sharpness = 0;

    explicit WeightSums(const Model& model) {
        const size_t width = model.width();
        for (Floats* x : {&first, &second, &scale, &out}) x->assign(width * width, 0.0f);
        for (Floats* x : {&first_bias, &second_bias, &scale_bias, &out_bias, &max_weight}) x->assign(width, 0.0f);
    }

    void write(const Model& model, const Gradients& to) const {
        const size_t size = model.size, width = model.width();
        auto add = [&](const Floats& from, float* out, size_t rows) {
            for (size_t row = 0; out && row < rows; ++row)
                for (size_t f = 0; f < size; ++f) out[row * size + f] += from[row * width + f];
        };
        add(first, to.first, size), add(second, to.second, size), add(scale, to.scale, size), add(out, to.out, size);
        add(first_bias, to.first_bias, 1), add(second_bias, to.second_bias, 1), add(scale_bias, to.scale_bias, 1);
        add(out_bias, to.out_bias, 1), add(max_weight, to.max_weight, 1);
        if (to.sharpness) *to.sharpness += float(sharpness);
    }
};

// All sums of a thread.
struct Sums {
    WeightSums weights;
    std::vector<TileSums> tiles;

    Sums(const Model& model, const std::vector<Tile>& packed) : weights(model), tiles(packed.begin(), packed.end()) {}
};

}  // namespace hire
