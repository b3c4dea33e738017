// Second convolutions that bring blocks' outputs nearest to the large blocks': least squares over the
// positions that the latter block reads.
#pragma once

#include "frozen.h"

namespace kt {

// Hidden maps with zeros above and on the left, where the strided positions' patches leave them.
template <int C>
struct PaddedHidden {
  static constexpr int PADDED_SIDE = 2 * READ_SIDE + 1;
  Vec values[C][PADDED_SIDE][PADDED_SIDE];

  PaddedHidden() = default;
  explicit PaddedHidden(const Vec* hidden) : values{} {
    for (int c = 0; c < C; ++c)
      for (int row = 0; row < SIDE; ++row)
        std::memcpy(&values[c][row + 1][1], hidden + (c * SIDE + row) * SIDE, SIDE * sizeof(Vec));
  }
  // Three pixels of a row of the patch at a position that the latter block reads.
  const Vec* at(int channel, int kh, int row, int column) const {
    return &values[channel][2 * row + kh][2 * column];
  }
};

inline Vec inverse_root(Vec x) {
  for (int lane = 0; lane < LANES; ++lane) x[lane] = 1 / std::sqrt(x[lane]);
  return x;
}

// The normal equations of a convolution that reads C channels: products of the patches' values with
// each other (only on and above the diagonal's 9x9 blocks), summed over images and positions, and
// RIGHT columns beside them.
template <int C, int RIGHT = CHANNELS>
struct Equations {
  static constexpr int TAPS = C * 9, COLUMNS = TAPS + RIGHT;
  Vec sums[TAPS][COLUMNS];

  void clear() { std::memset(sums, 0, sizeof sums); }

  // Adds an image's products.
  void add(const PaddedHidden<C>& hidden) {
    for (int i = 0; i < C; ++i)
      for (int kh = 0; kh < 3; ++kh) {
        Vec(*const target)[COLUMNS] = &sums[i * 9 + kh * 3];
        for (int j = i; j < C; ++j) {
          Vec acc[3][9] = {};
          for (int row = 0; row < READ_SIDE; ++row)
            for (int column = 0; column < READ_SIDE; ++column) {
              const Vec* left = hidden.at(i, kh, row, column);
#pragma GCC unroll 3
              for (int down = 0; down < 3; ++down) {
                const Vec* right = hidden.at(j, down, row, column);
#pragma GCC unroll 3
                for (int a = 0; a < 3; ++a)
#pragma GCC unroll 3
                  for (int b = 0; b < 3; ++b)
                    acc[a][down * 3 + b] = fma(left[a], right[b], acc[a][down * 3 + b]);
              }
            }
          for (int a = 0; a < 3; ++a)
            for (int b = 0; b < 9; ++b) target[a][j * 9 + b] += acc[a][b];
        }
      }
  }

  // Adds those with `wanted` [6][7][7], which the convolution should give.
  void add_right(const PaddedHidden<C>& hidden, const Vec* wanted) {
    for (int i = 0; i < C; ++i)
      for (int kh = 0; kh < 3; ++kh) {
        Vec(*const target)[COLUMNS] = &sums[i * 9 + kh * 3];
        in_pieces<CHANNELS, 6>([&](auto outs, int out) {
          constexpr int O = decltype(outs)::value;
          Vec acc[3][O] = {};
          for (int row = 0; row < READ_SIDE; ++row)
            for (int column = 0; column < READ_SIDE; ++column) {
              const Vec* left = hidden.at(i, kh, row, column);
              const Vec* right = wanted + out * READ_AREA + row * READ_SIDE + column;
#pragma GCC unroll 6
              for (int o = 0; o < O; ++o)
#pragma GCC unroll 3
                for (int a = 0; a < 3; ++a)
                  acc[a][o] = fma(left[a], right[o * READ_AREA], acc[a][o]);
            }
          for (int a = 0; a < 3; ++a)
            for (int o = 0; o < O; ++o) target[a][TAPS + out + o] += acc[a][o];
        });
      }
  }

  // Those of some of the channels, in increasing order.
  template <int WIDE>
  void take(const Equations<WIDE>& wide, const int32_t* kept) {
    for (int a = 0; a < C; ++a)
      for (int tap = 0; tap < 9; ++tap) {
        const Vec* source = wide.sums[kept[a] * 9 + tap];
        Vec* target = sums[a * 9 + tap];
        for (int b = a; b < C; ++b)
          std::copy(source + kept[b] * 9, source + kept[b] * 9 + 9, target + b * 9);
        std::copy(source + WIDE * 9, source + WIDE * 9 + CHANNELS, target + TAPS);
      }
  }

  // Cholesky's factors of the products in place of them, and the right side solved by the first.
  // `decay` is added to the diagonal, relative to its mean.
  void factorise(float decay) {
    Vec mean = {};
    for (int j = 0; j < TAPS; ++j) mean += sums[j][j];
    const Vec more = fma(mean, splat(decay / TAPS), splat(1e-6f));
    for (int j = 0; j < TAPS; ++j) {
      sums[j][j] += more;
      for (int k = 0; k < j; ++k)
        for (int i = j; i < COLUMNS; ++i) sums[j][i] = fma(-sums[k][j], sums[k][i], sums[j][i]);
      const Vec inverse = inverse_root(sums[j][j]);
      for (int i = j; i < COLUMNS; ++i) sums[j][i] *= inverse;
    }
  }

  // The solution [RIGHT][C][3][3], once factorised.
  void solve(Vec* weights) const {
    for (int j = TAPS - 1; j >= 0; --j)
      for (int o = 0; o < RIGHT; ++o) {
        Vec rest = sums[j][TAPS + o];
        for (int i = j + 1; i < TAPS; ++i) rest = fma(-sums[j][i], weights[o * TAPS + i], rest);
        weights[o * TAPS + j] = rest / sums[j][j];
      }
  }

  // Once factorised: by how much the squared error in the metric [6][6] is lower than without any
  // second convolution.
  Vec explained(const Vec* metric) const {
    Vec sum = {};
    for (int o = 0; o < CHANNELS; ++o)
      for (int p = 0; p < CHANNELS; ++p) {
        Vec product = {};
        for (int j = 0; j < TAPS; ++j) product = fma(sums[j][TAPS + o], sums[j][TAPS + p], product);
        sum = fma(metric[o * CHANNELS + p], product, sum);
      }
    return sum;
  }
};

// What makes the equations of blocks of C hidden channels from maps h behind the former block.
template <int C>
struct FirstConvolution {
  const Vec *conv1, *bias1, *bias2;
  Vec hidden[C * AREA], wanted[READ];
  PaddedHidden<C> padded;

  // `y` [6][7][7] is what the block's output should be before its last ReLU.
  void add(const Vec* h, const Vec* y, Equations<C>& equations) {
    to_hidden<C>(h, conv1, bias1, hidden);
    for (int c = 0; c < CHANNELS; ++c)
      for (int k = 0, p = c * READ_AREA; k < READ_AREA; ++k, ++p)
        wanted[p] = y[p] - h[c * AREA + read_position(k)] - bias2[c];
    padded = PaddedHidden<C>(hidden);
    equations.add(padded);
    equations.add_right(padded, wanted);
  }
};

// The inverse of what a convolution's patches have as products, over their mean square, with
// `damping` on the diagonal: [TAPS][TAPS].
template <int C>
struct Whitening {
  Equations<C, C * 9> equations;
  PaddedHidden<C> padded;

  // maps [C][14][14] that the convolution reads.
  void add(const Vec* maps) {
    padded = PaddedHidden<C>(maps);
    equations.add(padded);
  }
  void invert(float damping, Vec* inverse) {
    constexpr int TAPS = C * 9;
    Vec mean = {};
    for (int j = 0; j < TAPS; ++j) mean += equations.sums[j][j];
    mean = fma(mean, splat(1.0f / TAPS), splat(1e-6f));
    for (int j = 0; j < TAPS; ++j) equations.sums[j][TAPS + j] = mean;
    equations.factorise(damping);
    equations.solve(inverse);
  }
};

// Hidden channels to choose from, batch norm folded in or none.
struct Candidates {
  Vec conv1[CHANNELS * CHANNELS * 9], bias1[CHANNELS], bias2[CHANNELS];
};

}  // namespace kt
