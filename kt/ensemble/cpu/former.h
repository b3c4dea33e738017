// The images, shared by all networks, and the former block on them.
#pragma once

#include <limits>
#include <utility>
#include <vector>

#include "convolution.h"

namespace kt {

constexpr int CHANNELS = 6;
constexpr int IMAGE_SIDE = 28;
constexpr int PADDED = 32;  // two zero pixels on each side

struct alignas(64) Image {
  float pixels[PADDED][PADDED];
  uint32_t nonzero[PADDED];  // bit c of row r: pixels[r][c] != 0

  // Whether ROWS x COLUMNS pixels from (row, column) hold anything but zeros.
  template <int ROWS, int COLUMNS>
  bool any(int row, int column) const {
    uint32_t bits = 0;
    for (int r = 0; r < ROWS; ++r) bits |= nonzero[row + r];
    return bits >> column & ((1u << COLUMNS) - 1);
  }
};

// Over all 3x3 patches of a batch: the sum of each pixel, and of each product of two. The first
// convolution is linear in the patch, so its batch statistics, and batch norm's part of its
// weights' gradient, follow from these in closed form for every network.
struct PatchMoments {
  double first[9] = {}, second[9][9] = {};

  void add(const Image& image) {
    Vec mask[2] = {splat(1), splat(1)};
    for (int lane = IMAGE_SIDE - LANES; lane < LANES; ++lane) mask[1][lane] = 0;
    Vec sum[9] = {}, product[9][9] = {};
    for (int row = 0; row < IMAGE_SIDE; ++row) {
      if (!image.any<3, PADDED - 2>(row + 1, 1)) continue;
      for (int part = 0; part < 2; ++part) {
        Vec patch[9];
        for (int t = 0; t < 9; ++t) {
          // The last load ends within the next row or `nonzero`; the mask drops those lanes.
          std::memcpy(&patch[t], &image.pixels[row + 1 + t / 3][1 + t % 3 + part * LANES],
                      sizeof(Vec));
          patch[t] = mask[part] != 0 ? patch[t] : Vec{};
        }
        for (int s = 0; s < 9; ++s) {
          sum[s] += patch[s];
          for (int t = 0; t <= s; ++t) product[s][t] += patch[s] * patch[t];
        }
      }
    }
    const auto total = [](Vec v) {
      double out = 0;
      for (int lane = 0; lane < LANES; ++lane) out += v[lane];
      return out;
    };
    for (int s = 0; s < 9; ++s) {
      first[s] += total(sum[s]);
      for (int t = 0; t <= s; ++t) second[s][t] = second[t][s] += total(product[s][t]);
    }
  }
};

struct Batch {
  std::vector<Image> images;
  const int64_t* labels;
  PatchMoments moments;

  Batch(const float* pixels, const int64_t* labels, int count) : images(count), labels(labels) {
    for (Image& image : images) {
      std::memset(&image, 0, sizeof image);
      for (int r = 0; r < IMAGE_SIDE; ++r)
        for (int c = 0; c < IMAGE_SIDE; ++c) {
          const float value = *pixels++;
          image.pixels[r + 2][c + 2] = value;
          image.nonzero[r + 2] |= uint32_t(value != 0) << (c + 2);
        }
    }
  }
};

namespace detail {

constexpr int FORMER_COLUMNS = 4;
typedef Vec FormerRows[OUTS][1 + IMAGE_SIDE];  // of some channels, with a border on the left

// One row of the former convolution for three channels. Never inlined: whoever wants the maxima and
// whoever wants their places must see the same values to the last bit.
[[gnu::noinline]] inline void former_row(const Image& image, int row, const Vec* w, const Vec* bias,
                                         FormerRows& z) {
  for (int column = 0; column < IMAGE_SIDE; column += FORMER_COLUMNS) {
    Vec acc[OUTS][FORMER_COLUMNS];
#pragma GCC unroll 3
    for (int o = 0; o < OUTS; ++o)
#pragma GCC unroll 4
      for (int p = 0; p < FORMER_COLUMNS; ++p) acc[o][p] = bias[o];
    if (image.any<3, FORMER_COLUMNS + 2>(row + 1, column + 1))
      for (int kh = 0; kh < 3; ++kh) {
        const float* pixels = &image.pixels[row + 1 + kh][column + 1];
#pragma GCC unroll 6
        for (int c = 0; c < FORMER_COLUMNS + 2; ++c) {
          const Vec value = splat(pixels[c]);
#pragma GCC unroll 3
          for (int kw = 0; kw < 3; ++kw) {
            if (c < kw || c - kw >= FORMER_COLUMNS) continue;
#pragma GCC unroll 3
            for (int o = 0; o < OUTS; ++o) acc[o][c - kw] += w[o * 9 + kh * 3 + kw] * value;
          }
        }
      }
#pragma GCC unroll 3
    for (int o = 0; o < OUTS; ++o)
#pragma GCC unroll 4
      for (int p = 0; p < FORMER_COLUMNS; ++p) z[o][1 + column + p] = acc[o][p];
  }
}

}  // namespace detail

// Convolution (weights and bias with batch norm folded in), ReLU, max-pool: h [6][14][14].
//
// With ROUTES, routes [6][14][14] tells where each maximum lies: the offset of its 3x3 patch in the
// 5x5 pixels below the pooling window. The first of equal maxima in scan order wins, as in PyTorch.
template <bool ROUTES>
inline void former_forward(const Image& image, const Vec* w, const Vec* bias, Vec* h,
                           Bytes* routes) {
  const Vec lowest = splat(-std::numeric_limits<float>::infinity());
  for (int first = 0; first < CHANNELS; first += OUTS) {
    detail::FormerRows rows[3];
    auto *above = &rows[0], *even = &rows[1], *odd = &rows[2];
    for (auto& row : rows)
      for (auto& channel : row) channel[0] = lowest;
    for (auto& channel : *above)
      for (Vec& value : channel) value = lowest;

    for (int i = 0; i < SIDE; ++i, std::swap(above, odd)) {
      detail::former_row(image, 2 * i, w + first * 9, bias + first, *even);
      detail::former_row(image, 2 * i + 1, w + first * 9, bias + first, *odd);
      for (int j = 0; j < SIDE; ++j) {
        const bool blank = !image.any<5, 5>(2 * i, 2 * j);
#pragma GCC unroll 3
        for (int o = 0; o < OUTS; ++o) {
          const int at = ((first + o) * SIDE + i) * SIDE + j;
          if (blank) {  // all equal, and no pixel to learn from
            h[at] = relu(bias[first + o]);
            if (ROUTES) routes[at] = Bytes{};
            continue;
          }
          const Vec* const window[3] = {(*above)[o] + 2 * j, (*even)[o] + 2 * j, (*odd)[o] + 2 * j};
          Vec best = window[0][0];
          Int route = {};
#pragma GCC unroll 9
          for (int k = 1; k < 9; ++k) {
            const Vec value = window[k / 3][k % 3];
            if (ROUTES) route = value > best ? Int{} + (k / 3 * 5 + k % 3) : route;
            best = maximum(value, best);
          }
          h[at] = relu(best);
          if (ROUTES) routes[at] = __builtin_convertvector(route, Bytes);
        }
      }
    }
  }
}

// Sums over the batch of the gradient z of the pooled values, and of z times each patch pixel.
struct FormerSums {
  Wide gradient[CHANNELS], patches[CHANNELS * 9];
};

// Adds one image: dh [6][14][14] is the gradient of h, already zero where h is.
inline void former_backward(const Image& image, const Vec* dh, const Bytes* routes,
                            FormerSums& sums) {
  Vec patches[CHANNELS * 9] = {}, total[CHANNELS] = {};
  for (int i = 0; i < SIDE; ++i)
    for (int j = 0; j < SIDE; ++j) {
      const int at = i * SIDE + j;
      for (int o = 0; o < CHANNELS; ++o) total[o] += dh[o * AREA + at];
      if (!image.any<5, 5>(2 * i, 2 * j)) continue;
      alignas(64) float window[2 * LANES] = {};
      for (int r = 0; r < 5; ++r)
        std::memcpy(window + 5 * r, &image.pixels[2 * i + r][2 * j], 5 * sizeof(float));
      for (int o = 0; o < CHANNELS; ++o) {
        const Int route = __builtin_convertvector(routes[o * AREA + at], Int);
#pragma GCC unroll 9
        for (int t = 0; t < 9; ++t)
          patches[o * 9 + t] += dh[o * AREA + at] * lookup(window, route + (t / 3 * 5 + t % 3));
      }
    }
  for (int o = 0; o < CHANNELS; ++o) sums.gradient[o] += widen(total[o]);
  for (int k = 0; k < CHANNELS * 9; ++k) sums.patches[k] += widen(patches[k]);
}

}  // namespace kt
