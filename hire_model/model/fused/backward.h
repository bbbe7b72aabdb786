// The gradients of stages 6 to 8 for one context and one tile of lanes. The forward pass keeps only what `Training`
// lists; everything else is computed again, panel by panel, and stays in the cache.
//
// `d_` marks the gradient of a value.
#pragma once

#include "attention_backward.h"

namespace hire {

class Backward : AttentionBackward {
   public:
    // Add the gradients of the scores [items of the tile], `upstream`, to the sums.
    void run(const Model& model_, const Pass& pass_, bool lanes_are_words, const Context& context_,
             ContextGradient& context_sums, const Tile& tile_, const TileTurned& turned_, const Training& training_,
             int64_t index_, const float* upstream_, TileSums& tile_sums, WeightSums& weight_sums) {
        set(model_, pass_, lanes_are_words, context_, tile_, &training_, index_);
        turned = &turned_, upstream = upstream_;
        to_context = &context_sums, to_tile = &tile_sums, to_weights = &weight_sums;
        reserve();
        reserve_gradients();
        if (pass->first || align || relate) find_cosines();
        if (relate) match_back();
        if (pass->max_weight)
            for (size_t item = 0; item < tile->start.size(); ++item) compare_back(int(item));
        for_panels([&](auto n, int p) { panel_back<n.value>(p); });
        if (pass->first || align) find_length_gradients();
        if (pass->first || align || relate) for_panels([&](auto n, int p) { cosines_back<n.value>(p); });
    }

   private:
    Floats d_pooled;                                   // [items][width]
    Floats d_refined, d_hidden, d_gated, gated_again;  // [width][NR]
    Floats d_attended;                                 // [2 width][NR]
    Floats right;                                      // a transposed matrix of a panel

    void reserve_gradients() {
        const size_t width = model->width();
        reserve_attention_gradients();
        d_pooled.assign(tile->start.size() * width, 0.0f);
        for (Floats* x : {&d_refined, &d_hidden, &d_gated, &gated_again}) x->resize(width * NR);
        d_attended.resize(2 * width * NR);
        right.resize(size_t(turned_step(int(width))) * NR);
    }

    // Stage 8: the cosine of a pooled item and the context's summary.
    void compare_back(int item) {
        const int width = model->width();
        if (!tile->size[item] || !context->n) return;
        const float* v = training->pooled + size_t(index * training->items + tile->begin + item) * 3 * width;
        float *d = d_pooled.data() + size_t(item) * width, *place = places_of_largest.data() + size_t(item) * width;
        const float* summary = context->summary.data();
        const float inverse = 1 / std::sqrt(dot(v, v, width) + EPS), cosine = dot(v, summary, width) * inverse;
        const float scale = upstream[item] / float(model->parts) * inverse;
        for (int f = 0; f < width; f += W) {
            const Vec x = load(v + f) * inverse, gradient = (load(summary + f) - x * cosine) * scale;
            store(d + f, gradient);
            store(place + f, load(v + 2 * width + f));
            float* weight = to_weights->max_weight.data() + f;
            store(weight, load(weight) + gradient * load(v + width + f));
            const Vec to_summary = load(v + f) * scale;
            for (int i = 0; i < W; ++i) to_context->to_summary[(f + i) * W] += to_summary[i];
        }
    }

    // Compute a panel again, then its gradients in the reverse order.
    template <int N>
    void panel_back(int p) {
        const Tile::Panel& panel = tile->panels[p];
        if (pass->first || align) {
            attend<N>(p, panel);
            start_attention_gradients<N>();
        }
        if (align) align_back<N>(p, panel);
        if (pass->max_weight) fragments_back<N>(p);
        if (pass->first || align) attend_back<N>(p, panel);
    }

    // Stages 6 to 8 without the alignment: the fragments and their pooling.
    template <int N>
    void fragments_back(int p) {
        const float *x = panel_x(p), *y = x;
        float *d = d_refined.data(), *d_x = to_tile->x.data() + size_t(p) * model->width() * NR;
        Vec dots[N] = {};
        pool_back(p, d);
        if (pass->first) y = refine<N>(p, x, dots);
        if (pass->scale) {
            if (!pass->first) find_dots<N>(x, dots);
            mix<N>(y, dots);
            cross_back<N>(p, y, dots, d);
        }
        for (int row = 0; row < model->width(); ++row)
            for (int v = 0; v < N; ++v) {
                const int at = row * NR + v * W;
                store(d_x + at, load(d_x + at) + load(d + at));
            }
        if (pass->first) refine_back<N>(x, d, d_x);
    }

    // Write the gradient of the lanes of a panel. Among equal maxima, the first one gets the gradient.
    void pool_back(int p, float* to) {
        const Tile::Panel& panel = tile->panels[p];
        const int width = model->width();
        const float* shares = tile->mean_share.data() + p * NR;
        for (int v = 0; v < panel.vectors; ++v)
            for (int row = 0; row < width; row += W) {
                std::fill(block, block + W * W, 0.0f);
                for (const Tile::Run& run : panel.runs[v]) {
                    const size_t at = size_t(run.item) * width + row;
                    const int first = p * NR + v * W - tile->start[run.item];
                    const Vec d = load(d_pooled.data() + at), d_peak = d * load(pass->max_weight + row);
                    const Vec place = load(places_of_largest.data() + at);
                    for (int lane = run.from; lane < run.to; ++lane)
                        store(block + lane * W, d * shares[v * W + lane] +
                                                    (place == fill(float(first + lane)) ? d_peak : Vec{}));
                }
                transpose(block, W, to + row * NR + v * W, NR);
            }
    }

    // Stage 7: o = y + ReLU(out(u tanh(scale(u)) + summary)), u = gate y. `d` is the gradient of o, then of y.
    template <int N>
    void cross_back(int p, const float* y, const Vec (&dots)[N], float* d) {
        const int size = model->size, width = model->width(), blocks = model->blocks();
        const float *s = squashed.data(), *summary = context->summary.data();
        const uint8_t* r = raised(p);
        float *u = gated_again.data(), *d_out = d_hidden.data(), *d_u = d_gated.data(), *d_scale = d_attended.data();
        float* to_summary = to_context->to_summary.data();
        const float root = 1 / std::sqrt(float(size));
        Vec gate[N], d_gate[N] = {};
        for (int v = 0; v < N; ++v) gate[v] = sigmoid(dots[v] * root);
        for (int row = 0; row < width; ++row)
            for (int v = 0; v < N; ++v) {
                const int at = row * NR + v * W;
                store(d_out + at, load_flags(r + at) ? load(d + at) : Vec{});
                store(u + at, gate[v] * load(y + at));
            }
        add_weights<N>(d_out, mixed.data(), to_weights->out, to_weights->out_bias);
        multiply<N>(blocks, size, packed(training->out, size), d_out, NR, [=](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i) {
                const int row = b * MR + i;
                Vec total = load(to_summary + row * W);
                for (int v = 0; v < N; ++v) {
                    const int at = row * NR + v * W;
                    const Vec scale = load(s + at);
                    store(d_u + at, sums[i][v] * scale);
                    store(d_scale + at, sums[i][v] * load(u + at) * (1.0f - scale * scale));
                    total += sums[i][v];
                }
                store(to_summary + row * W, total);
            }
        });
        add_weights<N>(d_scale, u, to_weights->scale, to_weights->scale_bias);
        multiply<N>(blocks, size, packed(training->scale, size), d_scale, NR, [=, &d_gate](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int at = (b * MR + i) * NR + v * W;
                    const Vec gradient = load(d_u + at) + sums[i][v];
                    store(d_u + at, gradient);
                    d_gate[v] += gradient * load(y + at);
                }
        });
        for (int v = 0; v < N; ++v) d_gate[v] *= gate[v] * (1.0f - gate[v]) * root;  // now of <y, summary>
        for (int row = 0; row < width; ++row) {
            Vec total = load(to_summary + row * W);
            for (int v = 0; v < N; ++v) {
                const int at = row * NR + v * W;
                store(d + at, load(d + at) + gate[v] * load(d_u + at) + d_gate[v] * summary[row]);
                total += d_gate[v] * load(y + at);
            }
            store(to_summary + row * W, total);
        }
    }

    // Stage 6: y = x + second(h), h = dropout(ReLU(first(g))), g = x tanh(scale) + shift, (scale, shift) = keys a. `d` is
    // the gradient of y.
    template <int N>
    void refine_back(const float* x, const float* d, float* d_x) {
        const int size = model->size, width = model->width(), blocks = model->blocks();
        const float *h = hidden.data(), *s = scaled.data();
        float *d_h = d_hidden.data(), *d_scale = d_attended.data(), *d_shift = d_scale + size_t(width) * NR;
        const float dropped = training->dropout.scale();
        add_weights<N>(d, h, to_weights->second, to_weights->second_bias);
        multiply<N>(blocks, size, packed(training->second, size), d, NR, [=](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int at = (b * MR + i) * NR + v * W;
                    store(d_h + at, load(h + at) > Vec{} ? sums[i][v] * dropped : Vec{});
                }
        });
        add_weights<N>(d_h, gated.data(), to_weights->first, to_weights->first_bias);
        multiply<N>(blocks, size, packed(training->first, size), d_h, NR, [=](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int at = (b * MR + i) * NR + v * W;
                    const Vec scale = load(s + at), gradient = sums[i][v];
                    store(d_x + at, load(d_x + at) + gradient * scale);
                    store(d_scale + at, gradient * load(x + at) * (1.0f - scale * scale));
                    store(d_shift + at, gradient);
                }
        });
        const int step = turned_step(2 * width);
        turn(d_scale, NR, 2 * width, N, left.data(), step);
        add_outer(N * W, turned_attention.data(), rows, context->blocks, left.data(), step, 2 * width / W,
                  to_context->to_keys.data(), 2 * width);
        float* d_a = d_attention.data();
        multiply<N>(context->blocks, 2 * width, packed(to_context->keys.data(), 2 * width), d_scale, NR,
                    [=](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    float* at = d_a + (b * MR + i) * NR + v * W;
                    store(at, load(at) + sums[i][v]);
                }
        });
    }

    // Add the gradients of a layer's weight and bias, of its output's gradient and its input, both [width][NR].
    template <int N>
    void add_weights(const float* d_output, const float* input, Floats& weight, Floats& bias) {
        const int width = model->width(), step = turned_step(width);
        turn(d_output, NR, width, N, left.data(), step);
        turn(input, NR, width, N, right.data(), step);
        add_outer(N * W, left.data(), step, model->blocks(), right.data(), step, width / W, weight.data(), width);
        for (int f = 0; f < width; f += W) {
            Vec total = load(bias.data() + f);
            for (int lane = 0; lane < N * W; ++lane) total += load(left.data() + lane * step + f);
            store(bias.data() + f, total);
        }
    }

};

}  // namespace hire
