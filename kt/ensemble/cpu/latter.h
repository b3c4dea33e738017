// The latter block after its batch norm is known, and the loss.
#pragma once

#include <cmath>

#include "former.h"
#include "pointwise.h"

namespace kt {

constexpr int CLASSES = 10;
constexpr int WIDTH = 2 * CHANNELS;          // channels of the latter convolution
constexpr int FEATURES = WIDTH * READ_AREA;  // inputs of the linear layer

// The linear layer's weights [10][588] as [588][10], which the functions below read in order.
inline void transpose_linear(const Vec* w, Vec* transposed) {
  for (int k = 0; k < FEATURES; ++k)
    for (int o = 0; o < CLASSES; ++o) transposed[k * CLASSES + o] = w[o * FEATURES + k];
}

// Linear layer on GROUP images at once: features [GROUP][588] -> logits [GROUP][10].
template <int GROUP>
inline void classify(const Vec* features, const Vec* w, const Vec* bias, Vec* logits) {
  constexpr int OUTPUTS = GROUP > 2 ? 5 : 10;
  for (int first = 0; first < CLASSES; first += OUTPUTS) {
    Vec acc[GROUP][OUTPUTS];
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g)
#pragma GCC unroll 10
      for (int o = 0; o < OUTPUTS; ++o) acc[g][o] = bias[first + o];
    for (int k = 0; k < FEATURES; ++k)
#pragma GCC unroll 10
      for (int o = 0; o < OUTPUTS; ++o) {
        const Vec weight = w[k * CLASSES + first + o];
#pragma GCC unroll 4
        for (int g = 0; g < GROUP; ++g)
          acc[g][o] = fma(weight, features[g * FEATURES + k], acc[g][o]);
      }
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g)
#pragma GCC unroll 10
      for (int o = 0; o < OUTPUTS; ++o) logits[g * CLASSES + first + o] = acc[g][o];
  }
}

// `weight` times the softmax in place of the logits [10]; returns the logarithm of the sum of their
// exponentials. Never inlined: how a caller's arithmetic is contracted with it would depend on what
// else is compiled.
[[gnu::noinline]] inline Vec softmax(Vec* logits, float weight, bool log_sum) {
  Vec top = logits[0], sum = {};
  for (int o = 1; o < CLASSES; ++o) top = maximum(logits[o], top);
  for (int o = 0; o < CLASSES; ++o) sum += logits[o] = exponential(logits[o] - top);
  const Vec scale = weight / sum;
  for (int o = 0; o < CLASSES; ++o) logits[o] *= scale;
  if (log_sum)
    for (int lane = 0; lane < LANES; ++lane) top[lane] += std::log(sum[lane]);
  return top;
}

// The gradient of `weight` times the cross-entropy with `label`, in place of the logits [10].
inline void cross_entropy_gradient(Vec* logits, int64_t label, float weight) {
  softmax(logits, weight, false);
  logits[label] -= weight;
}

// The same with the probabilities `target` [10]; returns the cross-entropy.
inline Vec soft_cross_entropy_gradient(Vec* logits, const Vec* target, float weight) {
  Vec inner = {};
  for (int o = 0; o < CLASSES; ++o) inner = fma(target[o], logits[o], inner);
  const Vec log_sum = softmax(logits, weight, true);
  for (int o = 0; o < CLASSES; ++o) logits[o] = fma(splat(-weight), target[o], logits[o]);
  return log_sum - inner;
}

// Gradient of GROUP images' features from that of the logits: emit(channel, place in
// [GROUP][588], value).
template <int GROUP, class Emit>
inline void classify_input_gradient(const Vec* dlogits, const Vec* w, Emit&& emit) {
  for (int c = 0; c < WIDTH; ++c)
    for (int k = c * READ_AREA; k < (c + 1) * READ_AREA; ++k) {
      Vec acc[GROUP] = {};
#pragma GCC unroll 10
      for (int o = 0; o < CLASSES; ++o) {
        const Vec weight = w[k * CLASSES + o];
#pragma GCC unroll 4
        for (int g = 0; g < GROUP; ++g) acc[g] = fma(weight, dlogits[g * CLASSES + o], acc[g]);
      }
#pragma GCC unroll 4
      for (int g = 0; g < GROUP; ++g) emit(c, g * FEATURES + k, acc[g]);
    }
}

// The same, zero where the feature is, in place of the features; and dw [588][10] += the gradient of
// the linear layer's weights.
template <int GROUP>
inline void classify_backward(const Vec* dlogits, const Vec* w, Vec* features, Vec* dw) {
  for (int k = 0; k < FEATURES; ++k) {
    Vec feature[GROUP], acc[GROUP] = {};
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g) feature[g] = features[g * FEATURES + k];
#pragma GCC unroll 10
    for (int o = 0; o < CLASSES; ++o) {
      const Vec weight = w[k * CLASSES + o];
      Vec sum = dw[k * CLASSES + o];
#pragma GCC unroll 4
      for (int g = 0; g < GROUP; ++g) {
        const Vec d = dlogits[g * CLASSES + o];
        acc[g] = fma(weight, d, acc[g]);
        sum = fma(feature[g], d, sum);
      }
      dw[k * CLASSES + o] = sum;
    }
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g) features[g * FEATURES + k] = gated(acc[g], feature[g]);
  }
}

}  // namespace kt
