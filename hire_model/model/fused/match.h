// The relation match of one context and one tile of words, as hire_model/model/relations.py defines it.
#pragma once

#include "attention.h"

namespace hire {

class Match : protected Attention {
   protected:
    Floats related;                // [items] sums, then S_rel
    Floats places, placed, edged;  // [rows][step] attention, its transpose, and times an edge map

    void reserve_match() {
        related.assign(tile->start.size(), 0.0f);
        for (Floats* x : {&places, &placed, &edged}) x->assign(size_t(rows) * tile->step, 0.0f);
    }

    // Relation match: sum over k and the words i of <(a A_k)_i, (M_k a)_i>, with M_k,ij = <h_ki, p_kj>.
    void match_relations() {
        for_panels([&](auto n, int p) { place_words<n.value>(p); });
        for (int k = 0; k < model->kinds; ++k) {
            for_panels([&](auto n, int p) { find_edged<n.value>(k, p); });
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

    // Fill a panel of `edged`: the attention times the edge map k.
    template <int N>
    void find_edged(int k, int p) {
        const float* edges = context->edges.data() + size_t(k) * context->blocks * context->n * MR;
        float* to = edged.data() + p * NR;
        multiply<N>(context->blocks, context->n, packed(edges, context->n), places.data() + p * NR, tile->step,
                    [&](int b, Vec(&sums)[MR][N]) {
            for (int i = 0; i < MR; ++i)
                for (int v = 0; v < N; ++v) store(to + (b * MR + i) * tile->step + v * W, sums[i][v]);
        });
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
        turn(to, step, rows, N, placed.data() + size_t(p) * NR * rows, rows);
    }
};

}  // namespace hire
