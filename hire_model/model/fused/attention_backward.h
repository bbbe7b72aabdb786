// The gradients of attention and alignment, which end in the unit vectors of both sides.
#pragma once

#include "match_backward.h"

namespace hire {

class AttentionBackward : protected MatchBackward {
   protected:
    Floats d_attention;             // [rows][NR]
    Floats d_leaky;                 // [rows][step]
    Floats d_lengths;               // [items][rows]
    Floats d_logits, grams;         // [rows][NR]
    Floats left, turned_attention;  // transposed matrices of a panel

    void reserve_attention_gradients() {
        const size_t panel = size_t(rows) * NR, step = tile->step;
        for (Floats* x : {&d_attention, &d_logits, &grams}) x->assign(panel, 0.0f);
        for (Floats* x : {&d_cosine, &d_leaky}) x->assign(rows * step, 0.0f);
        d_lengths.assign(tile->start.size() * rows, 0.0f);
        left.resize(std::max(turned_step(2 * model->width()), rows) * NR);
        turned_attention.resize(panel);
    }

    template <int N>
    void start_attention_gradients() {
        std::fill(d_attention.begin(), d_attention.end(), 0.0f);
        turn(attention.data(), NR, rows, N, turned_attention.data(), rows);
    }

    // Alignment: weight * product / sqrt(square), with the sums over regions product = sum a cosine length and
    // square = <a, gram a>.
    template <int N>
    void align_back(int p, const Tile::Panel& panel) {
        const int n = context->n;
        const float *from = cosine.data() + p * NR, *a = attention.data();
        float *d_from = d_cosine.data() + p * NR, *d_a = d_attention.data(), *g = grams.data();
        Vec product[N] = {}, square[N] = {};
        multiply<N>(context->blocks, n, packed(context->gram.data(), n), a, NR, [&](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR && b * MR + i < n; ++i)
                for (int v = 0; v < N; ++v) {
                    const int r = b * MR + i;
                    const Vec weight = load(a + r * NR + v * W);
                    store(g + r * NR + v * W, sums[i][v]);
                    square[v] += weight * sums[i][v];
                    product[v] += weight * load(from + r * tile->step + v * W) * context->length[r];
                }
        });
        float lanes[NR] = {};
        for (int v = 0; v < N; ++v)
            for (const Tile::Run& run : panel.runs[v])
                for (int lane = run.from; lane < run.to; ++lane)
                    lanes[v * W + lane] = upstream[run.item] / float(model->parts);
        Vec d_product[N], d_square[N];
        for (int v = 0; v < N; ++v) {
            float inverse[W];
            for (int i = 0; i < W; ++i) inverse[i] = 1 / std::sqrt(std::max(square[v][i], 0.0f) + EPS);
            const Vec scale = load(inverse), g_lane = load(lanes + v * W);
            float* d_weight = to_tile->weights.data() + p * NR + v * W;
            store(d_weight, load(d_weight) + g_lane * product[v] * scale);
            d_product[v] = g_lane * load(tile->share.data() + p * NR + v * W) * scale;
            d_square[v] = square[v] > Vec{} ? d_product[v] * product[v] * scale * scale * -0.5f : Vec{};
        }
        for (int r = 0; r < n; ++r)
            for (int v = 0; v < N; ++v) {
                const int at = r * NR + v * W;
                const Vec weight = load(a + at), c = load(from + r * tile->step + v * W);
                float *d_c = d_from + r * tile->step + v * W, *d_length = to_context->to_lengths.data() + r * W;
                store(d_a + at, load(d_a + at) + d_product[v] * c * context->length[r] +
                                    2 * d_square[v] * load(g + at));
                store(d_c, load(d_c) + d_product[v] * weight * context->length[r]);
                store(d_length, load(d_length) + d_product[v] * weight * c);
                store(g + at, d_square[v] * weight);
            }
        turn(g, NR, rows, N, left.data(), rows);
        add_outer(N * W, left.data(), rows, context->blocks, turned_attention.data(), rows, rows / W,
                  to_context->to_gram.data(), rows);
    }

    // The softmax, and the scale of its logits. Keep the gradient of LeakyReLU(cosine) apart from what goes through
    // the lengths, which is complete after the last panel.
    template <int N>
    void attend_back(int p, const Tile::Panel& panel) {
        const int n = context->n;
        const size_t step = tile->step;
        const float *from = cosine.data() + p * NR, *a = attention.data(), *d_a = d_attention.data();
        float *d = d_logits.data(), *d_direct = d_leaky.data() + p * NR;
        Vec mean[N] = {};
        for (int r = 0; r < n; ++r)
            for (int v = 0; v < N; ++v) mean[v] += load(a + r * NR + v * W) * load(d_a + r * NR + v * W);
        const Left scales = {lengths.data() + size_t(panel.first) * rows, size_t(rows), MR};
        multiply<N>(context->blocks, panel.items, scales, tile->member.data() + panel.members, NR,
                    [&](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR && b * MR + i < n; ++i)
                for (int v = 0; v < N; ++v) {
                    const int r = b * MR + i, at = r * NR + v * W;
                    const Vec logit = load(a + at) * (load(d_a + at) - mean[v]);
                    store(d_direct + r * step + v * W, logit * sums[i][v]);
                    store(d + at, logit * leaky(load(from + r * step + v * W)));
                }
        });
        for (int row = 0; row < rows; row += W)
            for (int v = 0; v < N; ++v) {
                transpose(d + row * NR + v * W, NR, block);
                for (const Tile::Run& run : panel.runs[v]) {
                    float* to = d_lengths.data() + size_t(run.item) * rows + row;
                    Vec total = load(to);
                    for (int lane = run.from; lane < run.to; ++lane) total += load(block + lane * W);
                    store(to, total);
                }
            }
    }

    // Turn the gradient of length = temperature / sqrt(sum of squares) into the factor of LeakyReLU(cosine).
    void find_length_gradients() {
        const float square = pass->temperature * pass->temperature;
        for (size_t i = 0; i < d_lengths.size(); ++i)
            d_lengths[i] *= -lengths[i] * lengths[i] * lengths[i] / square;
    }

    // The cosines: complete their gradient, and pass it to the directions of both sides.
    template <int N>
    void cosines_back(int p) {
        const Tile::Panel& panel = tile->panels[p];
        const int n = context->n, width = model->width();
        const size_t step = tile->step;
        const float* from = cosine.data() + p * NR;
        float* d = d_cosine.data() + p * NR;
        if (pass->first || align) {
            const float* d_direct = d_leaky.data() + p * NR;
            const Left factors = {d_lengths.data() + size_t(panel.first) * rows, size_t(rows), MR};
            multiply<N>(context->blocks, panel.items, factors, tile->member.data() + panel.members, NR,
                        [&](int b, Vec(&sums)[MR][N]) {
                for (int i = 0; i < MR && b * MR + i < n; ++i)
                    for (int v = 0; v < N; ++v) {
                        const size_t at = (b * MR + i) * step + v * W;
                        const Vec c = load(from + at), total = load(d_direct + at) + sums[i][v] * leaky(c);
                        store(d + at, load(d + at) + (c > Vec{} ? total : total * 0.1f));
                    }
            });
        }
        Vec projection[N] = {};
        for (int r = 0; r < n; ++r)
            for (int v = 0; v < N; ++v) projection[v] += load(from + r * step + v * W) * load(d + r * step + v * W);
        const float *x = panel_x(p), *inverse = tile->inverse.data() + p * NR;
        float* d_x = to_tile->x.data() + size_t(p) * width * NR;
        multiply<N>(model->blocks(), n, {to_context->directions.data(), size_t(width), MR}, d, step,
                    [&](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    const int at = (b * MR + i) * NR + v * W;
                    const Vec scale = load(inverse + v * W), direction = load(x + at) * scale;
                    store(d_x + at, load(d_x + at) + (sums[i][v] - direction * projection[v]) * scale);
                }
        });
        turn(d, step, rows, N, left.data(), rows);
        add_outer(N * W, left.data(), rows, context->blocks, turned->directions.data() + size_t(p) * NR * turned_step(width),
                  turned_step(width), width / W, to_context->to_directions.data(), width);
    }
};

}  // namespace hire
