// The images, shared by all networks, and the former block on them.
#pragma once

#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "convolution.h"

namespace kt {

constexpr int PATCH = IMAGE_CHANNELS * 9;  // pixels that the first convolution reads at a position
constexpr int FORMER_COLUMNS = 4;          // of its outputs that are computed at once
constexpr int FORMER_ROW = (IMAGE_SIDE + FORMER_COLUMNS - 1) / FORMER_COLUMNS * FORMER_COLUMNS;
constexpr int PADDED = FORMER_ROW + 4;  // two zero pixels on each side, or more at the end

struct alignas(64) Image {
  typedef std::conditional_t<PADDED <= 32, uint32_t, uint64_t> Bits;
  float pixels[IMAGE_CHANNELS][PADDED][PADDED];
  Bits nonzero[PADDED];  // bit c of row r: pixels[channel][r][c] != 0 for any channel

  // Whether ROWS x COLUMNS pixels from (row, column) hold anything but zeros.
  template <int ROWS, int COLUMNS>
  bool any(int row, int column) const {
    Bits bits = 0;
    for (int r = 0; r < ROWS; ++r) bits |= nonzero[row + r];
    return bits >> column & ((Bits(1) << COLUMNS) - 1);
  }
};

// Over all 3x3 patches of a batch: the sum of each pixel, and of each product of two, in the order
// of the first convolution's weights, [channel][row][column]. That
// convolution is linear in the patch, so its batch statistics, and batch norm's part of its
// weights' gradient, follow from these in closed form for every network.
struct PatchMoments {
  double first[PATCH] = {}, second[PATCH][PATCH] = {};

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
    for (int s = 0; s < PATCH; ++s) {
      const int i = s % 9 / 3, k = s / 9 * 3 + s % 3;
      first[s] += total([&](auto& p) { return p.sum[k]; });
      if (i != 1) first[s] -= total([&](auto& p) { return p.edge_sum[i == 0][k]; });
      for (int t = 0; t < PATCH; ++t) {
        const int down = t % 9 / 3 - i, l = t / 9 * 3 + t % 3;
        if (down < 0) continue;
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

  static constexpr int SHIFTS = 3 * IMAGE_CHANNELS;  // [channel][column of the patch]

  // Sums over an image's rows, of each row shifted by k columns, and of its products with itself
  // and the next two, shifted by l; those of the first and the last row also apart. k and l also
  // count the channels.
  template <class V>
  struct Products {
    V sum[SHIFTS], product[3][SHIFTS][SHIFTS];
    V edge_sum[2][SHIFTS], edge_product[2][SHIFTS][SHIFTS];
  };

  static Products<Vec> products(const Image& image, int first) {
    Int lane;
    for (int k = 0; k < LANES; ++k) lane[k] = k;
    Products<Vec> out = {};
    for (int row = 0; row < IMAGE_SIDE; ++row) {
      if (image.nonzero[row + 2] == 0) continue;
      for (int column = first; column < IMAGE_SIDE; column += STRIPE) {
        const Int inside = lane + column < IMAGE_SIDE;
        Vec pixels[3][SHIFTS];
        for (int down = 0; down < 3; ++down)
          for (int k = 0; k < SHIFTS; ++k)
            pixels[down][k] = load(image, k / 3, row + 2 + down, column + k % 3, inside);
        // A row's products with itself are rounded before they are added: the same for an edge.
        for (int k = 0; k < SHIFTS; ++k) {
          out.sum[k] += pixels[0][k];
          for (int l = 0; l < SHIFTS; ++l) {
            out.product[0][k][l] += pixels[0][k] * pixels[0][l];
            for (int down = 1; down < 3; ++down)
              out.product[down][k][l] = fma(pixels[0][k], pixels[down][l], out.product[down][k][l]);
          }
        }
        if (row != 0 && row != IMAGE_SIDE - 1) continue;
        for (int k = 0; k < SHIFTS; ++k) {
          out.edge_sum[row != 0][k] += pixels[0][k];
          for (int l = 0; l < SHIFTS; ++l)
            out.edge_product[row != 0][k][l] += pixels[0][k] * pixels[0][l];
        }
      }
    }
    return out;
  }

  // LANES pixels; those of patches beyond the last column are zero.
  static Vec load(const Image& image, int channel, int row, int column, Int inside) {
    Vec out;
    // May run into the next row.
    std::memcpy(&out, image.pixels[channel][row] + 1 + column, sizeof out);
    return inside ? out : Vec{};
  }
};

struct Batch {
  std::vector<Image> images;
  const int64_t* labels;
  PatchMoments moments;

  Batch(const float* pixels, const int64_t* labels, int count) : images(count), labels(labels) {
    for (Image& image : images) {
      for (int channel = 0; channel < IMAGE_CHANNELS; ++channel)
        for (int r = 2; r < 2 + IMAGE_SIDE; ++r, pixels += IMAGE_SIDE) {
          Image::Bits bits = 0;
          for (int c = 0; c < IMAGE_SIDE; ++c) bits |= Image::Bits(pixels[c] != 0) << c;
          image.nonzero[r] |= bits << 2;
          std::memcpy(&image.pixels[channel][r][2], pixels, IMAGE_SIDE * sizeof(float));
        }
    }
  }
};

namespace detail {

template <int O>
using FormerRow = Vec[O][1 + FORMER_ROW];  // of some channels, with a border on the left

// One row of the former convolution for O channels. Never inlined: whoever wants the maxima and
// whoever wants their places must see the same values to the last bit.
template <int O>
[[gnu::noinline]] void former_row(const Image& image, int row, const Vec* w, const Vec* bias,
                                  FormerRow<O>& z) {
  for (int column = 0; column < IMAGE_SIDE; column += FORMER_COLUMNS) {
    Vec acc[O][FORMER_COLUMNS];
#pragma GCC unroll 3
    for (int o = 0; o < O; ++o)
#pragma GCC unroll 4
      for (int p = 0; p < FORMER_COLUMNS; ++p) acc[o][p] = bias[o];
    if (image.any<3, FORMER_COLUMNS + 2>(row + 1, column + 1))
      for (int channel = 0; channel < IMAGE_CHANNELS; ++channel)
        for (int kh = 0; kh < 3; ++kh) {
          const float* pixels = &image.pixels[channel][row + 1 + kh][column + 1];
          const Vec* taps = w + channel * 9 + kh * 3;
#pragma GCC unroll 6
          for (int c = 0; c < FORMER_COLUMNS + 2; ++c) {
            const Vec value = splat(pixels[c]);
#pragma GCC unroll 3
            for (int kw = 0; kw < 3; ++kw) {
              if (c < kw || c - kw >= FORMER_COLUMNS) continue;
#pragma GCC unroll 3
              for (int o = 0; o < O; ++o)
                acc[o][c - kw] = fma(taps[o * PATCH + kw], value, acc[o][c - kw]);
            }
          }
        }
#pragma GCC unroll 3
    for (int o = 0; o < O; ++o)
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
  in_pieces<CHANNELS, OUTS>([&](auto outs, int first) {
    constexpr int O = decltype(outs)::value;
    detail::FormerRow<O> rows[3];
    auto *above = &rows[0], *even = &rows[1], *odd = &rows[2];
    const auto lower = [&](auto& row, int from) {
      for (auto& channel : row)
        for (int c = from; c <= FORMER_ROW; ++c) channel[c] = lowest;
    };
    for (auto& row : rows)
      for (auto& channel : row) channel[0] = lowest;
    lower(*above, 0);

    for (int i = 0; i < SIDE; ++i, std::swap(above, odd)) {
      detail::former_row<O>(image, 2 * i, w + first * PATCH, bias + first, *even);
      if (IMAGE_SIDE % 2 && i == SIDE - 1)
        lower(*odd, 0);  // there is no such row
      else
        detail::former_row<O>(image, 2 * i + 1, w + first * PATCH, bias + first, *odd);
      if constexpr (IMAGE_SIDE % 2) {  // the last window has a column more than the image
        lower(*even, 1 + IMAGE_SIDE);
        lower(*odd, 1 + IMAGE_SIDE);
      }
      for (int j = 0; j < SIDE; ++j) {
        const bool blank = !image.any<5, 5>(2 * i, 2 * j);
#pragma GCC unroll 3
        for (int o = 0; o < O; ++o) {
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
  });
}

// Sums over the batch of the gradient z of the pooled values, and of z times each patch pixel.
struct FormerSums {
  Wide gradient[CHANNELS], patches[CHANNELS * PATCH];
};

// Adds one image: dh [6][14][14] is the gradient of h, already zero where h is.
inline void former_backward(const Image& image, const Vec* dh, const Bytes* routes,
                            FormerSums& sums) {
  Vec patches[CHANNELS * PATCH] = {}, total[CHANNELS] = {};
  for (int i = 0; i < SIDE; ++i)
    for (int j = 0; j < SIDE; ++j) {
      const int at = i * SIDE + j;
      for (int o = 0; o < CHANNELS; ++o) total[o] += dh[o * AREA + at];
      if (!image.any<5, 5>(2 * i, 2 * j)) continue;
      for (int channel = 0; channel < IMAGE_CHANNELS; ++channel) {
        alignas(64) float window[32] = {};
        for (int r = 0; r < 5; ++r)
          std::memcpy(window + 5 * r, &image.pixels[channel][2 * i + r][2 * j], 5 * sizeof(float));
        for (int o = 0; o < CHANNELS; ++o) {
          const Int route = widen(routes[o * AREA + at]);
          Vec* target = patches + o * PATCH + channel * 9;
#pragma GCC unroll 9
          for (int t = 0; t < 9; ++t)
            target[t] = fma(dh[o * AREA + at], lookup(window + t / 3 * 5 + t % 3, route), target[t]);
        }
      }
    }
  for (int o = 0; o < CHANNELS; ++o) sums.gradient[o] += widen(total[o]);
  for (int k = 0; k < CHANNELS * PATCH; ++k) sums.patches[k] += widen(patches[k]);
}

}  // namespace kt
