// The latter block after its batch norm is known, and the loss.
#pragma once

#include "convolution.h"
#include "former.h"

namespace kt {

constexpr int CLASSES = 10;
constexpr int WIDTH = 2 * CHANNELS;            // channels of the latter convolution
constexpr int FEATURES = WIDTH * READ_AREA;    // inputs of the linear layer

// 1x1 convolution of y [6][49]: out [12][49].
inline void latter_convolve(const Vec* y, const Vec* w, const Vec* bias, Vec* out) {
  for (int first = 0; first < WIDTH; first += OUTS)
    for (int at = 0; at < READ_AREA; at += TILE) {
      Vec acc[OUTS][TILE];
#pragma GCC unroll 3
      for (int o = 0; o < OUTS; ++o)
#pragma GCC unroll 7
        for (int p = 0; p < TILE; ++p) acc[o][p] = bias[first + o];
      for (int i = 0; i < CHANNELS; ++i)
#pragma GCC unroll 7
        for (int p = 0; p < TILE; ++p)
#pragma GCC unroll 3
          for (int o = 0; o < OUTS; ++o)
            acc[o][p] += w[(first + o) * CHANNELS + i] * y[i * READ_AREA + at + p];
#pragma GCC unroll 3
      for (int o = 0; o < OUTS; ++o)
#pragma GCC unroll 7
        for (int p = 0; p < TILE; ++p) out[(first + o) * READ_AREA + at + p] = acc[o][p];
    }
}

// Gradient of y [6][49] from that of the convolution's output, dc [12][49].
inline void latter_input_gradient(const Vec* dc, const Vec* w, Vec* dy) {
  for (int first = 0; first < CHANNELS; first += OUTS)
    for (int at = 0; at < READ_AREA; at += TILE) {
      Vec acc[OUTS][TILE] = {};
      for (int o = 0; o < WIDTH; ++o)
#pragma GCC unroll 7
        for (int p = 0; p < TILE; ++p)
#pragma GCC unroll 3
          for (int i = 0; i < OUTS; ++i)
            acc[i][p] += w[o * CHANNELS + first + i] * dc[o * READ_AREA + at + p];
#pragma GCC unroll 3
      for (int i = 0; i < OUTS; ++i)
#pragma GCC unroll 7
        for (int p = 0; p < TILE; ++p) dy[(first + i) * READ_AREA + at + p] = acc[i][p];
    }
}

// dw [12][6] += the gradient of the convolution's weights.
inline void latter_add_weight_gradient(const Vec* y, const Vec* dc, Vec* dw) {
  constexpr int ROWS = 4;
  for (int first = 0; first < WIDTH; first += ROWS) {
    Vec acc[ROWS][CHANNELS] = {};
    for (int p = 0; p < READ_AREA; ++p)
#pragma GCC unroll 4
      for (int o = 0; o < ROWS; ++o)
#pragma GCC unroll 6
        for (int i = 0; i < CHANNELS; ++i)
          acc[o][i] += dc[(first + o) * READ_AREA + p] * y[i * READ_AREA + p];
#pragma GCC unroll 4
    for (int o = 0; o < ROWS; ++o)
#pragma GCC unroll 6
      for (int i = 0; i < CHANNELS; ++i) dw[(first + o) * CHANNELS + i] += acc[o][i];
  }
}

// Linear layer on GROUP images at once: features [GROUP][588] -> logits [GROUP][10].
template <int GROUP>
inline void classify(const Vec* features, const Vec* w, const Vec* bias, Vec* logits) {
  constexpr int OUTPUTS = 5;
  for (int first = 0; first < CLASSES; first += OUTPUTS) {
    Vec acc[GROUP][OUTPUTS];
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g)
#pragma GCC unroll 5
      for (int o = 0; o < OUTPUTS; ++o) acc[g][o] = bias[first + o];
    for (int k = 0; k < FEATURES; ++k)
#pragma GCC unroll 5
      for (int o = 0; o < OUTPUTS; ++o) {
        const Vec weight = w[(first + o) * FEATURES + k];
#pragma GCC unroll 4
        for (int g = 0; g < GROUP; ++g) acc[g][o] += weight * features[g * FEATURES + k];
      }
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g)
#pragma GCC unroll 5
      for (int o = 0; o < OUTPUTS; ++o) logits[g * CLASSES + first + o] = acc[g][o];
  }
}

// The gradient of `weight` times the cross-entropy with `label`, in place of the logits [10].
inline void cross_entropy_gradient(Vec* logits, int64_t label, float weight) {
  Vec top = logits[0], sum = {};
  for (int o = 1; o < CLASSES; ++o) top = maximum(logits[o], top);
  for (int o = 0; o < CLASSES; ++o) sum += logits[o] = exponential(logits[o] - top);
  const Vec scale = weight / sum;
  for (int o = 0; o < CLASSES; ++o) logits[o] *= scale;
  logits[label] -= weight;
}

// Gradient of GROUP images' features, zero where the feature is, from that of the logits; with
// dw != nullptr the linear layer's own gradient is added to dw [10][588].
template <int GROUP>
inline void classify_backward(const Vec* features, const Vec* w, const Vec* dlogits,
                              Vec* dfeatures, Vec* dw) {
  for (int k = 0; k < FEATURES; ++k) {
    Vec feature[GROUP], acc[GROUP] = {};
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g) feature[g] = features[g * FEATURES + k];
#pragma GCC unroll 10
    for (int o = 0; o < CLASSES; ++o) {
      const Vec weight = w[o * FEATURES + k];
#pragma GCC unroll 4
      for (int g = 0; g < GROUP; ++g) acc[g] += weight * dlogits[g * CLASSES + o];
    }
    if (dw != nullptr)
#pragma GCC unroll 10
      for (int o = 0; o < CLASSES; ++o) {
        Vec sum = dw[o * FEATURES + k];
#pragma GCC unroll 4
        for (int g = 0; g < GROUP; ++g) sum += feature[g] * dlogits[g * CLASSES + o];
        dw[o * FEATURES + k] = sum;
      }
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g) dfeatures[g * FEATURES + k] = gated(acc[g], feature[g]);
  }
}

}  // namespace kt
