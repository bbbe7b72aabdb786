// The gradient of the relation match, which `Match::match_relations` computes.
#pragma once

#include "gradients.h"

namespace hire {

class MatchBackward : protected Stages {
   protected:
    const TileTurned* turned;
    const float* upstream;  // [items] gradients of the scores
    ContextGradient* to_context;
    TileSums* to_tile;
    WeightSums* to_weights;
    Floats d_cosine;  // [rows][step]

    // S_rel = tanh(scale * sum over k of <edged, M placed>), with edged = A_k placed.
    void match_back() {
        const size_t step = tile->step;
        for (Floats* x : {&turned_edged, &d_places, &d_edged}) x->assign(rows * step, 0.0f);
        find_item_gradients();
        for_panels([&](auto n, int p) { place_words<n.value>(p); });
        for (int k = 0; k < model->kinds; ++k) {
            for_panels([&](auto n, int p) { find_edged<n.value>(k, p); });
            turn(edged.data(), step, rows, int(step / W), turned_edged.data(), rows);
            for (size_t item = 0; item < tile->start.size(); ++item) item_back(k, int(item));
            for_panels([&](auto n, int p) { edged_back<n.value>(k, p); });
            turn(d_edged.data(), step, rows, int(step / W), turned_edged.data(), rows);
            add_outer(tile->lanes, placed.data(), rows, context->blocks, turned_edged.data(), rows, rows / W,
                      to_context->to_edges.data() + size_t(k) * rows * rows, rows);
        }
        for_panels([&](auto n, int p) { places_back<n.value>(p); });
    }

   private:
    Floats d_related;       // [items] gradients of the sums
    Floats d_places, d_edged;  // [rows][step]
    Floats turned_edged;    // [step][rows]

    void find_item_gradients() {
        d_related.assign(tile->start.size(), 0.0f);
        for (size_t item = 0; item < d_related.size(); ++item) {
            const int n = tile->size[item];
            const float s = training->related[index * training->items + tile->begin + item];
            if (n && context->n)
                d_related[item] = upstream[item] * model->related_share * (1 - s * s) /
                                  (float(n) * std::sqrt(float(model->role)));
        }
    }

    // The words of an item: their products M, and both ends of the relations.
    void item_back(int k, int item) {
        const int n = tile->size[item], padded = round_up(n, W), start = tile->start[item];
        const size_t step = tile->step, words = tile->words_at[item] + size_t(k) * n * padded;
        const float d = d_related[item];
        for (int at = 0; at < padded; at += NR)
            with_vectors(std::min(NV, (padded - at) / W), [&](auto vectors) {
                constexpr int N = vectors.value;
                multiply<N>(context->blocks, n, {placed.data() + size_t(start) * rows, size_t(rows), MR},
                            tile->words.data() + words + at, padded, [&](int b, Vec(&sums)[MR][N]) {
                    for (int i = 0; i < MR; ++i)
                        for (int v = 0; v < N; ++v)
                            store(d_edged.data() + (b * MR + i) * step + start + at + v * W, sums[i][v] * d);
                });
                multiply<N>(context->blocks, n, {turned_edged.data() + size_t(start) * rows, size_t(rows), MR},
                            turned->words.data() + words + at, padded, [&](int b, Vec(&sums)[MR][N]) {
                    for (int i = 0; i < MR; ++i)
                        for (int v = 0; v < N; ++v) {
                            float* to = d_places.data() + (b * MR + i) * step + start + at + v * W;
                            store(to, load(to) + sums[i][v] * d);
                        }
                });
                multiply<N>((n + MR - 1) / MR, context->n, {places.data() + start, step, MR},
                            edged.data() + start + at, step, [&](int b, Vec(&sums)[MR][N]) {
                    for (int i = 0; i < MR && b * MR + i < n; ++i)
                        for (int v = 0; v < N; ++v) {
                            float* to = to_tile->words.data() + words + size_t(b * MR + i) * padded + at + v * W;
                            store(to, load(to) + sums[i][v] * d);
                        }
                });
            });
    }

    template <int N>
    void edged_back(int k, int p) {
        const size_t step = tile->step, map = size_t(context->blocks) * context->n * MR;
        float* to = d_places.data() + p * NR;
        multiply<N>(context->blocks, context->n, packed(to_context->edges.data() + k * map, context->n),
                    d_edged.data() + p * NR, step, [&](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) {
                    float* at = to + (b * MR + i) * step + v * W;
                    store(at, load(at) + sums[i][v]);
                }
        });
    }

    // The softmax of sharpness * cosine.
    template <int N>
    void places_back(int p) {
        const size_t step = tile->step;
        const float *from = cosine.data() + p * NR, *a = places.data() + p * NR, *d_a = d_places.data() + p * NR;
        Vec mean[N] = {}, d_sharpness = {};
        for (int r = 0; r < context->n; ++r)
            for (int v = 0; v < N; ++v) mean[v] += load(a + r * step + v * W) * load(d_a + r * step + v * W);
        for (int r = 0; r < context->n; ++r)
            for (int v = 0; v < N; ++v) {
                const size_t at = r * step + v * W;
                const Vec logit = load(a + at) * (load(d_a + at) - mean[v]);
                float* to = d_cosine.data() + p * NR + at;
                d_sharpness += logit * load(from + at);
                store(to, load(to) + logit * model->sharpness);
            }
        to_weights->sharpness += sum(d_sharpness);
    }
};

}  // namespace hire
