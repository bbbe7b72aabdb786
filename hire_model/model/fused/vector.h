// Vectors of W floats through the vector extension of GCC and Clang, and the functions that the stages need.
//
// Each build is for one instruction set: AVX-512, AVX2 with FMA, or what every CPU of the architecture has (SSE2, NEON).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace hire {

// W: floats in a vector. MR: rows of a register block; MR * NV sums and NV + 1 operands fill the registers.
#if defined(__AVX512F__)
constexpr int W = 16, MR = 8;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int W = 8, MR = 4;
#elif defined(__aarch64__)
constexpr int W = 4, MR = 8;
#else
constexpr int W = 4, MR = 4;
#endif
constexpr int NV = 3;       // vectors in a row of a register block
constexpr int NR = NV * W;  // lanes of a panel
constexpr float EPS = 1e-12f;

typedef float Vec __attribute__((vector_size(W * sizeof(float))));
typedef int32_t Int __attribute__((vector_size(W * sizeof(float))));

typedef uint8_t Bytes __attribute__((vector_size(W)));

#define HIRE_INLINE inline __attribute__((always_inline))

constexpr int round_up(int n, int step) { return (n + step - 1) / step * step; }

HIRE_INLINE Vec load(const float* from) {
    Vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

HIRE_INLINE void store(float* to, Vec x) { std::memcpy(to, &x, sizeof x); }

HIRE_INLINE Vec fill(float x) { return x - Vec{}; }

HIRE_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }

HIRE_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }

// Store W flags as bytes, 0 or 1. `x` is the result of a comparison.
HIRE_INLINE void store_flags(uint8_t* to, Int x) {
    const Bytes bytes = __builtin_convertvector(x & 1, Bytes);
    std::memcpy(to, &bytes, sizeof bytes);
}

// Return flags as the result of a comparison.
HIRE_INLINE Int load_flags(const uint8_t* from) {
    Bytes bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(bytes, Int) != 0;
}

HIRE_INLINE float sum(Vec x) {
    float total = 0;
    for (int i = 0; i < W; ++i) total += x[i];
    return total;
}

// Return 1 / x for a normal x > 0: an estimate and one Newton step where a division takes many cycles.
HIRE_INLINE Vec invert(Vec x) {
#if defined(__AVX512F__)
    Vec y = (Vec)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
    return y + y * (1.0f - x * y);
#elif defined(__AVX2__)
    Vec y = (Vec)_mm256_rcp_ps((__m256)x);
    return y + y * (1.0f - x * y);
#else
    return 1.0f / x;
#endif
}

// Return exp(x) for x <= 88 (coefficients of Cephes' expf). Below -87 the result is exp(-87), about 1e-38.
HIRE_INLINE Vec exp(Vec x) {
    const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    x = max(x, fill(-87.0f));
    Vec shifted = x * 1.44269504f + round;
    Vec n = shifted - round;
    Vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (Vec)((Int)p + ((Int)shifted << 23));
}

// Return tanh(x) within 3e-7 (the rational function of Eigen and XLA).
HIRE_INLINE Vec tanh(Vec x) {
    x = min(max(x, fill(-7.90531110763549805f)), fill(7.90531110763549805f));
    Vec s = x * x;
    Vec p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
    p = p * s + -8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    Vec q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return x * p * invert(q);
}

HIRE_INLINE Vec sigmoid(Vec x) { return tanh(x * 0.5f) * 0.5f + 0.5f; }

// Return the sum of products of n floats.
inline float dot(const float* a, const float* b, int n) {
    Vec total = {};
    int i = 0;
    for (; i + W <= n; i += W) total += load(a + i) * load(b + i);
    float result = sum(total);
    for (; i < n; ++i) result += a[i] * b[i];
    return result;
}

#if defined(__clang__)
template <int STEP, int... I>
HIRE_INLINE void exchange(Vec& a, Vec& b, std::integer_sequence<int, I...>) {
    Vec low = __builtin_shufflevector(a, b, (I & STEP ? W + I - STEP : I)...);
    b = __builtin_shufflevector(a, b, (I & STEP ? W + I : I + STEP)...);
    a = low;
}
#else
template <int STEP, int... I>
HIRE_INLINE void exchange(Vec& a, Vec& b, std::integer_sequence<int, I...>) {
    Vec low = __builtin_shuffle(a, b, Int{(I & STEP ? W + I - STEP : I)...});
    b = __builtin_shuffle(a, b, Int{(I & STEP ? W + I : I + STEP)...});
    a = low;
}
#endif

template <int STEP>
HIRE_INLINE void transpose_step(Vec* rows) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
        if (!(i & STEP)) exchange<STEP>(rows[i], rows[i + STEP], std::make_integer_sequence<int, W>());
}

// Write the transpose of the W x W block at `from` (rows `step` apart) to `to` (rows `to_step` apart).
inline void transpose(const float* from, size_t step, float* to, size_t to_step = W) {
    Vec rows[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) rows[i] = load(from + i * step);
    transpose_step<1>(rows);
    transpose_step<2>(rows);
    if constexpr (W > 4) transpose_step<4>(rows);
    if constexpr (W > 8) transpose_step<8>(rows);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) store(to + i * to_step, rows[i]);
}

// Write the transpose of from [rows][vectors * W], rows `step` apart, to `to`, rows `to_step` apart. W divides `rows`.
inline void turn(const float* from, size_t step, int rows, int vectors, float* to, size_t to_step) {
    for (int v = 0; v < vectors; ++v)
        for (int row = 0; row < rows; row += W)
            transpose(from + row * step + v * W, step, to + size_t(v) * W * to_step + row, to_step);
}

}  // namespace hire
