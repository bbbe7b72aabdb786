// Dropout whose mask is a function of a seed and of the position, so that the backward pass can draw it again.
#pragma once

#include "vector.h"

namespace hire {

typedef uint32_t Bits __attribute__((vector_size(W * sizeof(uint32_t))));

struct Dropout {
    int64_t seed;
    int32_t rate;  // of 256 values, this many are dropped

    float scale() const { return 256.0f / float(256 - rate); }

    // Return the key of fragment `n` of an item in the pair (context, item): the finaliser of SplitMix64.
    uint32_t find_key(int64_t context, int64_t item, int n) const {
        uint64_t x = (uint64_t(context) << 40) + (uint64_t(item) << 16) + uint64_t(n);
        x = uint64_t(seed) + (x + 1) * 0x9e3779b97f4a7c15u;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        return uint32_t(x >> 32);
    }

    // Return four random bytes per lane, for the features 4 * `four` to 4 * `four` + 3 (Wellons' lowbias32).
    static Bits draw(Bits keys, uint32_t four) {
        Bits x = keys + four * 0x9e3779b9u;
        x = (x ^ (x >> 16)) * 0x7feb352du;
        x = (x ^ (x >> 15)) * 0x846ca68bu;
        return x ^ (x >> 16);
    }

    // Drop and scale values of x [width][N * W], rows `step` apart. `keys` has one key per lane.
    template <int N>
    void apply(const uint32_t* keys, float* x, int width, size_t step) const {
        for (int row = 0; row < width; row += 4)
            for (int v = 0; v < N; ++v) {
                Bits lanes;
                std::memcpy(&lanes, keys + v * W, sizeof lanes);
                const Bits bytes = draw(lanes, uint32_t(row / 4));
                for (int i = 0; i < 4; ++i) {
                    float* at = x + (row + i) * step + v * W;
                    store(at, (Int)((bytes >> (8 * i)) & 255u) < rate ? Vec{} : load(at) * scale());
                }
            }
    }
};

}  // namespace hire
