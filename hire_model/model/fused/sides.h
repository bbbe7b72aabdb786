// The two roles of an item (an image or a caption) in a pass. A pass refines the fragments of many items, the lanes,
// against one item, the context. Both are packed without padding.
#pragma once

#include <algorithm>
#include <vector>

#include "product.h"

namespace hire {

typedef std::vector<float> Floats;

// Encoded items as torch stores them; library.py has the same fields.
struct Items {
    const float* x;        // [count][longest][size]
    const uint8_t* mask;   // [count][longest]
    const float* related;  // edges [count][kinds][longest][longest], or roles [count][longest][2][kinds][role]
    const float* shares;   // [count][longest] shares of the fragments in means; null: equal shares
    int64_t count, longest;
};

// Weights of one pass: stages 6 and 7 and the pooling of stage 8. Left matrices are packed; a null stage is skipped.
struct Pass {
    const float *keys, *keys_bias;              // stage 6: right panels [..][size][NR], columns as in Context::keys
    const float *first, *first_bias, *second, *second_bias;
    const float *scale, *scale_bias, *out, *out_bias;  // stage 7
    const float* max_weight;                    // stage 8; null if the direction has no part in the score
    float temperature;
};

struct Model {
    int32_t size, kinds, role, parts, alignment;
    float sharpness, related_share;
    Pass on_words, on_regions;

    int width() const { return round_up(size, std::max(W, MR)); }  // size, padded
    int blocks() const { return width() / MR; }
};

// Return the rows of an item that are not padding.
inline void find_rows(const Items& items, int64_t item, std::vector<int>& rows) {
    rows.clear();
    for (int64_t row = 0; row < items.longest; ++row)
        if (items.mask[item * items.longest + row]) rows.push_back(int(row));
}

// Return the share of a fragment in the mean of an item with `count` fragments.
inline float find_share(const Items& items, int64_t item, int row, size_t count) {
    return items.shares ? items.shares[item * items.longest + row] : 1.0f / float(count);
}

// Write the unit vector of the mean of the rows of an item to `summary`.
inline void summarise(const Items& items, int64_t item, const std::vector<int>& rows, int size, float* summary) {
    const float* x = items.x + item * items.longest * size;
    std::fill(summary, summary + size, 0.0f);
    for (int row : rows) {
        const float share = find_share(items, item, row, rows.size());
        for (int p = 0; p < size; ++p) summary[p] += x[size_t(row) * size + p] * share;
    }
    float inverse = 1 / std::sqrt(dot(summary, summary, size) + EPS);
    for (int p = 0; p < size; ++p) summary[p] *= inverse;
}

struct Context {
    int n, blocks;   // fragments; blocks of MR of them
    Floats x;        // packed left [blocks][size][MR]
    Floats length;   // [n] sqrt(|x|^2 + EPS)
    Floats summary;  // [width]
    Floats keys;     // packed left [2 width / MR][n][MR]: a block has MR/2 scales, then the shifts of the same features
    Floats gram;     // packed left [blocks][n][MR] of <x_r, x_s>
    Floats edges;    // packed left [kinds][blocks][n][MR]: row s of the left matrix is column s of the edge map
    std::vector<int> rows;

    void prepare(const Model& model, const Pass& pass, const Items& items, int64_t item, bool is_image) {
        const int size = model.size;
        find_rows(items, item, rows);
        n = int(rows.size());
        blocks = (n + MR - 1) / MR;
        const float* from = items.x + item * items.longest * size;
        x.assign(size_t(blocks) * MR * size, 0.0f);
        length.assign(size_t(blocks) * MR, 1.0f);
        for (int r = 0; r < n; ++r) {
            const float* row = from + size_t(rows[r]) * size;
            float* to = x.data() + size_t(r / MR) * MR * size + r % MR;
            for (int p = 0; p < size; ++p) to[p * MR] = row[p];
            length[r] = std::sqrt(dot(row, row, size) + EPS);
        }
        summary.assign(model.width(), 0.0f);
        summarise(items, item, rows, size, summary.data());
        if (pass.keys) prepare_keys(model, pass);
        if (is_image && model.alignment) prepare_gram(size);
        if (is_image && model.kinds) prepare_edges(model, items, item);
    }

    void prepare_keys(const Model& model, const Pass& pass) {
        const int columns = 2 * model.width();
        keys.resize(size_t(n) * columns);
        for (int left = 0; left < columns; left += NR) {
            auto finish = [&](int block, Vec (&sums)[MR][NV]) {
                for (int i = 0; i < MR && block * MR + i < n; ++i)
                    for (int v = 0; v < NV; ++v) {
                        const int column = left + v * W;
                        if (column >= columns) continue;
                        float row[W];
                        store(row, sums[i][v] + load(pass.keys_bias + column));
                        for (int j = 0; j < W; j += std::min(W, MR)) {
                            const int c = column + j;
                            float* to = keys.data() + (size_t(c / MR) * n + block * MR + i) * MR + c % MR;
                            std::memcpy(to, row + j, std::min(W, MR) * sizeof(float));
                        }
                    }
            };
            multiply<NV>(blocks, model.size, packed(x.data(), model.size), pass.keys + size_t(left) * model.size, NR,
                         finish);
        }
    }

    void prepare_gram(int size) {
        typedef float Row __attribute__((vector_size(MR * sizeof(float))));
        gram.resize(size_t(blocks) * n * MR);
        for (int block = 0; block < blocks; ++block)
            for (int other = 0; other < blocks; ++other) {
                Row sums[MR] = {};
                const float *a = x.data() + size_t(block) * size * MR, *b = x.data() + size_t(other) * size * MR;
                for (int p = 0; p < size; ++p, a += MR, b += MR) {
                    Row left;
                    std::memcpy(&left, a, sizeof left);
#pragma GCC unroll 8
                    for (int j = 0; j < MR; ++j) sums[j] += left * b[j];
                }
                for (int j = 0; j < MR && other * MR + j < n; ++j)
                    std::memcpy(gram.data() + (size_t(block) * n + other * MR + j) * MR, &sums[j], sizeof(Row));
            }
    }

    void prepare_edges(const Model& model, const Items& items, int64_t item) {
        const int64_t longest = items.longest;
        edges.assign(size_t(model.kinds) * blocks * n * MR, 0.0f);
        for (int k = 0; k < model.kinds; ++k) {
            const float* map = items.related + (item * model.kinds + k) * longest * longest;
            float* to = edges.data() + size_t(k) * blocks * n * MR;
            for (int r = 0; r < n; ++r)
                for (int s = 0; s < n; ++s)
                    to[(size_t(s / MR) * n + r) * MR + s % MR] = map[rows[r] * longest + rows[s]];
        }
    }
};

// The fragments of several items side by side, in panels of NR lanes. An item may continue in the next panel.
struct Tile {
    struct Run {  // consecutive lanes of one item in one vector
        int item, from, to;
    };
    struct Panel {
        int vectors;                 // in use, 1 to NV
        int first, items;            // items with a lane in the panel
        size_t members;              // offset in `member`
        std::vector<Run> runs[NV];
    };
    int lanes, step;               // lanes in use; floats between two rows of a matrix over all lanes
    std::vector<Panel> panels;
    std::vector<int> start, size;  // first lane and number of lanes of each item
    int64_t begin;                 // position of the first item in the packed list
    int64_t first_panel;           // number of panels in the tiles before
    Floats x;                      // [panels][width][NR]
    Floats inverse, share;         // [lanes] 1 / length; weight in the alignment score
    Floats mean_share;             // [lanes] share in the mean of the item
    Floats member;                 // [items of the panel][NR], 1 where the lane belongs to the item
    Floats words;                  // <h_ki, p_kj> of each item: [kinds][j][i], i padded to W
    std::vector<size_t> words_at;  // offset of each item in `words`
};

constexpr int TILE = 8 * NR;  // lanes of a tile; a longer item has a tile of its own

// Pack items of a side into tiles.
class Packer {
   public:
    Packer(const Model& model, const Items& items, bool is_text) : model(model), items(items), is_text(is_text) {}

    void pack(const int64_t* order, int64_t count, std::vector<Tile>& tiles) {
        size_t used = 0;
        int64_t panels = 0;
        for (int64_t i = 0; i < count;) {
            if (used == tiles.size()) tiles.emplace_back();
            Tile& tile = tiles[used++];
            i = pack_tile(order, i, count, tile);
            tile.first_panel = panels;
            panels += int64_t(tile.panels.size());
        }
        tiles.resize(used);
    }

   private:
    const Model& model;
    const Items& items;
    const bool is_text;
    std::vector<std::vector<int>> rows;
    Floats ends;

    int64_t pack_tile(const int64_t* order, int64_t i, int64_t count, Tile& tile) {
        const int64_t begin = i;
        tile.lanes = 0, tile.begin = begin;
        tile.start.clear(), tile.size.clear();
        for (; i < count; ++i) {
            if (rows.size() <= size_t(i - begin)) rows.emplace_back();
            std::vector<int>& mine = rows[i - begin];
            find_rows(items, order[i], mine);
            if (i > begin && tile.lanes + int(mine.size()) > TILE) break;
            tile.start.push_back(tile.lanes), tile.size.push_back(int(mine.size()));
            tile.lanes += int(mine.size());
        }
        fill_lanes(order + begin, tile);
        fill_panels(tile);
        if (is_text && model.kinds) fill_words(order + begin, tile);
        return i;
    }

    void fill_lanes(const int64_t* order, Tile& tile) {
        const int size = model.size, width = model.width(), panels = std::max(1, (tile.lanes + NR - 1) / NR);
        tile.step = panels * NR + NR;
        tile.x.assign(size_t(panels) * width * NR, 0.0f);
        tile.inverse.assign(panels * NR, 0.0f);
        tile.share.assign(panels * NR, 0.0f);
        tile.mean_share.assign(panels * NR, 0.0f);
        tile.panels.resize(panels);
        for (size_t item = 0; item < tile.start.size(); ++item) {
            const float* from = items.x + order[item] * items.longest * size;
            float total = 0;
            for (int j = 0; j < tile.size[item]; ++j) {
                const int lane = tile.start[item] + j;
                const float* row = from + size_t(rows[item][j]) * size;
                float* to = tile.x.data() + size_t(lane / NR) * width * NR + lane % NR;
                for (int p = 0; p < size; ++p) to[size_t(p) * NR] = row[p];
                const float square = dot(row, row, size);
                tile.inverse[lane] = 1 / std::sqrt(square + EPS);
                tile.mean_share[lane] = find_share(items, order[item], rows[item][j], rows[item].size());
                total += tile.share[lane] = std::sqrt(square);
            }
            total = std::max(total, 1e-6f);
            for (int j = 0; j < tile.size[item]; ++j) tile.share[tile.start[item] + j] /= total;
        }
    }

    void fill_panels(Tile& tile) {
        tile.member.clear();
        int item = 0;
        for (size_t p = 0; p < tile.panels.size(); ++p) {
            Tile::Panel& panel = tile.panels[p];
            const int begin = int(p) * NR, end = std::min(tile.lanes, begin + NR);
            panel.vectors = std::max(1, (end - begin + W - 1) / W);
            for (auto& runs : panel.runs) runs.clear();
            const int count = int(tile.start.size());
            while (item < count && tile.start[item] + tile.size[item] <= begin) ++item;
            panel.first = item, panel.items = 0, panel.members = tile.member.size();
            for (int at = item; at < count && tile.start[at] < end; ++at, ++panel.items) {
                const int from = std::max(begin, tile.start[at]), to = std::min(end, tile.start[at] + tile.size[at]);
                tile.member.resize(tile.member.size() + NR, 0.0f);
                for (int lane = from; lane < to; ++lane) {
                    tile.member[tile.member.size() - NR + lane - begin] = 1;
                    auto& runs = panel.runs[(lane - begin) / W];
                    if (runs.empty() || runs.back().item != at) runs.push_back({at, (lane - begin) % W, 0});
                    runs.back().to = (lane - begin) % W + 1;
                }
            }
        }
    }

    void fill_words(const int64_t* order, Tile& tile) {
        const int kinds = model.kinds, role = model.role;
        tile.words_at.clear();
        size_t used = 0;
        for (int n : tile.size) tile.words_at.push_back(used), used += size_t(kinds) * n * round_up(n, W);
        tile.words.resize(used);
        for (size_t item = 0; item < tile.start.size(); ++item) {
            const int n = tile.size[item], padded = round_up(n, W);
            const float* roles = items.related + order[item] * items.longest * 2 * kinds * role;
            for (int k = 0; k < kinds; ++k) {
                ends.assign(size_t(role) * padded, 0.0f);
                for (int i = 0; i < n; ++i)
                    for (int d = 0; d < role; ++d)
                        ends[d * padded + i] = roles[(size_t(rows[item][i]) * 2 * kinds + k) * role + d];
                float* to = tile.words.data() + tile.words_at[item] + size_t(k) * n * padded;
                for (int j = 0; j < n; ++j) {
                    const float* second = roles + ((size_t(rows[item][j]) * 2 + 1) * kinds + k) * role;
                    for (int i = 0; i < padded; i += W) {
                        Vec total = {};
                        for (int d = 0; d < role; ++d) total += second[d] * load(ends.data() + d * padded + i);
                        store(to + size_t(j) * padded + i, total);
                    }
                }
            }
        }
    }
};

}  // namespace hire
