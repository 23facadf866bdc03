// Vectors of LANES floats, by the vector extensions of GCC and Clang: one source for AVX-512, AVX2,
// NEON and everything else. Elementary functions as JAX has them: NaN passes, tanh ends at ±1.
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8;
constexpr int REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4;
constexpr int REGISTERS = 32;
#else
constexpr int LANES = 4;
constexpr int REGISTERS = 16;
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t truth __attribute__((vector_size(4 * LANES)));  // −1 or 0 a lane
typedef float unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float* p) { return *(const unaligned*)p; }
INLINE void store(float* p, vec x) { *(unaligned*)p = x; }
INLINE vec fill(float x) { return x - (vec){}; }
INLINE truth fill_truth(int32_t x) { return x - (truth){}; }

// Of N entries from j on: as many as there are, and zeros.
template <int N>
INLINE vec load_some(const float* p, int j) {
  if (N % LANES && j + LANES > N) {
    float part[LANES] = {};
    std::memcpy(part, p + j, N % LANES * sizeof(float));
    return load(part);
  }
  return load(p + j);
}

template <int N>
INLINE void store_some(float* p, int j, vec x) {
  if (N % LANES && j + LANES > N) {
    float part[LANES];
    store(part, x);
    std::memcpy(p + j, part, N % LANES * sizeof(float));
  } else {
    store(p + j, x);
  }
}

// The entries beyond N are zeros, whatever was computed there.
template <int N>
INLINE vec zero_beyond(vec x, int j) {
  if (N % LANES && j + LANES > N) {
    float part[LANES] = {};
    store_some<N>(part - j, j, x);
    return load(part);
  }
  return x;
}

INLINE vec choose(truth which, vec a, vec b) { return which ? a : b; }
INLINE truth is_nan(vec x) { return x != x; }

// --- bfloat16: the factors of products in half the bytes, two to a lane ---

typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

// To nearest, ties to even: the upper half of each lane.
INLINE words upper_half(vec x) {
  words bits = (words)x, nearest = bits + 0x7fff + ((bits >> 16) & 1);
  return (words)choose(is_nan(x), (vec)(bits | 0x400000), (vec)nearest) & 0xffff0000u;
}

INLINE halves round_to_halves(vec x) {
#if BFLOAT16 && defined(__AVX512BF16__)
  return (halves)_mm512_cvtneps_pbh((__m512)x);
#else
  return __builtin_convertvector(upper_half(x) >> 16, halves);
#endif
}

INLINE vec interleave(halves first, halves second) {
  auto widen = [](halves x) { return __builtin_convertvector(x, words); };
  return (vec)(widen(first) | widen(second) << 16);
}

INLINE vec pair(vec first, vec second) {
  return interleave(round_to_halves(first), round_to_halves(second));
}

// sum + w₀ x₀ + w₁ x₁.
INLINE vec add_pairs(vec sum, vec w, vec x) {
#if BFLOAT16 && defined(__AVX512BF16__)
  return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)x);
#else
  auto first = [](vec a) { return (vec)((words)a << 16); };
  auto second = [](vec a) { return (vec)((words)a & 0xffff0000u); };
  return sum + first(w) * first(x) + second(w) * second(x);
#endif
}

// --- arithmetic as JAX has it ---

INLINE vec maximum(vec a, vec b) { return choose((a > b) | is_nan(a), a, b); }
INLINE vec minimum(vec a, vec b) { return choose((a < b) | is_nan(a), a, b); }
INLINE vec clamp(vec low, vec x, vec high) { return minimum(maximum(x, low), high); }
INLINE vec absolute(vec x) { return (vec)((truth)x & fill_truth(0x7fffffff)); }
INLINE truth is_finite(vec x) { return absolute(x) < fill(__builtin_inff()); }
INLINE vec sign(vec x) {
  return choose(x > fill(0.f), fill(1.f), choose(x < fill(0.f), fill(-1.f), x));
}
INLINE vec number(truth x) { return choose(x, fill(1.f), fill(0.f)); }
INLINE truth nonzero(vec x) { return x != fill(0.f); }

INLINE float sum(vec x) {
  float total = 0;
  for (int lane = 0; lane < LANES; lane++) total += x[lane];
  return total;
}

// One instruction each, which compilers do not find for a constant: the second where either is NaN.
#if defined(__AVX512F__)
INLINE vec lower(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vec higher(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
#elif defined(__AVX__)
INLINE vec lower(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vec higher(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
#else
INLINE vec lower(vec a, vec b) { return choose(a < b, a, b); }
INLINE vec higher(vec a, vec b) { return choose(a > b, a, b); }
#endif

// x, but between two numbers, of which the first is the lower; NaN passes.
INLINE vec between(float low, vec x, float high) {
  return lower(fill(high), higher(fill(low), x));
}

// x = n log 2 + r, |r| ≤ log(2) / 2.
struct Reduced {
  truth bits;  // of them the lowest nine are those of n
  vec r;
};

INLINE Reduced reduce(vec x) {
  const vec magic = fill(12582912.f);  // 1.5 · 2²³, beside which nothing is left of a fraction
  vec shifted = x * fill(1.44269504088896341f) + magic, n = shifted - magic;
  vec r = x - n * fill(0.693359375f);
  return {(truth)shifted, r + n * fill(2.12194440e-4f)};
}

// exp(r) by Cephes' polynomial, as in XLA and Eigen.
INLINE vec exponential_of_reduced(vec r) {
  vec p = fill(1.9875691500e-4f);
  p = p * r + fill(1.3981999507e-3f);
  p = p * r + fill(8.3334519073e-3f);
  p = p * r + fill(4.1665795894e-2f);
  p = p * r + fill(1.6666665459e-1f);
  p = p * r + fill(5.0000001201e-1f);
  return p * (r * r) + (r + fill(1.f));
}

// 2^n for −127 < n < 128, of which the lowest nine bits count.
INLINE vec power_of_2(truth n) { return (vec)((n + 127) << 23); }

// 2^n takes two factors, because of denormal results and of 2^128.
INLINE vec exponential(vec x) {
  Reduced y = reduce(between(-104.f, x, 89.f));
  truth half = y.bits << 23 >> 24;
  return exponential_of_reduced(y.r) * power_of_2(half) * power_of_2(y.bits - half);
}

// 1 / (1 + exp(−x)), with 2 · 2^(n−1) for the 2^n of the exponential, which may be 2^128; below
// exp(−80) nothing of it is left beside 1.
INLINE vec logistic(vec x) {
  Reduced y = reduce(between(-80.f, -x, 89.f));
  vec half = exponential_of_reduced(y.r) * power_of_2(y.bits - 1);
  return fill(1.f) / (half * fill(2.f) + fill(1.f));
}

// x (p(x²) / q(x²) + a), fitted for the least relative error (2e-8) on |x| ≤ 8.9; beyond, it passes
// ±1, where it is cut. With a part of the sum taken out of the fraction less of it is rounded.
INLINE vec hyperbolic_tangent(vec x) {
  vec y = between(-9.2f, x, 9.2f), s = y * y;
  vec p = fill(1.5085323e-5f), q = fill(7.87716033e-7f);
  p = p * s + fill(3.05921608e-3f);
  p = p * s + fill(1.2583828e-1f);
  p = p * s + fill(9.82737243e-1f);
  q = q * s + fill(3.30359966e-4f);
  q = q * s + fill(2.59192809e-2f);
  q = q * s + fill(4.67237175e-1f);
  q = q * s + fill(1.f);
  return between(-1.f, y * (p / q + fill(1.72627065e-2f)), 1.f);
}

// What cells seldom use, lane by lane from the C library.
#define BY_LANES(name, function)                                          \
  INLINE vec name(vec x) {                                                \
    vec y;                                                                \
    for (int lane = 0; lane < LANES; lane++) y[lane] = function(x[lane]); \
    return y;                                                             \
  }
BY_LANES(arc_cosine, std::acos)
BY_LANES(arc_cosine_hyperbolic, std::acosh)
BY_LANES(arc_sine, std::asin)
BY_LANES(arc_sine_hyperbolic, std::asinh)
BY_LANES(arc_tangent, std::atan)
BY_LANES(arc_tangent_hyperbolic, std::atanh)
BY_LANES(cube_root, std::cbrt)
BY_LANES(ceiling, std::ceil)
BY_LANES(cosine, std::cos)
BY_LANES(cosine_hyperbolic, std::cosh)
BY_LANES(error_function, std::erf)
BY_LANES(error_function_rest, std::erfc)
BY_LANES(exponential_2, std::exp2)
BY_LANES(exponential_minus_1, std::expm1)
BY_LANES(floor_down, std::floor)
BY_LANES(logarithm, std::log)
BY_LANES(logarithm_of_1_plus, std::log1p)
BY_LANES(sine, std::sin)
BY_LANES(sine_hyperbolic, std::sinh)
BY_LANES(square_root, std::sqrt)
BY_LANES(tangent, std::tan)
#undef BY_LANES

INLINE vec power(vec x, vec y) {
  vec z;
  for (int lane = 0; lane < LANES; lane++) z[lane] = std::pow(x[lane], y[lane]);
  return z;
}

INLINE vec arc_tangent_2(vec y, vec x) {
  vec z;
  for (int lane = 0; lane < LANES; lane++) z[lane] = std::atan2(y[lane], x[lane]);
  return z;
}
