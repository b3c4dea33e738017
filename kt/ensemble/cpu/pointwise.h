// 1x1 convolutions on the 49 positions that the latter block reads, and their gradients.
//
// Maps are [channel][49], weights [out][in]. Channels are the inner loop: what a tile reads stays in
// the first-level cache for all of them.
#pragma once

#include "convolution.h"

namespace kt {

// Takes those positions of a map [C][14][14].
template <int C>
inline void take_read(const Vec* map, Vec* read) {
  for (int c = 0; c < C; ++c)
    for (int k = 0; k < READ_AREA; ++k) read[c * READ_AREA + k] = map[c * AREA + read_position(k)];
}

namespace detail {

// O x COUNT values of a product with x [TERMS][49] from `at` on; weight(o, term) tells the other.
template <int TERMS, int O, int COUNT, class Weight>
inline void pointwise_tile(const Vec* x, int at, const Vec* bias, Ahead& ahead, Weight&& weight,
                           Vec (&values)[O][COUNT]) {
  in_fixed_pieces<COUNT, SPAN>([&](auto few, auto first) {
    constexpr int FIRST = decltype(first)::value, FEW = decltype(few)::value;
    Vec acc[O][FEW];
#pragma GCC unroll 3
    for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
      for (int p = 0; p < FEW; ++p) acc[o][p] = bias[o];
    for (int i = 0; i < TERMS; ++i) {
      ahead.fetch<4>();
#pragma GCC unroll 8
      for (int p = 0; p < FEW; ++p)
#pragma GCC unroll 3
        for (int o = 0; o < O; ++o)
          acc[o][p] = fma(weight(o, i), x[i * READ_AREA + at + FIRST + p], acc[o][p]);
    }
#pragma GCC unroll 3
    for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
      for (int p = 0; p < FEW; ++p) values[o][FIRST + p] = acc[o][p];
  });
}

}  // namespace detail

// Convolution of x [IN][49]; emit(channel, position of the tile's first value, values, count).
template <int IN, int OUT, class Emit>
inline void pointwise_convolve(const Vec* x, const Vec* w, const Vec* bias, Ahead ahead,
                               Emit&& emit) {
  in_pieces<READ_AREA, TILE>([&](auto count, int at) {
    in_pieces<OUT, OUTS>([&](auto outs, int out) {
      constexpr int O = decltype(outs)::value;
      Vec values[O][decltype(count)::value];
      detail::pointwise_tile<IN>(
          x, at, bias + out, ahead, [&](int o, int i) { return w[(out + o) * IN + i]; }, values);
      for (int o = 0; o < O; ++o) emit(out + o, at, values[o], count);
    });
  });
}

// Gradient of x [IN][49] from that of the convolution's output, dy [OUT][49].
template <int IN, int OUT>
inline void pointwise_input_gradient(const Vec* dy, const Vec* w, Vec* dx) {
  const Vec zeros[OUTS] = {};
  Ahead none;
  in_pieces<READ_AREA, TILE>([&](auto count, int at) {
    in_pieces<IN, OUTS>([&](auto ins, int in) {
      constexpr int I = decltype(ins)::value;
      Vec values[I][decltype(count)::value];
      detail::pointwise_tile<OUT>(
          dy, at, zeros, none, [&](int i, int o) { return w[o * IN + in + i]; }, values);
      for (int i = 0; i < I; ++i)
        std::memcpy(dx + (in + i) * READ_AREA + at, values[i], sizeof values[i]);
    });
  });
}

// dw [OUT][IN] += the gradient of the convolution's weights.
template <int IN, int OUT>
inline void add_pointwise_weight_gradient(const Vec* x, const Vec* dy, Vec* dw) {
  in_pieces<OUT, 4>([&](auto outs, int out) {
    in_pieces<IN, REGISTERS == 32 ? 6 : 3>([&](auto ins, int in) {
      constexpr int O = decltype(outs)::value, I = decltype(ins)::value;
      Vec acc[O][I] = {};
      for (int p = 0; p < READ_AREA; ++p)
#pragma GCC unroll 4
        for (int o = 0; o < O; ++o)
#pragma GCC unroll 6
          for (int i = 0; i < I; ++i)
            acc[o][i] = fma(dy[(out + o) * READ_AREA + p], x[(in + i) * READ_AREA + p], acc[o][i]);
#pragma GCC unroll 4
      for (int o = 0; o < O; ++o)
#pragma GCC unroll 6
        for (int i = 0; i < I; ++i) dw[(out + o) * IN + in + i] += acc[o][i];
    });
  });
}

}  // namespace kt
