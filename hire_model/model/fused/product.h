// The matrix product of all stages: a left matrix of weights or context, a right matrix whose lanes are fragments.
#pragma once

#include <type_traits>

#include "vector.h"

namespace hire {

// Left matrix in blocks of MR rows: element (block * MR + i, k) is data[block * block_step + k * step + i].
struct Left {
    const float* data;
    size_t step, block_step;
};

// A packed left matrix: [blocks][depth][MR].
inline Left packed(const float* data, int depth) { return {data, size_t(MR), size_t(MR) * depth}; }

// Write the MR x N sums of a register block. Not inlined: what follows must not take registers from the inner loop.
template <int N>
__attribute__((noinline)) void add_products(int depth, const float* left, size_t left_step, const float* right,
                                            size_t right_step, Vec (&out)[MR][N]) {
    Vec sums[MR][N];
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) sums[i][n] = Vec{};
    for (int k = 0; k < depth; ++k, left += left_step, right += right_step) {
        Vec columns[N];
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) columns[n] = load(right + n * W);
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i) {
            Vec row = fill(left[i]);
#pragma GCC unroll 3
            for (int n = 0; n < N; ++n) sums[i][n] += row * columns[n];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) out[i][n] = sums[i][n];
}

// Multiply a left matrix of `blocks` * MR rows with a right matrix [depth][N * W], rows `step` apart.
// `finish(block, sums)` gets the MR x N vectors of each block.
template <int N, class Finish>
HIRE_INLINE void multiply(int blocks, int depth, Left left, const float* right, size_t step, Finish finish) {
    Vec sums[MR][N];
    for (int block = 0; block < blocks; ++block) {
        add_products<N>(depth, left.data + block * left.block_step, left.step, right, step, sums);
        finish(block, sums);
    }
}

// Call run(N) with N as a compile-time constant, 1 to NV vectors.
template <class Run>
inline void with_vectors(int vectors, Run run) {
    if (vectors == 1) run(std::integral_constant<int, 1>());
    else if (vectors == 2) run(std::integral_constant<int, 2>());
    else run(std::integral_constant<int, 3>());
}

}  // namespace hire
