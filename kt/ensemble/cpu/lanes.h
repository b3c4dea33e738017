// Networks side by side, one SIMD lane each: as many as a register holds floats. What depends on
// the instruction set is chosen here.
//
// Every fused multiply-add is written as one, and compilers fuse no others (-ffp-contract=off), so
// that a lane's result is the same to the last bit for all instruction sets that have them.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace kt {

#if defined(KT_GENERIC)
constexpr int LANES = 4, REGISTERS = 16;
#elif defined(__AVX512F__)
#define KT_AVX512 1
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX2__) && defined(__FMA__)
#define KT_AVX2 1
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define KT_NEON 1
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

// Convolutions keep tiles of up to OUTS output channels x SPAN positions in registers, beside weights
// and inputs; their results are handed on, and summed, up to TILE positions at a time (tiles.h).
constexpr int OUTS = 3, TILE = 8, SPAN = REGISTERS == 32 ? 8 : 4;

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Int __attribute__((vector_size(4 * LANES)));
typedef double Wide __attribute__((vector_size(8 * LANES)));  // sums over a whole batch
typedef uint8_t Bytes __attribute__((vector_size(LANES)));    // small indices at rest

inline Vec splat(float value) { return value - Vec{}; }  // x - 0 is x, -0 included
inline Wide splat(double value) { return value - Wide{}; }
inline Vec narrow(Wide x) { return __builtin_convertvector(x, Vec); }
inline Wide widen(Vec x) { return __builtin_convertvector(x, Wide); }
inline Int widen(Bytes x) {
#if KT_AVX512
  return (Int)_mm512_cvtepu8_epi32((__m128i)x);  // GCC converts vectors of bytes lane by lane
#elif KT_AVX2
  return (Int)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&x)));
#else
  return __builtin_convertvector(x, Int);
#endif
}

// a * b + c, rounded once where the processor can.
inline Vec fma(Vec a, Vec b, Vec c) {
#if KT_AVX512
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif KT_AVX2
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif KT_NEON
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
inline Wide fma(Wide a, Wide b, Wide c) {
#if KT_AVX512 || KT_AVX2 || KT_NEON
  for (int lane = 0; lane < LANES; ++lane) c[lane] = __builtin_fma(a[lane], b[lane], c[lane]);
  return c;
#else
  return a * b + c;
#endif
}

inline Vec maximum(Vec a, Vec b) {  // b where they are equal
#if KT_AVX512
  return (Vec)_mm512_max_ps((__m512)a, (__m512)b);  // compilers make two instructions of the below
#elif KT_AVX2
  return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
inline Vec relu(Vec x) { return maximum(x, Vec{}); }

// `value` where `gate` is positive, else zero: the gradient through a ReLU with output `gate`.
inline Vec gated(Vec value, Vec gate) { return gate > 0 ? value : Vec{}; }

// table[index] for each lane, index in 0..15; all sixteen must be there.
inline Vec lookup(const float* table, Int index) {
#if KT_AVX512
  return (Vec)_mm512_permutexvar_ps((__m512i)index, _mm512_loadu_ps(table));
#elif KT_AVX2
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)index);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), (__m256i)index);
  return (Vec)_mm256_blendv_ps(low, high, (__m256)(index << 28));  // by bit 3
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
  const Vec shifted = fma(x, splat(1.44269504f), round);
  const Vec n = shifted - round;
  const Vec r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), x));
  Vec y = splat(1.9875691500e-4f);
  y = fma(y, r, splat(1.3981999507e-3f));
  y = fma(y, r, splat(8.3334519073e-3f));
  y = fma(y, r, splat(4.1665795894e-2f));
  y = fma(y, r, splat(1.6666665459e-1f));
  y = fma(y, r, splat(5.0000001201e-1f));
  y = fma(y * r, r, r) + 1.0f;
  Int bits, exponent;
  std::memcpy(&bits, &y, sizeof bits);
  std::memcpy(&exponent, &shifted, sizeof exponent);
  bits += exponent << 23;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

// Writes past the caches what nobody reads soon, where the processor can.
inline void write_past(Vec value, Vec* target) {
#if KT_AVX512
  _mm512_stream_ps(reinterpret_cast<float*>(target), (__m512)value);
#elif KT_AVX2
  _mm256_stream_ps(reinterpret_cast<float*>(target), (__m256)value);
#else
  *target = value;
#endif
}

// Memory that will be needed soon, fetched into the second-level cache line by line during
// arithmetic: more at once than the processor can have under way would hold the arithmetic up.
class Ahead {
  static constexpr int LINE = 64;
  const char *next_ = nullptr, *end_ = nullptr;

 public:
  Ahead() = default;
  Ahead(const Vec* begin, const Vec* end)
      : next_(reinterpret_cast<const char*>(begin)), end_(reinterpret_cast<const char*>(end)) {}

  template <int AT_ONCE>
  void fetch() {
    if (next_ >= end_) return;
    for (int k = 0; k < AT_ONCE; ++k) __builtin_prefetch(next_ + k * LINE, 0, 2);
    next_ += AT_ONCE * LINE;
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
