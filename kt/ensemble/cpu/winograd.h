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

namespace kt {

namespace winograd {

using Tiles = Pieces<SIDE, 4>;
constexpr int POINTS = 6;

// How many tiles have a point: infinity is only in the larger ones, which come first.
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

// --- along both -----------------------------------------------------------------------------------

// Where tiles along a side begin. A map's points have a place for each pair of them, at a distance
// that is a little more than it takes: so that the same channel of all points falls into different
// sets of the caches.
constexpr int tile_at(int position) {
  return position < 4 * Tiles::LARGER ? position / 4
                                      : Tiles::LARGER + (position - 4 * Tiles::LARGER) / 3;
}
constexpr int place(int channels) { return channels * Tiles::NUMBER * Tiles::NUMBER + 5; }

// Where a channel's point of a row of tiles lies at the place (a, b).
template <int C, int PLACE>
inline int point_at(int a, int b, int row_tile, int channel) {
  return (a * POINTS + b) * PLACE + (row_tile * C + channel) * tiles(b);
}

// Points of x [C][14][14], a convolution's input (GRADIENT false) or its output's gradient.
template <int C, bool GRADIENT, int PLACE>
inline void map_to_points(const Vec* x, Vec* points) {
  constexpr int BORDER = GRADIENT ? 0 : 1;
  const auto along = [](auto count, const Vec* d, Vec* out) {
    if constexpr (GRADIENT)
      from_gradients<decltype(count)::value>(d, out);
    else
      from_inputs<decltype(count)::value>(d, out);
  };
  for (int c = 0; c < C; ++c)
    in_pieces<SIDE, 4>([&](auto height, int top) {
      constexpr int HEIGHT = decltype(height)::value, INPUTS = HEIGHT + 2 * BORDER;
      const Vec* rows[INPUTS];
      for (int k = 0; k < INPUTS; ++k) {
        const int row = top + k - BORDER;
        rows[k] = row < 0 || row >= SIDE ? NO_ROW : x + (c * SIDE + row) * SIDE;
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

// A convolution's outputs [C][14][14] plus bias, row by row: emit(channel, position, values, count).
template <int C, int PLACE, class Emit>
inline void outputs_of(const Vec* points, const Vec* bias, Emit&& emit) {
  for (int c = 0; c < C; ++c)
    in_pieces<SIDE, 4>([&](auto height, int top) {
      constexpr int HEIGHT = decltype(height)::value;
      Vec t[HEIGHT + 2][SIDE], rows[HEIGHT][SIDE];
      for (int a = 0; a < HEIGHT + 2; ++a)
        in_fixed_pieces<SIDE, 4>([&](auto width, auto left) {
          constexpr int WIDTH = decltype(width)::value;
          Vec one[WIDTH + 2];
#pragma GCC unroll 6
          for (int b = 0; b < WIDTH + 2; ++b)
            one[b] = points[point_at<C, PLACE>(a, b, tile_at(top), c) + tile_at(left)];
          to_outputs<WIDTH>(one, t[a] + left);
        });
      for (int column = 0; column < SIDE; ++column) {
        Vec one[HEIGHT + 2], y[HEIGHT];
#pragma GCC unroll 6
        for (int a = 0; a < HEIGHT + 2; ++a) one[a] = t[a][column];
        to_outputs<HEIGHT>(one, y);
#pragma GCC unroll 4
        for (int k = 0; k < HEIGHT; ++k) rows[k][column] = y[k] + bias[c];
      }
      for (int k = 0; k < HEIGHT; ++k) emit(c, (top + k) * SIDE, rows[k], Constant<SIDE>{});
    });
}

// The same of the gradient of a convolution's input. Neighbouring tiles both add to two rows, and to
// two columns.
template <int C, int PLACE, class Emit>
inline void input_gradients_of(const Vec* points, Emit&& emit) {
  for (int c = 0; c < C; ++c) {
    Vec shared[2][SIDE] = {};
    in_pieces<SIDE, 4>([&](auto height, int top) {
      constexpr int HEIGHT = decltype(height)::value;
      Vec t[HEIGHT + 2][SIDE], rows[HEIGHT][SIDE];
      for (int a = 0; a < HEIGHT + 2; ++a) {
        Vec line[SIDE + 2] = {};
        in_fixed_pieces<SIDE, 4>([&](auto width, auto left) {
          constexpr int WIDTH = decltype(width)::value;
          Vec one[WIDTH + 2], d[WIDTH + 2];
#pragma GCC unroll 6
          for (int b = 0; b < WIDTH + 2; ++b)
            one[b] = points[point_at<C, PLACE>(a, b, tile_at(top), c) + tile_at(left)];
          to_input_gradients<WIDTH>(one, d);
#pragma GCC unroll 6
          for (int k = 0; k < WIDTH + 2; ++k) line[left + k] = k < 2 ? line[left + k] + d[k] : d[k];
        });
#pragma GCC unroll 16
        for (int k = 0; k < SIDE; ++k) t[a][k] = line[1 + k];
      }
      for (int column = 0; column < SIDE; ++column) {
        Vec one[HEIGHT + 2], d[HEIGHT + 2];
#pragma GCC unroll 6
        for (int a = 0; a < HEIGHT + 2; ++a) one[a] = t[a][column];
        to_input_gradients<HEIGHT>(one, d);
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) rows[k][column] = d[k] + shared[k][column];
#pragma GCC unroll 4
        for (int k = 2; k < HEIGHT; ++k) rows[k][column] = d[k];
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) shared[k][column] = d[HEIGHT + k];
      }
      for (int k = top == 0 ? 1 : 0; k < HEIGHT; ++k)
        emit(c, (top + k - 1) * SIDE, rows[k], Constant<SIDE>{});
    });
    emit(c, (SIDE - 1) * SIDE, shared[0], Constant<SIDE>{});
  }
}

// --- products of channels -----------------------------------------------------------------------

constexpr int PRODUCT_OUTS = REGISTERS == 32 ? 4 : 3;

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

// y [rows][OUT][COLUMNS] = u [OUT / O][IN][O] times x [rows][IN][COLUMNS].
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
[[gnu::noinline]] void add_products(const Vec* dy, const Vec* x, int rows, Ahead& ahead, Vec* du) {
  in_pieces<OUT, PRODUCT_OUTS>([&](auto outs, int out) {
    in_pieces<IN, 4>([&](auto ins, int in) {
      constexpr int O = decltype(outs)::value, I = decltype(ins)::value;
      Vec* target = du + out * IN + in * O;
      Vec acc[I][O];
#pragma GCC unroll 4
      for (int i = 0; i < I; ++i)
#pragma GCC unroll 4
        for (int o = 0; o < O; ++o) acc[i][o] = target[i * O + o];
      for (int row = 0; row < rows; ++row) {
        ahead.fetch<2>();
        const Vec *gradient = dy + (row * OUT + out) * COLUMNS, *source = x + (row * IN + in) * COLUMNS;
#pragma GCC unroll 4
        for (int t = 0; t < COLUMNS; ++t)
#pragma GCC unroll 4
          for (int i = 0; i < I; ++i)
#pragma GCC unroll 4
            for (int o = 0; o < O; ++o)
              acc[i][o] = fma(gradient[o * COLUMNS + t], source[i * COLUMNS + t], acc[i][o]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < I; ++i)
#pragma GCC unroll 4
        for (int o = 0; o < O; ++o) target[i * O + o] = acc[i][o];
    });
  });
}

// Weights at all points; taps(output, input) tells where three rows of three are.
template <int OUT, int IN, class Taps>
inline void weights_to_points(Taps&& taps, Vec* u) {
  in_blocks<OUT, IN>([&](int out, int in, int at) {
    for (int a = 0; a < POINTS; ++a) {
      Vec row[3] = {};
      for (int r = 0; r < 3; ++r)
        for (int k = 0; k < 3; ++k)
          row[k] = fma(splat(TAPS[a][r]), taps(out, in)[r * 3 + k], row[k]);
      for (int b = 0; b < POINTS; ++b) {
        Vec sum = {};
        for (int k = 0; k < 3; ++k) sum = fma(splat(TAPS[b][k]), row[k], sum);
        u[(a * POINTS + b) * IN * OUT + at] = sum;
      }
    }
  });
}

// dw += the weights' gradient, from that of the weights at all points.
template <int OUT, int IN>
inline void add_from_points(const Vec* du, Vec* dw) {
  in_blocks<OUT, IN>([&](int out, int in, int at) {
    Vec* taps = dw + (out * IN + in) * 9;
    for (int a = 0; a < POINTS; ++a) {
      Vec row[3] = {};
      for (int b = 0; b < POINTS; ++b)
        for (int k = 0; k < 3; ++k)
          row[k] = fma(splat(TAPS[b][k]), du[(a * POINTS + b) * IN * OUT + at], row[k]);
      for (int r = 0; r < 3; ++r)
        for (int k = 0; k < 3; ++k)
          taps[r * 3 + k] = fma(splat(TAPS[a][r]), row[k], taps[r * 3 + k]);
    }
  });
}

}  // namespace winograd

// Whether the transforms pay for so many channels, on maps of this side.
template <int IN, int OUT>
constexpr bool WINOGRAD = IN >= 8 && OUT >= 8 && winograd::Tiles::SIZE == 4;

// A 3x3 convolution, its weights made ready once for many images, and its gradients.
template <int IN, int OUT, bool = WINOGRAD<IN, OUT>>
class Convolution {
  const Vec *w_ = nullptr, *dy_ = nullptr;
  Vec turned_[IN * OUT * 9];

 public:
  void start(const Vec* w) { w_ = w; }
  template <class Emit>
  void operator()(const Vec* x, const Vec* bias, Ahead ahead, Emit&& emit) {
    convolve<IN, OUT>(x, w_, bias, ahead, emit);
  }

  void start_gradient() {}
  void start_backward(const Vec* w) { transpose_weights<IN, OUT>(w, turned_); }
  // An image's output gradient, which must stay, for the two below, in this order.
  void take_gradient(const Vec* dy) { dy_ = dy; }
  // Adds the weights' gradient for the input x, to dw or in the end.
  void add_weight_gradient(const Vec* x, Ahead ahead, Vec* dw) {
    kt::add_weight_gradient<IN, OUT>(x, dy_, ahead, dw);
  }
  template <class Emit>
  void input_gradient(Ahead ahead, Emit&& emit) {
    convolve<OUT, IN>(dy_, turned_, NO_BIAS, ahead, emit);
  }
  void end_gradient(Vec*) {}

 private:
  static constexpr Vec NO_BIAS[IN] = {};
};

template <int IN, int OUT>
class Convolution<IN, OUT, true> {
  static constexpr int ALL = winograd::POINTS * winograd::POINTS, PAIRS = IN * OUT;
  static constexpr int PLACE = winograd::place(IN > OUT ? IN : OUT);
  Vec u_[ALL * PAIRS], du_[ALL * PAIRS];
  // Products go to the place before that of what they are products of: they overwrite what nobody
  // needs any more while it is in the cache.
  Vec points_[(ALL + 1) * PLACE], gradients_[(ALL + 1) * PLACE];

 public:
  void start(const Vec* w) {
    winograd::weights_to_points<OUT, IN>([&](int o, int i) { return w + (o * IN + i) * 9; }, u_);
  }
  template <class Emit>
  void operator()(const Vec* x, const Vec* bias, Ahead ahead, Emit&& emit) {
    winograd::map_to_points<IN, false, PLACE>(x, points_ + PLACE);
    winograd::at_points([&](int rows, auto columns, int k) {
      winograd::multiply<IN, OUT, columns>(u_ + k * PAIRS, points_ + (k + 1) * PLACE, rows, ahead,
                                           points_ + k * PLACE);
    });
    winograd::outputs_of<OUT, PLACE>(points_, bias, emit);
  }

  void start_gradient() { std::memset(du_, 0, sizeof du_); }
  void start_backward(const Vec* w) {
    winograd::weights_to_points<IN, OUT>([&](int i, int o) { return w + (o * IN + i) * 9; }, u_);
  }
  void take_gradient(const Vec* dy) {
    winograd::map_to_points<OUT, true, PLACE>(dy, gradients_ + PLACE);
  }
  void add_weight_gradient(const Vec* x, Ahead ahead, Vec*) {
    winograd::map_to_points<IN, false, PLACE>(x, points_);
    winograd::at_points([&](int rows, auto columns, int k) {
      winograd::add_products<IN, OUT, columns>(gradients_ + (k + 1) * PLACE, points_ + k * PLACE,
                                               rows, ahead, du_ + k * PAIRS);
    });
  }
  template <class Emit>
  void input_gradient(Ahead ahead, Emit&& emit) {
    winograd::at_points([&](int rows, auto columns, int k) {
      winograd::multiply<OUT, IN, columns>(u_ + k * PAIRS, gradients_ + (k + 1) * PLACE, rows,
                                           ahead, gradients_ + k * PLACE);
    });
    winograd::input_gradients_of<IN, PLACE>(gradients_, emit);
  }
  void end_gradient(Vec* dw) { winograd::add_from_points<OUT, IN>(du_, dw); }
};

}  // namespace kt
