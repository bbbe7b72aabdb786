// Stages 6 to 8 for one context and one tile of lanes. hire_model/model/interaction.py and relations.py define them.
//
// A matrix [rows][NR] holds one vector of a panel's lanes per row: features, or fragments of the context.
#pragma once

#include <cfloat>

#include "sides.h"

namespace hire {

class Stages {
   public:
    // Add the parts of the pass to the scores: scores[place[i]] for the item i of the packed list.
    void score(const Model& model_, const Pass& pass_, bool lanes_are_words, const Context& context_,
               const Tile& tile_, const int64_t* place, float* scores) {
        model = &model_, pass = &pass_, context = &context_, tile = &tile_;
        const bool align = lanes_are_words && model->alignment;
        const bool relate = lanes_are_words && model->kinds;
        reserve(relate);
        if (pass->first || align || relate) find_cosines();
        if (pass->first || align || pass->max_weight)
            for (size_t p = 0; p < tile->panels.size(); ++p)
                with_vectors(tile->panels[p].vectors, [&](auto n) { refine_panel<n.value>(int(p), align); });
        if (relate) match_relations();
        for (size_t item = 0; item < tile->start.size(); ++item) {
            const int n = tile->size[item];
            float part = align ? aligned[item] : 0;
            if (pass->max_weight) part += compare_with_summary(int(item));
            part /= model->parts;
            if (relate)
                part += model->related_share * std::tanh(related[item] / (std::max(n, 1) * std::sqrt(float(model->role))));
            scores[place[tile->begin + item]] += n && context->n ? part : NAN;
        }
    }

   private:
    const Model* model;
    const Pass* pass;
    const Context* context;
    const Tile* tile;
    int rows;             // fragments of the context, padded for `transpose`
    Floats cosine;        // [rows][tile step]
    Floats lengths;       // [items][rows] temperature / length over the lanes of the item, of LeakyReLU(cosine)
    Floats attention;     // [rows][NR]
    Floats gated, hidden, refined, crossed;  // [width][NR]
    Floats total, largest;                   // [items][width] mean and maximum over the lanes of an item
    Floats aligned, related;                 // [items]
    Floats places, placed, edged;            // relation match: [rows][step], its transpose, and times the edge map
    alignas(64) float block[W * W];

    static Vec leaky(Vec x) { return max(x, x * 0.1f); }

    void reserve(bool relate) {
        const size_t items = tile->start.size(), width = model->width();
        rows = round_up(std::max(context->n, 1), std::max(W, MR));
        cosine.resize(size_t(rows) * tile->step);
        lengths.assign(items * rows, 0.0f);
        attention.resize(size_t(rows) * NR);
        for (Floats* x : {&gated, &hidden, &refined, &crossed}) x->resize(width * NR);
        total.assign(items * width, 0.0f);
        largest.assign(items * width, -FLT_MAX);
        aligned.assign(items, 0.0f);
        related.assign(items, 0.0f);
        if (relate) {
            places.assign(size_t(rows) * tile->step, 0.0f);
            placed.assign(size_t(rows) * tile->step, 0.0f);
            edged.assign(size_t(rows) * tile->step, 0.0f);
        }
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

    template <int N>
    void refine_panel(int p, bool align) {
        const Tile::Panel& panel = tile->panels[p];
        if (pass->first || align) attend<N>(p, panel);
        if (align) align_words<N>(p, panel);
        if (!pass->max_weight) return;
        const float* lanes = panel_x(p);
        Vec dots[N] = {};
        if (pass->first) lanes = refine<N>(lanes, dots);
        if (pass->scale) {
            if (!pass->first)
                for (int f = 0; f < model->size; ++f)
                    for (int v = 0; v < N; ++v) dots[v] += load(lanes + f * NR + v * W) * context->summary[f];
            lanes = cross<N>(lanes, dots);
        }
        pool(panel, lanes, tile->mean_share.data() + p * NR);
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

    // Stage 6. Return the refined lanes, and add their products with the context's summary to `dots`.
    template <int N>
    const float* refine(const float* x, Vec (&dots)[N]) {
        const int size = model->size, blocks = model->blocks(), n = context->n;
        const float *first_bias = pass->first_bias, *second_bias = pass->second_bias;
        const float* summary = context->summary.data();
        float *g = gated.data(), *h = hidden.data(), *y = refined.data();
        multiply<N>(2 * blocks, n, packed(context->keys.data(), n), attention.data(), NR,
                    [=](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR / 2; ++i)
                for (int v = 0; v < N; ++v) {
                    const int at = (b * MR / 2 + i) * NR + v * W;
                    store(g + at, load(x + at) * tanh(sums[i][v]) + sums[i + MR / 2][v]);
                }
        });
        multiply<N>(blocks, size, packed(pass->first, size), g, NR, [=](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int row = b * MR + i;
                    store(h + row * NR + v * W, max(sums[i][v] + first_bias[row], Vec{}));
                }
        });
        Vec products[N] = {};
        multiply<N>(blocks, size, packed(pass->second, size), h, NR, [=, &products](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int row = b * MR + i, at = row * NR + v * W;
                    Vec refined = load(x + at) + sums[i][v] + second_bias[row];
                    products[v] += refined * summary[row];
                    store(y + at, refined);
                }
        });
        for (int v = 0; v < N; ++v) dots[v] = products[v];
        return y;
    }

    // Stage 7. The gate is a number per lane, so it moves out of the product with the weights.
    template <int N>
    const float* cross(const float* x, const Vec (&dots)[N]) {
        const int size = model->size, blocks = model->blocks();
        const float *scale_bias = pass->scale_bias, *out_bias = pass->out_bias, *summary = context->summary.data();
        float *u = gated.data(), *y = crossed.data();
        Vec gate[N];
        for (int v = 0; v < N; ++v) gate[v] = sigmoid(dots[v] * (1 / std::sqrt(float(size))));
        multiply<N>(blocks, size, packed(pass->scale, size), x, NR, [=, &gate](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int row = b * MR + i, at = row * NR + v * W;
                    Vec scale = tanh(gate[v] * sums[i][v] + scale_bias[row]);
                    store(u + at, gate[v] * load(x + at) * scale + summary[row]);
                }
        });
        multiply<N>(blocks, size, packed(pass->out, size), u, NR, [=](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int row = b * MR + i, at = row * NR + v * W;
                    store(y + at, load(x + at) + max(sums[i][v] + out_bias[row], Vec{}));
                }
        });
        return y;
    }

    // Add the lanes of the panel, times their shares, to the mean of their items, and update the maximum.
    void pool(const Tile::Panel& panel, const float* lanes, const float* shares) {
        const int width = model->width();
        for (int v = 0; v < panel.vectors; ++v)
            for (int row = 0; row < width; row += W) {
                transpose(lanes + row * NR + v * W, NR, block);
                for (const Tile::Run& run : panel.runs[v]) {
                    const size_t at = size_t(run.item) * width + row;
                    Vec sum = load(total.data() + at), peak = load(largest.data() + at);
                    for (int lane = run.from; lane < run.to; ++lane) {
                        Vec x = load(block + lane * W);
                        sum += x * shares[v * W + lane];
                        peak = max(peak, x);
                    }
                    store(total.data() + at, sum);
                    store(largest.data() + at, peak);
                }
            }
    }

    // Return the cosine of the pooled item and the context's summary.
    float compare_with_summary(int item) {
        const int width = model->width();
        float *sum = total.data() + size_t(item) * width, *peak = largest.data() + size_t(item) * width;
        for (int f = 0; f < width; f += W)
            store(sum + f, load(sum + f) + load(pass->max_weight + f) * load(peak + f));
        return dot(sum, context->summary.data(), width) / std::sqrt(dot(sum, sum, width) + EPS);
    }

    // Relation match: sum over k and the words i of <(a A_k)_i, (M_k a)_i>, with M_k,ij = <h_ki, p_kj>.
    void match_relations() {
        const size_t step = tile->step;
        for (size_t p = 0; p < tile->panels.size(); ++p)
            with_vectors(tile->panels[p].vectors, [&](auto n) { place_words<n.value>(int(p)); });
        for (int k = 0; k < model->kinds; ++k) {
            const float* edges = context->edges.data() + size_t(k) * context->blocks * context->n * MR;
            for (size_t p = 0; p < tile->panels.size(); ++p)
                with_vectors(tile->panels[p].vectors, [&](auto n) {
                    constexpr int N = n.value;
                    float* to = edged.data() + p * NR;
                    multiply<N>(context->blocks, context->n, packed(edges, context->n), places.data() + p * NR, step,
                                [&](int b, Vec(&sums)[MR][N]) {
                        for (int i = 0; i < MR; ++i)
                            for (int v = 0; v < N; ++v) store(to + (b * MR + i) * step + v * W, sums[i][v]);
                    });
                });
            for (size_t item = 0; item < tile->start.size(); ++item) {
                const int n = tile->size[item], padded = round_up(n, W), start = tile->start[item];
                const float* words = tile->words.data() + tile->words_at[item] + size_t(k) * n * padded;
                for (int at = 0; at < padded; at += NR)
                    with_vectors(std::min(NV, (padded - at) / W), [&](auto vectors) {
                        related[item] += match_item<vectors.value>(n, start, padded, words + at, start + at);
                    });
            }
        }
    }

    template <int N>
    float match_item(int n, int start, int padded, const float* words, int lane) {
        Vec total = {};
        const Left left = {placed.data() + size_t(start) * rows, size_t(rows), MR};
        multiply<N>(context->blocks, n, left, words, padded, [&](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v)
                    total += sums[i][v] * load(edged.data() + size_t(b * MR + i) * tile->step + lane + v * W);
        });
        return hire::sum(total);
    }

    // Fill `places`, the attention of the relation match, and its transpose `placed`.
    template <int N>
    void place_words(int p) {
        const size_t step = tile->step;
        const float* from = cosine.data() + p * NR;
        float* to = places.data() + p * NR;
        Vec peak[N], total[N] = {};
        for (Vec& x : peak) x = fill(-FLT_MAX);
        for (int r = 0; r < context->n; ++r)
            for (int v = 0; v < N; ++v) peak[v] = max(peak[v], load(from + r * step + v * W) * model->sharpness);
        for (int r = 0; r < context->n; ++r)
            for (int v = 0; v < N; ++v) {
                Vec x = exp(load(from + r * step + v * W) * model->sharpness - peak[v]);
                total[v] += x;
                store(to + r * step + v * W, x);
            }
        for (Vec& x : total) x = invert(x);
        for (int r = 0; r < context->n; ++r)
            for (int v = 0; v < N; ++v) store(to + r * step + v * W, load(to + r * step + v * W) * total[v]);
        for (int row = 0; row < rows; row += W)
            for (int v = 0; v < N; ++v) {
                transpose(to + row * step + v * W, step, block);
                for (int lane = 0; lane < W; ++lane)
                    store(placed.data() + (size_t(p) * NR + v * W + lane) * rows + row, load(block + lane * W));
            }
    }
};

}  // namespace hire
