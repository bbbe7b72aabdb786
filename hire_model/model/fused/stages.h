// Stages 6 to 8 for one context and one tile of lanes, as hire_model/model/interaction.py defines them.
#pragma once

#include "match.h"

namespace hire {

class Stages : protected Match {
   public:
    // Add the parts of the pass to the scores: scores[place[i]] for the item i of the packed list. With `training`,
    // all items are packed in their order, and `index` is the number of the context.
    void score(const Model& model_, const Pass& pass_, bool lanes_are_words, const Context& context_,
               const Tile& tile_, const int64_t* place, float* scores, const Training* training_ = nullptr,
               int64_t index_ = 0) {
        set(model_, pass_, lanes_are_words, context_, tile_, training_, index_);
        reserve();
        if (pass->first || align || relate) find_cosines();
        if (pass->first || align || pass->max_weight)
            for_panels([&](auto n, int p) { refine_panel<n.value>(p); });
        if (relate) match_relations();
        for (size_t item = 0; item < tile->start.size(); ++item) {
            const int n = tile->size[item];
            float part = align ? aligned[item] : 0;
            if (pass->max_weight) part += compare_with_summary(int(item));
            part /= model->parts;
            if (relate) {
                related[item] = std::tanh(related[item] / (std::max(n, 1) * std::sqrt(float(model->role))));
                part += model->related_share * related[item];
            }
            if (training) keep(int(item));
            scores[place[tile->begin + item]] += n && context->n ? part : NAN;
        }
    }

   protected:
    Floats gated, hidden, refined, crossed;  // [width][NR]
    Floats scaled, mixed, squashed;          // [width][NR] values that only the backward pass reads
    Floats total, largest;                   // [items][width] mean and maximum over the lanes of an item
    Floats places_of_largest;                // [items][width] which fragment of the item has the maximum

    void reserve() {
        const size_t items = tile->start.size(), width = model->width();
        reserve_attention();
        if (relate) reserve_match();
        for (Floats* x : {&gated, &hidden, &refined, &crossed}) x->resize(width * NR);
        if (training)
            for (Floats* x : {&scaled, &mixed, &squashed}) x->resize(width * NR);
        total.assign(items * width, 0.0f);
        largest.assign(items * width, -FLT_MAX);
        places_of_largest.assign(training ? items * width : 0, 0.0f);
    }

    template <int N>
    void refine_panel(int p) {
        const Tile::Panel& panel = tile->panels[p];
        if (pass->first || align) attend<N>(p, panel);
        if (align) align_words<N>(p, panel);
        if (!pass->max_weight) return;
        const float* lanes = panel_x(p);
        Vec dots[N] = {};
        if (pass->first) lanes = refine<N>(p, lanes, dots);
        if (pass->scale) {
            if (!pass->first) find_dots<N>(lanes, dots);
            lanes = cross<N>(p, lanes, dots);
        }
        if (training) pool<true>(p, lanes);
        else pool<false>(p, lanes);
    }

    template <int N>
    void find_dots(const float* lanes, Vec (&dots)[N]) {
        for (int f = 0; f < model->size; ++f)
            for (int v = 0; v < N; ++v) dots[v] += load(lanes + f * NR + v * W) * context->summary[f];
    }

    // Stage 6. Return the refined lanes, and add their products with the context's summary to `dots`.
    template <int N>
    const float* refine(int p, const float* x, Vec (&dots)[N]) {
        const int size = model->size, blocks = model->blocks(), n = context->n;
        const float *first_bias = pass->first_bias, *second_bias = pass->second_bias;
        const float* summary = context->summary.data();
        float *g = gated.data(), *h = hidden.data(), *y = refined.data(), *s = training ? scaled.data() : nullptr;
        multiply<N>(2 * blocks, n, packed(context->keys.data(), n), attention.data(), NR,
                    [=](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR / 2; ++i)
                for (int v = 0; v < N; ++v) {
                    const int at = (b * MR / 2 + i) * NR + v * W;
                    const Vec scale = tanh(sums[i][v]);
                    store(g + at, load(x + at) * scale + sums[i + MR / 2][v]);
                    if (s) store(s + at, scale);
                }
        });
        multiply<N>(blocks, size, packed(pass->first, size), g, NR, [=](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int row = b * MR + i;
                    store(h + row * NR + v * W, max(sums[i][v] + first_bias[row], Vec{}));
                }
        });
        if (training && training->dropout.rate) drop<N>(p, h);
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

    // Stage 7. Return the final lanes.
    template <int N>
    const float* cross(int p, const float* x, const Vec (&dots)[N]) {
        const float *out_bias = pass->out_bias, *u = mix<N>(x, dots);
        float* y = crossed.data();
        uint8_t* r = training ? raised(p) : nullptr;
        multiply<N>(model->blocks(), model->size, packed(pass->out, model->size), u, NR,
                    [=](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int row = b * MR + i, at = row * NR + v * W;
                    const Vec raise = max(sums[i][v] + out_bias[row], Vec{});
                    store(y + at, load(x + at) + raise);
                    if (r) store_flags(r + at, raise > Vec{});
                }
        });
        return y;
    }

    // The first half of stage 7. The gate is a number per lane, so it moves out of the product with the weights.
    template <int N>
    const float* mix(const float* x, const Vec (&dots)[N]) {
        const float *scale_bias = pass->scale_bias, *summary = context->summary.data();
        float *u = training ? mixed.data() : gated.data(), *s = training ? squashed.data() : nullptr;
        Vec gate[N];
        for (int v = 0; v < N; ++v) gate[v] = sigmoid(dots[v] * (1 / std::sqrt(float(model->size))));
        multiply<N>(model->blocks(), model->size, packed(pass->scale, model->size), x, NR,
                    [=, &gate](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int row = b * MR + i, at = row * NR + v * W;
                    Vec scale = tanh(gate[v] * sums[i][v] + scale_bias[row]);
                    store(u + at, gate[v] * load(x + at) * scale + summary[row]);
                    if (s) store(s + at, scale);
                }
        });
        return u;
    }

    // Where the ReLU of stage 7 was positive [width][NR], for the backward pass.
    uint8_t* raised(int p) const {
        return training->raised + size_t(index * training->panels + tile->first_panel + p) * model->width() * NR;
    }

    // Dropout of the hidden values [width][NR] of a panel.
    template <int N>
    void drop(int p, float* h) {
        uint32_t keys[NR] = {};
        for (int v = 0; v < N; ++v)
            for (const Tile::Run& run : tile->panels[p].runs[v])
                for (int lane = run.from; lane < run.to; ++lane) {
                    const int fragment = p * NR + v * W + lane - tile->start[run.item];
                    keys[v * W + lane] = training->dropout.find_key(index, tile->begin + run.item, fragment);
                }
        training->dropout.apply<N>(keys, h, model->width(), NR);
    }

    // Keep what the backward pass needs of a pair.
    void keep(int item) {
        const size_t width = model->width(), pair = size_t(index * training->items + tile->begin + item);
        if (pass->max_weight) {
            float* to = training->pooled + 3 * pair * width;
            for (const Floats* from : {&total, &largest, &places_of_largest})
                to = std::copy_n(from->data() + item * width, width, to);
        }
        if (relate) training->related[pair] = related[item];
    }

    // Add the lanes of a panel, times their shares, to the mean of their items, and update the maximum. PLACE: note
    // which fragment has it, the first one among equals.
    template <bool PLACE>
    void pool(int p, const float* lanes) {
        const Tile::Panel& panel = tile->panels[p];
        const int width = model->width();
        const float* shares = tile->mean_share.data() + p * NR;
        for (int v = 0; v < panel.vectors; ++v)
            for (int row = 0; row < width; row += W) {
                transpose(lanes + row * NR + v * W, NR, block);
                for (const Tile::Run& run : panel.runs[v]) {
                    const size_t at = size_t(run.item) * width + row;
                    const int first = p * NR + v * W - tile->start[run.item];
                    Vec sum = load(total.data() + at), peak = load(largest.data() + at), place = {};
                    if (PLACE) place = load(places_of_largest.data() + at);
                    for (int lane = run.from; lane < run.to; ++lane) {
                        Vec x = load(block + lane * W);
                        sum += x * shares[v * W + lane];
                        if (PLACE) place = x > peak ? fill(float(first + lane)) : place;
                        peak = max(peak, x);
                    }
                    store(total.data() + at, sum);
                    store(largest.data() + at, peak);
                    if (PLACE) store(places_of_largest.data() + at, place);
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
};

}  // namespace hire
