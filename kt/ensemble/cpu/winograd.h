// 3x3 convolutions of many channels by Winograd's minimal filtering (Lavin and Gray 2016).
//
// Four outputs of a filter of three taps are a product of polynomials, found from six points of
// theirs: 0, 1, -1, 2, -2 and infinity; three outputs from the same without infinity. So a map's
// side is cut into tiles of 4 and 3 (14 = 4 + 4 + 3 + 3, with 22 points), and both ways at once
// 14 x 14 outputs take 22 x 22 products of channels instead of 40 x 40. For the weights' gradient
// the same products are formed the other way round, between the points of the input and those that
// the output's gradient spreads to.
//
// Points of a map lie as [row's point][column's point][row of tiles][channel][column of tiles].
#pragma once

#include "convolution.h"

namespace kt::winograd {

using Tiles = Pieces<SIDE, 4>;
constexpr int POINTS = 6;

// How many tiles along a side have a point: infinity is only in the larger ones, which come first.
constexpr int tiles(int point) { return point < POINTS - 1 ? Tiles::NUMBER : Tiles::LARGER; }

constexpr Vec NO_ROW[SIDE] = {};

// --- along one side -----------------------------------------------------------------------------

// Points of COUNT + 2 inputs d, for COUNT outputs.
template <int COUNT>
inline void from_inputs(const Vec* d, Vec* points) {
  const Vec even = fma(splat(-4.0f), d[2], d[4]), odd = fma(splat(-4.0f), d[1], d[3]);
  const Vec even2 = d[4] - d[2], odd2 = d[3] - d[1];
  points[0] = fma(splat(4.0f), d[0], fma(splat(-5.0f), d[2], d[4]));
  points[1] = even + odd;
  points[2] = even - odd;
  points[3] = fma(splat(2.0f), odd2, even2);
  points[4] = fma(splat(-2.0f), odd2, even2);
  if constexpr (COUNT == 4) points[5] = fma(splat(4.0f), d[1], fma(splat(-5.0f), d[3], d[5]));
}

// COUNT outputs from their points.
template <int COUNT>
inline void to_outputs(const Vec* points, Vec* y) {
  const Vec sum = points[1] + points[2], difference = points[1] - points[2];
  const Vec sum2 = points[3] + points[4], difference2 = points[3] - points[4];
  y[0] = points[0] + sum + sum2;
  y[1] = fma(splat(2.0f), difference2, difference);
  y[2] = fma(splat(4.0f), sum2, sum);
  if constexpr (COUNT == 4) y[3] = fma(splat(8.0f), difference2, difference) + points[5];
}

// Points that the gradients dy of COUNT outputs go to: to_outputs backwards.
template <int COUNT>
inline void from_gradients(const Vec* dy, Vec* points) {
  const Vec even = dy[0] + dy[2], even2 = fma(splat(4.0f), dy[2], dy[0]);
  Vec odd = dy[1], odd2 = dy[1];
  if constexpr (COUNT == 4) odd += dy[3], odd2 = fma(splat(4.0f), dy[3], odd2), points[5] = dy[3];
  points[0] = dy[0];
  points[1] = even + odd;
  points[2] = even - odd;
  points[3] = fma(splat(2.0f), odd2, even2);
  points[4] = fma(splat(-2.0f), odd2, even2);
}

// Gradients d of COUNT + 2 inputs from those of their points: from_inputs backwards.
template <int COUNT>
inline void to_input_gradients(const Vec* points, Vec* d) {
  const Vec even = points[1] + points[2], odd = points[1] - points[2];
  const Vec even2 = points[3] + points[4], odd2 = points[3] - points[4];
  d[0] = 4.0f * points[0];
  d[1] = -fma(splat(4.0f), odd, odd2 + odd2);
  d[2] = -fma(splat(5.0f), points[0], fma(splat(4.0f), even, even2));
  d[3] = fma(splat(2.0f), odd2, odd);
  d[4] = points[0] + even + even2;
  if constexpr (COUNT == 4) {
    d[1] = fma(splat(4.0f), points[5], d[1]);
    d[3] = fma(splat(-5.0f), points[5], d[3]);
    d[5] = points[5];
  }
}

// What three taps weigh at a point.
constexpr float TAPS[POINTS][3] = {{1 / 4.0f, 0, 0},
                                   {-1 / 6.0f, -1 / 6.0f, -1 / 6.0f},
                                   {-1 / 6.0f, 1 / 6.0f, -1 / 6.0f},
                                   {1 / 24.0f, 1 / 12.0f, 1 / 6.0f},
                                   {1 / 24.0f, -1 / 12.0f, 1 / 6.0f},
                                   {0, 0, 1}};

// --- along both ---------------------------------------------------------------------------------

// Which tile begins at a position of a side.
constexpr int tile_at(int position) {
  return position < 4 * Tiles::LARGER ? position / 4
                                      : Tiles::LARGER + (position - 4 * Tiles::LARGER) / 3;
}

// Vectors at each of the 36 points of so many channels: a little more than it takes, so that a
// channel's values at all points fall into different sets of the caches.
constexpr int place(int channels) { return channels * Tiles::NUMBER * Tiles::NUMBER + 5; }

// Where a channel's values of a row of tiles lie at the point (a, b).
template <int C, int PLACE>
inline int point_at(int a, int b, int row_tile, int channel) {
  return (a * POINTS + b) * PLACE + (row_tile * C + channel) * tiles(b);
}

// Points of a map [C][14][14], a convolution's input or (GRADIENT) its output's gradient;
// source(channel, room) tells where a channel of it is, `room` or elsewhere.
template <int C, bool GRADIENT, int PLACE, class Source>
inline void map_to_points(Source&& source, Vec* points) {
  Vec room[AREA];
  constexpr int BORDER = GRADIENT ? 0 : 1;
  const auto along = [](auto count, const Vec* d, Vec* out) {
    if constexpr (GRADIENT)
      from_gradients<decltype(count)::value>(d, out);
    else
      from_inputs<decltype(count)::value>(d, out);
  };
  for (int c = 0; c < C; ++c) {
    const Vec* x = source(c, room);
    in_pieces<SIDE, 4>([&](auto height, int top) {
      constexpr int HEIGHT = decltype(height)::value, INPUTS = HEIGHT + 2 * BORDER;
      const Vec* rows[INPUTS];
      for (int k = 0; k < INPUTS; ++k) {
        const int row = top + k - BORDER;
        rows[k] = row < 0 || row >= SIDE ? NO_ROW : x + row * SIDE;
      }
      Vec t[HEIGHT + 2][SIDE];
      for (int column = 0; column < SIDE; ++column) {
        Vec d[INPUTS], out[HEIGHT + 2];
#pragma GCC unroll 6
        for (int k = 0; k < INPUTS; ++k) d[k] = rows[k][column];
        along(height, d, out);
#pragma GCC unroll 6
        for (int a = 0; a < HEIGHT + 2; ++a) t[a][column] = out[a];
      }
      for (int a = 0; a < HEIGHT + 2; ++a)
        in_fixed_pieces<SIDE, 4>([&](auto width, auto left) {
          constexpr int WIDTH = decltype(width)::value, FIRST = decltype(left)::value - BORDER;
          Vec d[WIDTH + 2 * BORDER], out[WIDTH + 2];
#pragma GCC unroll 6
          for (int k = 0; k < WIDTH + 2 * BORDER; ++k)
            d[k] = FIRST + k < 0 || FIRST + k >= SIDE ? Vec{} : t[a][FIRST + k];
          along(width, d, out);
#pragma GCC unroll 6
          for (int b = 0; b < WIDTH + 2; ++b)
            points[point_at<C, PLACE>(a, b, tile_at(top), c) + tile_at(left)] = out[b];
        });
    });
  }
}

// The maps [C][14][14] behind points, a convolution's outputs plus bias or (GRADIENT) its input's
// gradient, row by row: emit(channel, position, values, count). Of gradients, neighbouring tiles
// both add to two rows and two columns.
template <int C, bool GRADIENT, int PLACE, class Emit>
inline void points_to_map(const Vec* points, const Vec* bias, Emit&& emit) {
  constexpr int BORDER = GRADIENT ? 1 : 0, SHARED = 2 * BORDER;
  const auto along = [](auto count, const Vec* one, Vec* out) {
    if constexpr (GRADIENT)
      to_input_gradients<decltype(count)::value>(one, out);
    else
      to_outputs<decltype(count)::value>(one, out);
  };
  for (int c = 0; c < C; ++c) {
    Vec shared[2][SIDE] = {};
    in_pieces<SIDE, 4>([&](auto height, int top) {
      constexpr int HEIGHT = decltype(height)::value;
      Vec t[HEIGHT + 2][SIDE], rows[HEIGHT][SIDE];
      for (int a = 0; a < HEIGHT + 2; ++a) {
        Vec line[SIDE + SHARED] = {};
        in_fixed_pieces<SIDE, 4>([&](auto width, auto left) {
          constexpr int WIDTH = decltype(width)::value;
          Vec one[WIDTH + 2], out[WIDTH + SHARED];
#pragma GCC unroll 6
          for (int b = 0; b < WIDTH + 2; ++b)
            one[b] = points[point_at<C, PLACE>(a, b, tile_at(top), c) + tile_at(left)];
          along(width, one, out);
#pragma GCC unroll 6
          for (int k = 0; k < WIDTH + SHARED; ++k)
            line[left + k] = k < SHARED ? line[left + k] + out[k] : out[k];
        });
#pragma GCC unroll 16
        for (int k = 0; k < SIDE; ++k) t[a][k] = line[BORDER + k];
      }
      for (int column = 0; column < SIDE; ++column) {
        Vec one[HEIGHT + 2], out[HEIGHT + SHARED];
#pragma GCC unroll 6
        for (int a = 0; a < HEIGHT + 2; ++a) one[a] = t[a][column];
        along(height, one, out);
#pragma GCC unroll 4
        for (int k = 0; k < HEIGHT; ++k)
          rows[k][column] = out[k] + (k < SHARED ? shared[k][column] : bias[c]);
#pragma GCC unroll 2
        for (int k = 0; k < SHARED; ++k) shared[k][column] = out[HEIGHT + k];
      }
      for (int k = top == 0 ? BORDER : 0; k < HEIGHT; ++k)
        emit(c, (top + k - BORDER) * SIDE, rows[k], Constant<SIDE>{});
    });
    if constexpr (GRADIENT) emit(c, (SIDE - 1) * SIDE, shared[0], Constant<SIDE>{});
  }
}

// --- products of channels -----------------------------------------------------------------------

constexpr int PRODUCT_OUTS = REGISTERS == 32 ? 4 : 3, PRODUCT_INS = REGISTERS == 32 ? 6 : 4;

// work(output, input, place) for the weights at a point: [OUT / O][IN][O].
template <int OUT, int IN, class Work>
inline void in_blocks(Work&& work) {
  in_pieces<OUT, PRODUCT_OUTS>([&](auto outs, int out) {
    for (int in = 0; in < IN; ++in)
      for (int o = 0; o < outs; ++o) work(out + o, in, out * IN + in * outs + o);
  });
}

// work(rows of tiles, constant number of columns, which point) for all of them.
template <class Work>
inline void at_points(Work&& work) {
  for (int a = 0; a < POINTS; ++a) {
    for (int b = 0; b < POINTS - 1; ++b)
      work(tiles(a), Constant<Tiles::NUMBER>{}, a * POINTS + b);
    work(tiles(a), Constant<Tiles::LARGER>{}, a * POINTS + POINTS - 1);
  }
}

// y [rows][OUT][COLUMNS] = u [OUT / O][IN][O] times x [rows][IN][COLUMNS], at a point.
template <int IN, int OUT, int COLUMNS>
[[gnu::noinline]] void multiply(const Vec* u, const Vec* x, int rows, Ahead& ahead, Vec* y) {
  in_pieces<OUT, PRODUCT_OUTS>([&](auto outs, int out) {
    constexpr int O = decltype(outs)::value;
    for (int row = 0; row < rows; ++row) {
      const Vec *weight = u + out * IN, *source = x + row * IN * COLUMNS;
      Vec acc[O][COLUMNS] = {};
      ahead.fetch<8>();
      for (int i = 0; i < IN; ++i)
#pragma GCC unroll 4
        for (int o = 0; o < O; ++o)
#pragma GCC unroll 4
          for (int t = 0; t < COLUMNS; ++t)
            acc[o][t] = fma(weight[i * O + o], source[i * COLUMNS + t], acc[o][t]);
      Vec* target = y + (row * OUT + out) * COLUMNS;
#pragma GCC unroll 4
      for (int o = 0; o < O; ++o)
#pragma GCC unroll 4
        for (int t = 0; t < COLUMNS; ++t) target[o * COLUMNS + t] = acc[o][t];
    }
  });
}

// du [OUT / O][IN][O] += dy [rows][OUT][COLUMNS] times x [rows][IN][COLUMNS] transposed.
template <int IN, int OUT, int COLUMNS>
[[gnu::noinline]] void add_products(const Vec* dy, const Vec* x, int rows, Ahead& ahead,
                                    Vec* du) {
  in_pieces<OUT, PRODUCT_OUTS>([&](auto outs, int out) {
    in_pieces<IN, PRODUCT_INS>([&](auto ins, int in) {
      constexpr int O = decltype(outs)::value, I = decltype(ins)::value;
      Vec* target = du + out * IN + in * O;
      Vec acc[I][O];
#pragma GCC unroll 6
      for (int i = 0; i < I; ++i)
#pragma GCC unroll 4
        for (int o = 0; o < O; ++o) acc[i][o] = target[i * O + o];
      for (int row = 0; row < rows; ++row) {
        ahead.fetch<2>();
        const Vec* gradient = dy + (row * OUT + out) * COLUMNS;
        const Vec* source = x + (row * IN + in) * COLUMNS;
#pragma GCC unroll 4
        for (int t = 0; t < COLUMNS; ++t)
#pragma GCC unroll 6
          for (int i = 0; i < I; ++i)
#pragma GCC unroll 4
            for (int o = 0; o < O; ++o)
              acc[i][o] = fma(gradient[o * COLUMNS + t], source[i * COLUMNS + t], acc[i][o]);
      }
#pragma GCC unroll 6
      for (int i = 0; i < I; ++i)
#pragma GCC unroll 4
        for (int o = 0; o < O; ++o) target[i * O + o] = acc[i][o];
    });
  });
}

}  // namespace kt::winograd
