// Sixteen networks side by side: one SIMD lane each, through the compiler's vector extensions.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace kt {

constexpr int LANES = 16;

typedef float Vec __attribute__((vector_size(64)));
typedef int32_t Int __attribute__((vector_size(64)));
typedef double Wide __attribute__((vector_size(128)));      // sums over a whole batch
typedef uint8_t Bytes __attribute__((vector_size(LANES)));  // small indices at rest

inline Vec splat(float value) { return value - Vec{}; }  // x - 0 is x, -0 included
inline Vec narrow(Wide x) { return __builtin_convertvector(x, Vec); }
inline Wide widen(Vec x) { return __builtin_convertvector(x, Wide); }
inline Int widen(Bytes x) {
#if defined(__AVX512F__)
  return (Int)_mm512_cvtepu8_epi32((__m128i)x);  // GCC converts vectors of bytes lane by lane
#else
  return __builtin_convertvector(x, Int);
#endif
}
inline Vec maximum(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);  // compilers make two instructions of the below
#else
  return a > b ? a : b;
#endif
}
inline Vec relu(Vec x) { return maximum(x, Vec{}); }

// `value` where `gate` is positive, else zero: the gradient through a ReLU with output `gate`.
inline Vec gated(Vec value, Vec gate) { return gate > 0 ? value : Vec{}; }

// table[index] for each lane, index in 0..31.
inline Vec lookup(const float* table, Int index) {
#if defined(__AVX512F__) && !defined(__clang__)
  Vec low, high;
  std::memcpy(&low, table, sizeof low);
  std::memcpy(&high, table + LANES, sizeof high);
  return __builtin_shuffle(low, high, index);
#else
  Vec out;
  for (int lane = 0; lane < LANES; ++lane) out[lane] = table[index[lane]];
  return out;
#endif
}

// e^x for x <= 0 (Cephes' single-precision polynomial), about 1 ulp; 0 below the normal numbers.
inline Vec exponential(Vec x) {
  const Vec round = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  x = maximum(x, splat(-87.0f));
  const Vec shifted = x * 1.44269504f + round;
  const Vec n = shifted - round;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec y = splat(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  Int bits, exponent;
  std::memcpy(&bits, &y, sizeof bits);
  std::memcpy(&exponent, &shifted, sizeof exponent);
  bits += exponent << 23;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

// Memory that will be needed soon, fetched into the second-level cache bit by bit during
// arithmetic: more at once than the processor can have under way would hold the arithmetic up.
class Ahead {
  const Vec *next_ = nullptr, *end_ = nullptr;

 public:
  Ahead() = default;
  Ahead(const Vec* begin, const Vec* end) : next_(begin), end_(end) {}

  template <int AT_ONCE>
  void fetch() {
    if (next_ >= end_) return;
    for (int k = 0; k < AT_ONCE; ++k) __builtin_prefetch(next_ + k, 0, 2);
    next_ += AT_ONCE;
  }
};

// While it lives, denormal numbers count as zero on this thread: the momentum of a dead weight
// decays into them, and they are a hundred times slower.
class FlushDenormals {
#if defined(__SSE__)
  unsigned saved_ = _mm_getcsr();

 public:
  FlushDenormals() { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  uint64_t saved_;

 public:
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (1u << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
 public:
  FlushDenormals() {}
#endif
  FlushDenormals(const FlushDenormals&) = delete;
};

}  // namespace kt
