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

  void add(const std::vector<Image>& images) {
    std::vector<Products<Wide>> all(STRIPES);
    for (const Image& image : images)
      for (int stripe = 0; stripe < STRIPES; ++stripe) {
        const Products<Vec> one = products(image, stripe * LANES);
        const Vec* values = reinterpret_cast<const Vec*>(&one);
        Wide* sums = reinterpret_cast<Wide*>(&all[stripe]);
        for (size_t k = 0; k < sizeof one / sizeof *values; ++k) sums[k] += widen(values[k]);
      }
    const auto total = [&](auto&& part) {
      double out = 0;
      for (const Products<Wide>& stripe : all)
        for (int lane = 0; lane < LANES; ++lane) out += part(stripe)[lane];
      return out;
    };
    // A pair of patch rows meets nearly the same pairs of image rows wherever it lies in the patch:
    // only the first or the last row is missing where the patch leaves the image.
    for (int s = 0; s < 9; ++s) {
      const int i = s / 3, k = s % 3;
      first[s] += total([&](auto& p) { return p.sum[k]; });
      if (i != 1) first[s] -= total([&](auto& p) { return p.edge_sum[i == 0][k]; });
      for (int t = i * 3; t < 9; ++t) {
        const int down = t / 3 - i, l = t % 3;
        double value = total([&](auto& p) { return p.product[down][k][l]; });
        if (down == 0 && i != 1)
          value -= total([&](auto& p) { return p.edge_product[i == 0][k][l]; });
        second[s][t] += value;
        if (down > 0) second[t][s] += value;
      }
    }
  }

 private:
  // Columns of pixels that are a stripe apart are summed together: a stated order, whatever the
  // width of registers.
  static constexpr int STRIPE = 16, STRIPES = STRIPE / LANES;

  // Sums over an image's rows, of each row shifted by k columns, and of its products with itself
  // and the next two, shifted by l; those of the first and the last row also apart.
  template <class V>
  struct Products {
    V sum[3], product[3][3][3];
    V edge_sum[2][3], edge_product[2][3][3];
  };

  static Products<Vec> products(const Image& image, int first) {
    Int lane;
    for (int k = 0; k < LANES; ++k) lane[k] = k;
    Products<Vec> out = {};
    for (int row = 0; row < IMAGE_SIDE; ++row) {
      if (image.nonzero[row + 2] == 0) continue;
      for (int column = first; column < IMAGE_SIDE; column += STRIPE) {
        const Int inside = lane + column < IMAGE_SIDE;
        Vec pixels[3][3];
        for (int down = 0; down < 3; ++down)
          for (int k = 0; k < 3; ++k)
            pixels[down][k] = load(image, row + 2 + down, column + k, inside);
        // A row's products with itself are rounded before they are added: the same for an edge.
        for (int k = 0; k < 3; ++k) {
          out.sum[k] += pixels[0][k];
          for (int l = 0; l < 3; ++l) {
            out.product[0][k][l] += pixels[0][k] * pixels[0][l];
            for (int down = 1; down < 3; ++down)
              out.product[down][k][l] = fma(pixels[0][k], pixels[down][l], out.product[down][k][l]);
          }
        }
        if (row != 0 && row != IMAGE_SIDE - 1) continue;
        for (int k = 0; k < 3; ++k) {
          out.edge_sum[row != 0][k] += pixels[0][k];
          for (int l = 0; l < 3; ++l)
            out.edge_product[row != 0][k][l] += pixels[0][k] * pixels[0][l];
        }
      }
    }
    return out;
  }

  // LANES pixels; those of patches beyond the last column are zero.
  static Vec load(const Image& image, int row, int column, Int inside) {
    Vec out;
    std::memcpy(&out, image.pixels[row] + 1 + column, sizeof out);  // may run into the next row
    return inside ? out : Vec{};
  }
};

struct Batch {
  std::vector<Image> images;
  const int64_t* labels;
  PatchMoments moments;

  Batch(const float* pixels, const int64_t* labels, int count) : images(count), labels(labels) {
    for (Image& image : images) {
      for (int r = 2; r < 2 + IMAGE_SIDE; ++r, pixels += IMAGE_SIDE) {
        uint32_t bits = 0;
        for (int c = 0; c < IMAGE_SIDE; ++c) bits |= uint32_t(pixels[c] != 0) << c;
        image.nonzero[r] = bits << 2;
        std::memcpy(&image.pixels[r][2], pixels, IMAGE_SIDE * sizeof(float));
      }
    }
  }
};

namespace detail {

constexpr int FORMER_COLUMNS = 4;
typedef Vec FormerRow[OUTS][1 + IMAGE_SIDE];  // of some channels, with a border on the left

// One row of the former convolution for three channels. Never inlined: whoever wants the maxima and
// whoever wants their places must see the same values to the last bit.
[[gnu::noinline]] inline void former_row(const Image& image, int row, const Vec* w, const Vec* bias,
                                         FormerRow& z) {
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
            for (int o = 0; o < OUTS; ++o)
              acc[o][c - kw] = fma(w[o * 9 + kh * 3 + kw], value, acc[o][c - kw]);
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
    detail::FormerRow rows[3];
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
      alignas(64) float window[32] = {};
      for (int r = 0; r < 5; ++r)
        std::memcpy(window + 5 * r, &image.pixels[2 * i + r][2 * j], 5 * sizeof(float));
      for (int o = 0; o < CHANNELS; ++o) {
        const Int route = widen(routes[o * AREA + at]);
#pragma GCC unroll 9
        for (int t = 0; t < 9; ++t)
          patches[o * 9 + t] = fma(dh[o * AREA + at], lookup(window + t / 3 * 5 + t % 3, route),
                                   patches[o * 9 + t]);
      }
    }
  for (int o = 0; o < CHANNELS; ++o) sums.gradient[o] += widen(total[o]);
  for (int k = 0; k < CHANNELS * 9; ++k) sums.patches[k] += widen(patches[k]);
}

}  // namespace kt
