// Attention of the 49 positions that the latter block reads over all 196; see blocks.h.
//
// Neither keys nor values are formed, as they are linear in what a position holds, x: a score
// q.(K x) is (K^T q).x, and the mean of values V x under the softmax is V times the mean of x. The
// gradient passes the softmax as a product with the covariance of x under it. The way forward
// collects that, so that the way back need not visit the 196 positions again.
#pragma once

#include <cmath>
#include <limits>

#include "blocks.h"

namespace kt {

constexpr int PAIRS = CHANNELS * (CHANNELS + 1) / 2;  // of channels, i <= j

template <>
struct Passage<AttentionWeights> {
  Vec x[READ], query[READ], probe[READ];  // probe = K^T q / sqrt(channels): a score is its product with x
  Vec mean[READ], value[READ];            // the mean of x under the softmax, and V times that
  Vec products[PAIRS * READ_AREA];        // the means of x_i x_j
};

constexpr int QUERIES = 3;  // at once: more scores would not stay in the first-level cache

inline float attention_scale() { return 1 / std::sqrt(float(CHANNELS)); }

namespace detail {

// The softmax e [GROUP][196] of GROUP queries' scores, not yet divided by its sums.
template <int GROUP>
inline void exponentials(const Vec* h, const Vec* probe, Vec (&e)[GROUP][AREA], Vec (&sum)[GROUP]) {
  Vec top[GROUP];
#pragma GCC unroll 4
  for (int g = 0; g < GROUP; ++g) top[g] = splat(-std::numeric_limits<float>::infinity());
  for (int k = 0; k < AREA; ++k) {
    Vec score[GROUP] = {};
#pragma GCC unroll 6
    for (int c = 0; c < CHANNELS; ++c)
#pragma GCC unroll 4
      for (int g = 0; g < GROUP; ++g)
        score[g] = fma(probe[c * READ_AREA + g], h[c * AREA + k], score[g]);
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g) {
      e[g][k] = score[g];
      top[g] = maximum(score[g], top[g]);
    }
  }
  for (int g = 0; g < GROUP; ++g) {
    sum[g] = Vec{};
    for (int k = 0; k < AREA; ++k) sum[g] += e[g][k] = exponential(e[g][k] - top[g]);
  }
}

// Means of x under one query's softmax, and with PRODUCTS of its channels' products.
template <bool PRODUCTS>
inline void means(const Vec* h, const Vec* e, Vec sum, Vec* mean, Vec* products) {
  Vec first[CHANNELS] = {}, second[PAIRS] = {};
  for (int k = 0; k < AREA; ++k) {
    Vec x[CHANNELS];
#pragma GCC unroll 6
    for (int c = 0; c < CHANNELS; ++c) x[c] = h[c * AREA + k];
    int pair = 0;
#pragma GCC unroll 6
    for (int i = 0; i < CHANNELS; ++i) {
      if constexpr (PRODUCTS) {
        const Vec weighted = e[k] * x[i];
        first[i] += weighted;
#pragma GCC unroll 6
        for (int j = i; j < CHANNELS; ++j, ++pair) second[pair] = fma(weighted, x[j], second[pair]);
      } else {
        first[i] = fma(e[k], x[i], first[i]);
      }
    }
  }
  const Vec scale = 1.0f / sum;
  for (int c = 0; c < CHANNELS; ++c) mean[c * READ_AREA] = scale * first[c];
  if constexpr (PRODUCTS)
    for (int pair = 0; pair < PAIRS; ++pair) products[pair * READ_AREA] = scale * second[pair];
}

}  // namespace detail

template <bool LEARN>
inline void forward(const AttentionWeights& block, const Vec* h, Passage<AttentionWeights>& passage,
                    Vec* y) {
  auto& [x, query, probe, mean, value, products] = passage;
  const auto to = [](Vec* out) {
    return [out](int c, int at, const Vec* values, auto count) {
      for (int k = 0; k < count; ++k) out[c * READ_AREA + at + k] = values[k];
    };
  };
  take_read<CHANNELS>(h, x);
  pointwise_convolve<CHANNELS, CHANNELS>(x, block.query, ZEROS, {}, to(query));
  pointwise_input_gradient<CHANNELS, CHANNELS>(query, block.key, probe);
  for (Vec& element : probe) element *= attention_scale();
  in_groups<QUERIES>(READ_AREA, [&](auto count, int at) {
    constexpr int COUNT = decltype(count)::value;
    Vec e[COUNT][AREA], sum[COUNT];
    detail::exponentials<COUNT>(h, probe + at, e, sum);
    for (int g = 0; g < COUNT; ++g)
      detail::means<LEARN>(h, e[g], sum[g], mean + at + g, products + at + g);
  });
  pointwise_convolve<CHANNELS, CHANNELS>(mean, block.value, ZEROS, {}, to(value));
  pointwise_convolve<CHANNELS, CHANNELS>(value, block.proj, ZEROS, {},
                                         [&](int c, int at, const Vec* values, auto count) {
    for (int k = 0, p = c * READ_AREA + at; k < count; ++k, ++p) y[p] = values[k] + x[p];
  });
}

inline void backward(const AttentionWeights& block, const Vec*, const Vec*,
                     const Passage<AttentionWeights>& passage, Vec* dy,
                     AttentionWeights& gradient) {
  const auto& [x, query, probe, mean, value, products] = passage;
  Vec dvalue[READ], dmean[READ], dprobe[READ], dquery[READ];
  add_pointwise_weight_gradient<CHANNELS, CHANNELS>(value, dy, gradient.proj);
  pointwise_input_gradient<CHANNELS, CHANNELS>(dy, block.proj, dvalue);
  add_pointwise_weight_gradient<CHANNELS, CHANNELS>(mean, dvalue, gradient.value);
  pointwise_input_gradient<CHANNELS, CHANNELS>(dvalue, block.value, dmean);
  for (int k = 0; k < READ_AREA; ++k) {  // the covariance times dmean
    Vec inner = {}, sums[CHANNELS] = {};
    for (int i = 0, pair = 0; i < CHANNELS; ++i) {
      inner = fma(mean[i * READ_AREA + k], dmean[i * READ_AREA + k], inner);
      for (int j = i; j < CHANNELS; ++j, ++pair) {
        const Vec product = products[pair * READ_AREA + k];
        sums[i] = fma(product, dmean[j * READ_AREA + k], sums[i]);
        if (j > i) sums[j] = fma(product, dmean[i * READ_AREA + k], sums[j]);
      }
    }
    for (int i = 0; i < CHANNELS; ++i)
      dprobe[i * READ_AREA + k] = attention_scale() * fma(-inner, mean[i * READ_AREA + k], sums[i]);
  }
  // K^T q is linear in K and in q.
  add_pointwise_weight_gradient<CHANNELS, CHANNELS>(dprobe, query, gradient.key);
  pointwise_convolve<CHANNELS, CHANNELS>(dprobe, block.key, ZEROS, {},
                                         [&](int c, int at, const Vec* values, auto count) {
    for (int k = 0; k < count; ++k) dquery[c * READ_AREA + at + k] = values[k];
  });
  add_pointwise_weight_gradient<CHANNELS, CHANNELS>(x, dquery, gradient.query);
}

}  // namespace kt
