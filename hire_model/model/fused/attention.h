// Cosines, attention and alignment of one context and one tile of lanes.
//
// A matrix [rows][NR] holds one vector of a panel's lanes per row: features, or fragments of the context.
#pragma once

#include <cfloat>

#include "dropout.h"
#include "sides.h"

namespace hire {

// What training adds to a pass; library.py has the same fields.
struct Training {
    Dropout dropout;
    const float *first, *second, *scale, *out;  // transposed weights of `Pass`, packed
    // Kept for the backward pass.
    float* pooled;    // [contexts][items][3][width] mean + max_weight * maximum, the maximum, which fragment has it
    uint8_t* raised;  // [contexts][panels][width][NR] whether the ReLU of stage 7 is positive
    float* related;   // [contexts][items] S_rel
    int64_t items, panels;  // of all lanes
};

class Attention {
   protected:
    const Model* model;
    const Pass* pass;
    const Context* context;
    const Tile* tile;
    const Training* training;  // null without gradients and dropout
    int64_t index;             // of the context
    bool align, relate;        // whether the pass has the alignment and the relation match
    int rows;                  // fragments of the context, padded for `transpose`
    Floats cosine;             // [rows][tile step]
    Floats lengths;            // [items][rows] temperature / length over the item's lanes of LeakyReLU(cosine)
    Floats attention;          // [rows][NR]
    Floats aligned;            // [items] alignment scores
    alignas(64) float block[W * W];

    static Vec leaky(Vec x) { return max(x, x * 0.1f); }

    void set(const Model& model_, const Pass& pass_, bool lanes_are_words, const Context& context_, const Tile& tile_,
             const Training* training_, int64_t index_) {
        model = &model_, pass = &pass_, context = &context_, tile = &tile_, training = training_, index = index_;
        align = lanes_are_words && model->alignment, relate = lanes_are_words && model->kinds;
    }

    void reserve_attention() {
        const size_t items = tile->start.size();
        rows = round_up(std::max(context->n, 1), std::max(W, MR));
        cosine.resize(size_t(rows) * tile->step);
        lengths.assign(items * rows, 0.0f);
        attention.resize(size_t(rows) * NR);
        aligned.assign(items, 0.0f);
    }

    // Call run(N, p) for each panel p of the tile, with its vectors N as a compile-time constant.
    template <class Run>
    void for_panels(Run run) {
        for (size_t p = 0; p < tile->panels.size(); ++p)
            with_vectors(tile->panels[p].vectors, [&](auto n) { run(n, int(p)); });
    }

    const float* panel_x(int p) const { return tile->x.data() + size_t(p) * model->width() * NR; }

    // Fill `cosine`, and `lengths` from the sums of squares of each item.
    void find_cosines() {
        const size_t step = tile->step;
        for (size_t p = 0; p < tile->panels.size(); ++p) {
            const Tile::Panel& panel = tile->panels[p];
            float* to = cosine.data() + p * NR;
            const float* inverse = tile->inverse.data() + p * NR;
            with_vectors(panel.vectors, [&](auto n) {
                constexpr int N = n.value;
                multiply<N>(context->blocks, model->size, packed(context->x.data(), model->size), panel_x(int(p)), NR,
                            [&](int b, Vec(&sums)[MR][N]) {
                    for (int i = 0; i < MR; ++i)
                        for (int v = 0; v < N; ++v)
                            store(to + (b * MR + i) * step + v * W,
                                  sums[i][v] * load(inverse + v * W) * (1 / context->length[b * MR + i]));
                });
            });
            if (!pass->first && !model->alignment) continue;
            for (int row = 0; row < context->blocks * MR; row += W)
                for (int v = 0; v < panel.vectors; ++v) {
                    transpose(to + row * step + v * W, step, block);
                    for (const Tile::Run& run : panel.runs[v]) {
                        float* squares = lengths.data() + size_t(run.item) * rows + row;
                        Vec sum = load(squares);
                        for (int lane = run.from; lane < run.to; ++lane) {
                            Vec a = leaky(load(block + lane * W));
                            sum += a * a;
                        }
                        store(squares, sum);
                    }
                }
        }
        for (float& x : lengths) x = pass->temperature / std::sqrt(x + EPS);
    }

    // Attention of the lanes over the context: softmax of the scaled LeakyReLU of the cosine.
    template <int N>
    void attend(int p, const Tile::Panel& panel) {
        const int n = context->n;
        const float* from = cosine.data() + p * NR;
        float* to = attention.data();
        Vec peak[N], total[N] = {};
        for (Vec& x : peak) x = fill(-FLT_MAX);
        const Left scales = {lengths.data() + size_t(panel.first) * rows, size_t(rows), MR};
        multiply<N>(context->blocks, panel.items, scales, tile->member.data() + panel.members, NR,
                    [&](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR && b * MR + i < n; ++i)
                for (int v = 0; v < N; ++v) {
                    Vec x = leaky(load(from + size_t(b * MR + i) * tile->step + v * W)) * sums[i][v];
                    store(to + (b * MR + i) * NR + v * W, x);
                    peak[v] = max(peak[v], x);
                }
        });
        for (int r = 0; r < n; ++r)
            for (int v = 0; v < N; ++v) {
                Vec x = exp(load(to + r * NR + v * W) - peak[v]);
                total[v] += x;
                store(to + r * NR + v * W, x);
            }
        for (Vec& x : total) x = invert(x);
        for (int r = 0; r < n; ++r)
            for (int v = 0; v < N; ++v) store(to + r * NR + v * W, load(to + r * NR + v * W) * total[v]);
    }

    // Add the alignment of each word. The length of the attended vector comes from the context's Gram matrix.
    template <int N>
    void align_words(int p, const Tile::Panel& panel) {
        const float *from = cosine.data() + p * NR, *weights = attention.data();
        Vec product[N] = {}, square[N] = {};
        multiply<N>(context->blocks, context->n, packed(context->gram.data(), context->n), weights, NR,
                    [&](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR && b * MR + i < context->n; ++i)
                for (int v = 0; v < N; ++v) {
                    Vec weight = load(weights + (b * MR + i) * NR + v * W);
                    square[v] += weight * sums[i][v];
                    product[v] += weight * load(from + size_t(b * MR + i) * tile->step + v * W) *
                                  context->length[b * MR + i];
                }
        });
        float values[W];
        for (int v = 0; v < N; ++v) {
            for (int i = 0; i < W; ++i) values[i] = 1 / std::sqrt(std::max(square[v][i], 0.0f) + EPS);
            store(values, product[v] * load(values) * load(tile->share.data() + p * NR + v * W));
            for (const Tile::Run& run : panel.runs[v])
                for (int lane = run.from; lane < run.to; ++lane) aligned[run.item] += values[lane];
        }
    }
};

}  // namespace hire
