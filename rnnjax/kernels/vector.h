// Vectors of LANES floats, by the vector extensions of GCC and Clang: one source for AVX-512, AVX2,
// NEON and everything else. Elementary functions as JAX has them: NaN passes, tanh ends at ±1.
#include <cmath>
#include <cstdint>
#include <cstring>

#if BFLOAT16 && defined(__AVX512BF16__)
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
INLINE vec with_sign(vec x, vec of) {
  return (vec)((truth)absolute(x) | ((truth)of & fill_truth(-0x7fffffff - 1)));
}
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

// 2^n for −150 ≤ n ≤ 128, in two factors, because of the denormal results and of 2^128.
INLINE vec scale(vec x, vec n) {
  truth whole = __builtin_convertvector(n, truth), half = whole >> 1;
  vec first = (vec)((half + 127) << 23), second = (vec)((whole - half + 127) << 23);
  return x * first * second;
}

// Cephes' polynomial on |r| ≤ log(2) / 2, as in XLA and Eigen.
INLINE vec exponential(vec x) {
  vec y = minimum(maximum(x, fill(-104.f)), fill(89.f));
  vec shifted = y * fill(1.44269504088896341f) + fill(12582912.f);
  vec n = shifted - fill(12582912.f);
  vec r = y - n * fill(0.693359375f);
  r = r + n * fill(2.12194440e-4f);
  vec p = fill(1.9875691500e-4f);
  p = p * r + fill(1.3981999507e-3f);
  p = p * r + fill(8.3334519073e-3f);
  p = p * r + fill(4.1665795894e-2f);
  p = p * r + fill(1.6666665459e-1f);
  p = p * r + fill(5.0000001201e-1f);
  p = p * (r * r) + (r + fill(1.f));
  return choose(is_nan(x), x, scale(p, n));
}

INLINE vec logistic(vec x) { return fill(1.f) / (fill(1.f) + exponential(-x)); }

// Eigen's rational function, as in XLA; x itself where it is the nearest float, ±1 likewise.
INLINE vec hyperbolic_tangent(vec x) {
  vec y = minimum(maximum(x, fill(-7.90531110763549805f)), fill(7.90531110763549805f));
  vec s = y * y, p = fill(-2.76076847742355e-16f);
  p = p * s + fill(2.00018790482477e-13f);
  p = p * s + fill(-8.60467152213735e-11f);
  p = p * s + fill(5.12229709037114e-08f);
  p = p * s + fill(1.48572235717979e-05f);
  p = p * s + fill(6.37261928875436e-04f);
  p = (p * s + fill(4.89352455891786e-03f)) * y;
  vec q = fill(1.19825839466702e-06f);
  q = q * s + fill(1.18534705686654e-04f);
  q = q * s + fill(2.26843463243900e-03f);
  q = q * s + fill(4.89352518554385e-03f);
  vec size = absolute(x);
  vec small = choose(size < fill(4e-4f), x, p / q);
  return choose(size > fill(9.01f), with_sign(fill(1.f), x), small);
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
