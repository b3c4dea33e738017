// 1x1 convolutions on the 49 positions that the latter block reads, and their gradients.
//
// Maps are [channel][49], weights [out][in].
#pragma once

#include "convolution.h"

namespace kt {

// Takes those positions of a map [C][14][14].
template <int C>
inline void take_read(const Vec* map, Vec* read) {
  for (int c = 0; c < C; ++c)
    for (int k = 0; k < READ_AREA; ++k) read[c * READ_AREA + k] = map[c * AREA + read_position(k)];
}

// Convolution of x [IN][49]; emit(channel, position of the tile's first value, values[7]).
template <int IN, int OUT, class Emit>
inline void pointwise_convolve(const Vec* x, const Vec* w, const Vec* bias, Ahead ahead,
                               Emit&& emit) {
  for (int first = 0; first < OUT; first += OUTS)
    for (int at = 0; at < READ_AREA; at += TILE) {
      Vec acc[OUTS][TILE];
#pragma GCC unroll 3
      for (int o = 0; o < OUTS; ++o)
#pragma GCC unroll 7
        for (int p = 0; p < TILE; ++p) acc[o][p] = bias[first + o];
      for (int i = 0; i < IN; ++i) {
        ahead.fetch<4>();
#pragma GCC unroll 7
        for (int p = 0; p < TILE; ++p)
#pragma GCC unroll 3
          for (int o = 0; o < OUTS; ++o)
            acc[o][p] += w[(first + o) * IN + i] * x[i * READ_AREA + at + p];
      }
      for (int o = 0; o < OUTS; ++o) emit(first + o, at, acc[o]);
    }
}

// Gradient of x [IN][49] from that of the convolution's output, dy [OUT][49].
template <int IN, int OUT>
inline void pointwise_input_gradient(const Vec* dy, const Vec* w, Vec* dx) {
  for (int first = 0; first < IN; first += OUTS)
    for (int at = 0; at < READ_AREA; at += TILE) {
      Vec acc[OUTS][TILE] = {};
      for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 7
        for (int p = 0; p < TILE; ++p)
#pragma GCC unroll 3
          for (int i = 0; i < OUTS; ++i)
            acc[i][p] += w[o * IN + first + i] * dy[o * READ_AREA + at + p];
#pragma GCC unroll 3
      for (int i = 0; i < OUTS; ++i)
#pragma GCC unroll 7
        for (int p = 0; p < TILE; ++p) dx[(first + i) * READ_AREA + at + p] = acc[i][p];
    }
}

// dw [OUT][IN] += the gradient of the convolution's weights.
template <int IN, int OUT>
inline void add_pointwise_weight_gradient(const Vec* x, const Vec* dy, Vec* dw) {
  constexpr int ROWS = OUT % 4 == 0 ? 4 : 3, COLUMNS = 6;
  for (int out = 0; out < OUT; out += ROWS)
    for (int in = 0; in < IN; in += COLUMNS) {
      Vec acc[ROWS][COLUMNS] = {};
      for (int p = 0; p < READ_AREA; ++p)
#pragma GCC unroll 4
        for (int o = 0; o < ROWS; ++o)
#pragma GCC unroll 6
          for (int i = 0; i < COLUMNS; ++i)
            acc[o][i] += dy[(out + o) * READ_AREA + p] * x[(in + i) * READ_AREA + p];
#pragma GCC unroll 4
      for (int o = 0; o < ROWS; ++o)
#pragma GCC unroll 6
        for (int i = 0; i < COLUMNS; ++i) dw[(out + o) * IN + in + i] += acc[o][i];
    }
}

}  // namespace kt
