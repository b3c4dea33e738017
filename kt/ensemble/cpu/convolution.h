// 3x3 convolutions on maps [channel][row][column] of vectors, zero-padded, and their gradients.
//
// Weights are [out][in][3][3]. Maps have no borders: taps that fall outside are left out at compile
// time (columns) or by the loop's bounds (rows). Sums are formed in an order that does not depend on
// the tiles, which lanes.h chooses. Comments give the paper's sizes: 14 x 14, of which the latter
// block's stride-2 convolution reads 7 x 7.
#pragma once

#include "lanes.h"
#include "sizes.h"
#include "tiles.h"

namespace kt {

// Where the k-th position read by the latter block lies in a map.
inline int read_position(int k) { return k / READ_SIDE * 2 * SIDE + k % READ_SIDE * 2; }

namespace detail {

// Row `row`, columns COLUMN..COLUMN+COUNT-1 of O output channels, in values[o * STRIDE ..].
template <int IN, int O, int COLUMN, int COUNT, int STRIDE>
inline void span(const Vec* x, const Vec* w, const Vec* bias, int row, Ahead& ahead, Vec* values) {
  Vec acc[O][COUNT];
#pragma GCC unroll 3
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
    for (int p = 0; p < COUNT; ++p) acc[o][p] = bias[o];
  const int first = row == 0 ? 1 : 0, last = row == SIDE - 1 ? 1 : 2;
  for (int i = 0; i < IN; ++i)
    for (int kh = first; kh <= last; ++kh) {
      const Vec* source = x + (i * SIDE + row + kh - 1) * SIDE;
      const Vec* taps = w + (i * 3 + kh) * 3;
      ahead.fetch<2>();
#pragma GCC unroll 3
      for (int kw = 0; kw < 3; ++kw) {
        Vec tap[O];
#pragma GCC unroll 3
        for (int o = 0; o < O; ++o) tap[o] = taps[o * IN * 9 + kw];
#pragma GCC unroll 8
        for (int p = 0; p < COUNT; ++p) {
          const int c = COLUMN + p + kw - 1;
          if (c < 0 || c >= SIDE) continue;
          const Vec value = source[c];
#pragma GCC unroll 3
          for (int o = 0; o < O; ++o) acc[o][p] = fma(tap[o], value, acc[o][p]);
        }
      }
    }
#pragma GCC unroll 3
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
    for (int p = 0; p < COUNT; ++p) values[o * STRIDE + p] = acc[o][p];
}

}  // namespace detail

// Convolution of x [IN][14][14]; emit(channel, position of the tile's first value, values, count).
template <int IN, int OUT, class Emit>
inline void convolve(const Vec* x, const Vec* w, const Vec* bias, Ahead ahead, Emit&& emit) {
  in_pieces<OUT, OUTS>([&](auto outs, int out) {
    constexpr int O = decltype(outs)::value;
    for (int row = 0; row < SIDE; ++row)
      in_fixed_pieces<SIDE, TILE>([&](auto count, auto column) {
        constexpr int COUNT = decltype(count)::value, COLUMN = decltype(column)::value;
        Vec values[O * COUNT];
        in_fixed_pieces<COUNT, SPAN>([&](auto few, auto first) {
          constexpr int FEW = decltype(few)::value, FIRST = decltype(first)::value;
          detail::span<IN, O, COLUMN + FIRST, FEW, COUNT>(x, w + out * IN * 9, bias + out, row,
                                                          ahead, values + FIRST);
        });
        for (int o = 0; o < O; ++o) emit(out + o, row * SIDE + COLUMN, values + o * COUNT, count);
      });
  });
}

// The weights [in][out] whose convolution carries a gradient [out][14][14] back to the input.
template <int IN, int OUT>
inline void transpose_weights(const Vec* w, Vec* transposed) {
  for (int o = 0; o < OUT; ++o)
    for (int i = 0; i < IN; ++i)
      for (int tap = 0; tap < 9; ++tap)
        transposed[(i * OUT + o) * 9 + 8 - tap] = w[(o * IN + i) * 9 + tap];
}

// dw += the weights' gradient for input x [IN][14][14] and output gradient dy [OUT][14][14].
template <int IN, int OUT>
inline void add_weight_gradient(const Vec* x, const Vec* dy, Ahead ahead, Vec* dw) {
  constexpr int INS = REGISTERS == 32 ? 2 : 1;
  constexpr int ROWS = 4;  // as many as keep x and dy in the first-level cache for all kh
  const auto add = [&](auto outs, auto ins, int out, int in) {
    constexpr int O = decltype(outs)::value, I = decltype(ins)::value;
    for (int top = 0; top < SIDE; top += ROWS)
      for (int kh = 0; kh < 3; ++kh) {
        Vec* target = dw + ((out * IN + in) * 3 + kh) * 3;
        Vec acc[O][I][3];
#pragma GCC unroll 3
        for (int o = 0; o < O; ++o)
#pragma GCC unroll 2
          for (int i = 0; i < I; ++i)
#pragma GCC unroll 3
            for (int kw = 0; kw < 3; ++kw) acc[o][i][kw] = target[(o * IN + i) * 9 + kw];
        for (int row = top; row < top + ROWS && row < SIDE; ++row) {
          const int source_row = row + kh - 1;
          if (source_row < 0 || source_row >= SIDE) continue;
          ahead.fetch<5>();
          const Vec* gradient = dy + (out * SIDE + row) * SIDE;
          const Vec* source = x + (in * SIDE + source_row) * SIDE;
          Vec window[I][3];  // three columns of x, the oldest replaced in turn
#pragma GCC unroll 2
          for (int i = 0; i < I; ++i) window[i][1] = source[i * AREA];
#pragma GCC unroll 16
          for (int c = 0; c < SIDE; ++c) {
            if (c + 1 < SIDE)
#pragma GCC unroll 2
              for (int i = 0; i < I; ++i) window[i][(c + 2) % 3] = source[i * AREA + c + 1];
#pragma GCC unroll 3
            for (int o = 0; o < O; ++o) {
              const Vec g = gradient[o * AREA + c];
#pragma GCC unroll 2
              for (int i = 0; i < I; ++i)
#pragma GCC unroll 3
                for (int kw = 0; kw < 3; ++kw)
                  if (c + kw >= 1 && c + kw <= SIDE)
                    acc[o][i][kw] = fma(g, window[i][(c + kw) % 3], acc[o][i][kw]);
            }
          }
        }
#pragma GCC unroll 3
        for (int o = 0; o < O; ++o)
#pragma GCC unroll 2
          for (int i = 0; i < I; ++i)
#pragma GCC unroll 3
            for (int kw = 0; kw < 3; ++kw) target[(o * IN + i) * 9 + kw] = acc[o][i][kw];
      }
  };
  in_pieces<OUT, OUTS>([&](auto outs, int out) {
    in_pieces<IN, INS>([&](auto ins, int in) { add(outs, ins, out, in); });
  });
}

// The convolution at the 49 positions that the latter block reads;
// emit(channel, position among the 49, values, count).
template <int IN, int OUT, class Emit>
inline void convolve_read(const Vec* x, const Vec* w, const Vec* bias, Emit&& emit) {
  in_pieces<OUT, OUTS>([&](auto outs, int out) {
    constexpr int O = decltype(outs)::value;
    for (int row = 0; row < READ_SIDE; ++row)
      in_fixed_pieces<READ_SIDE, TILE>([&](auto count, auto column) {
        constexpr int COUNT = decltype(count)::value, COLUMN = decltype(column)::value;
        Vec values[O][COUNT];
        in_fixed_pieces<COUNT, SPAN>([&](auto few, auto first) {
          constexpr int FEW = decltype(few)::value, FIRST = decltype(first)::value;
          Vec acc[O][FEW];
#pragma GCC unroll 3
          for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
            for (int p = 0; p < FEW; ++p) acc[o][p] = bias[out + o];
          const int last = 2 * row == SIDE - 1 ? 1 : 2;
          for (int i = 0; i < IN; ++i)
            for (int kh = row == 0 ? 1 : 0; kh <= last; ++kh) {
              const Vec* source =
                  x + (i * SIDE + 2 * row + kh - 1) * SIDE + 2 * (COLUMN + FIRST) - 1;
              const Vec* taps = w + ((out * IN + i) * 3 + kh) * 3;
#pragma GCC unroll 3
              for (int kw = 0; kw < 3; ++kw)
#pragma GCC unroll 8
                for (int p = 0; p < FEW; ++p) {
                  const int c = 2 * (COLUMN + FIRST + p) + kw - 1;
                  if (c < 0 || c >= SIDE) continue;
#pragma GCC unroll 3
                  for (int o = 0; o < O; ++o)
                    acc[o][p] = fma(taps[o * IN * 9 + kw], source[2 * p + kw], acc[o][p]);
                }
            }
#pragma GCC unroll 3
          for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
            for (int p = 0; p < FEW; ++p) values[o][FIRST + p] = acc[o][p];
        });
        for (int o = 0; o < O; ++o) emit(out + o, row * READ_SIDE + COLUMN, values[o], count);
      });
  });
}

// Gradient of convolve_read's input from dy [OUT][7][7];
// emit(channel, position, values, count).
template <int IN, int OUT, class Emit>
inline void read_input_gradient(const Vec* dy, const Vec* w, Emit&& emit) {
  in_pieces<IN, OUTS>([&](auto ins, int in) {
    constexpr int I = decltype(ins)::value;
    for (int row = 0; row < SIDE; ++row)
      in_fixed_pieces<SIDE, TILE>([&](auto count, auto column) {
        constexpr int COUNT = decltype(count)::value;
        Vec values[I][COUNT];
        in_fixed_pieces<COUNT, SPAN>([&](auto few, auto first) {
          constexpr int FEW = decltype(few)::value, FIRST = decltype(first)::value;
          constexpr int COLUMN = decltype(column)::value + FIRST;
          Vec acc[I][FEW] = {};
          for (int out = 0; out < OUT; ++out)
            for (int kh = (row + 1) % 2; kh < 3; kh += 2) {
              const int source_row = (row + 1 - kh) / 2;
              if (source_row >= READ_SIDE) continue;
              const Vec* source = dy + (out * READ_SIDE + source_row) * READ_SIDE;
              const Vec* taps = w + ((out * IN + in) * 3 + kh) * 3;
#pragma GCC unroll 8
              for (int c = 0; c < READ_SIDE; ++c)
#pragma GCC unroll 3
                for (int kw = 0; kw < 3; ++kw) {
                  const int p = 2 * c + kw - 1 - COLUMN;
                  if (p < 0 || p >= FEW) continue;
#pragma GCC unroll 3
                  for (int i = 0; i < I; ++i)
                    acc[i][p] = fma(taps[i * 9 + kw], source[c], acc[i][p]);
                }
            }
#pragma GCC unroll 3
          for (int i = 0; i < I; ++i)
#pragma GCC unroll 8
            for (int p = 0; p < FEW; ++p) values[i][FIRST + p] = acc[i][p];
        });
        for (int i = 0; i < I; ++i)
          emit(in + i, row * SIDE + decltype(column)::value, values[i], count);
      });
  });
}

// dw += the gradient of convolve_read's weights for x [IN][14][14] and dy [OUT][7][7].
template <int IN, int OUT>
inline void add_read_weight_gradient(const Vec* x, const Vec* dy, Vec* dw) {
  in_pieces<OUT, OUTS>([&](auto outs, int out) {
    constexpr int O = decltype(outs)::value;
    for (int in = 0; in < IN; ++in)
      for (int kh = 0; kh < 3; ++kh) {
        Vec acc[O][3];
#pragma GCC unroll 3
        for (int o = 0; o < O; ++o)
#pragma GCC unroll 3
          for (int kw = 0; kw < 3; ++kw) acc[o][kw] = dw[(((out + o) * IN + in) * 3 + kh) * 3 + kw];
        for (int row = kh == 0 ? 1 : 0; row < READ_SIDE; ++row) {
          if (2 * row + kh > SIDE) continue;
          const Vec* source = x + (in * SIDE + 2 * row + kh - 1) * SIDE;
          const Vec* gradient = dy + (out * READ_SIDE + row) * READ_SIDE;
#pragma GCC unroll 8
          for (int c = 0; c < READ_SIDE; ++c)
#pragma GCC unroll 3
            for (int o = 0; o < O; ++o) {
              const Vec g = gradient[o * READ_AREA + c];
#pragma GCC unroll 3
              for (int kw = 0; kw < 3; ++kw)
                if (2 * c + kw >= 1 && 2 * c + kw <= SIDE)
                  acc[o][kw] = fma(g, source[2 * c + kw - 1], acc[o][kw]);
            }
        }
#pragma GCC unroll 3
        for (int o = 0; o < O; ++o)
#pragma GCC unroll 3
          for (int kw = 0; kw < 3; ++kw) dw[(((out + o) * IN + in) * 3 + kh) * 3 + kw] = acc[o][kw];
      }
  });
}

}  // namespace kt
