// Networks with frozen former and latter blocks: step 2's gradient, and evaluation. Nothing couples
// the images of a batch, so that each passes through the whole network within the cache.
#pragma once

#include "state.h"

namespace kt {

// The former and latter blocks with batch norm folded into their convolutions.
struct Frozen {
  Vec former[CHANNELS * 9], former_bias[CHANNELS];
  Vec latter[WIDTH * CHANNELS], latter_bias[WIDTH];
  Vec linear[FEATURES * CLASSES];  // transposed
  const Vec* linear_bias;

  explicit Frozen(const FrozenWeights& w) : linear_bias(w.latter.fc_bias) {
    transpose_linear(w.latter.fc, linear);
    Norm norms[CHANNELS], norms3[WIDTH];
    frozen_norms(w.former.bn, w.former_running, norms);
    fold<CHANNELS, 9>(w.former.conv, norms, former, former_bias);
    frozen_norms(w.latter.bn, w.latter_running, norms3);
    fold<WIDTH, CHANNELS>(w.latter.conv, norms3, latter, latter_bias);
  }

  void to_block(const Image& image, Vec* h) const {
    former_forward<false>(image, former, former_bias, h, nullptr);
  }
  // For small_gradient and to_logits: the former block on a batch.
  auto of(const Batch& batch) const {
    return [this, &batch](int image, Vec* room) -> const Vec* {
      to_block(batch.images[image], room);
      return room;
    };
  }
  void to_features(const Vec* y, Vec* features) const {
    latter_convolve(y, latter, latter_bias, {}, [&](int c, int at, const Vec* values) {
      for (int k = 0; k < TILE; ++k) features[c * READ_AREA + at + k] = relu(values[k]);
    });
  }
};

// y = relu(second convolution of hidden + h) where the latter block reads it; `before`, if it is
// given, what comes before the ReLU.
template <int IN>
inline void to_output(const Vec* hidden, const Vec* w, const Vec* bias, const Vec* h, Vec* y,
                      Vec* before = nullptr) {
  convolve_read<IN, CHANNELS>(hidden, w, bias, [&](int c, int at, const Vec* values) {
    for (int k = 0, p = c * READ_AREA + at; k < TILE; ++k, ++p) {
      const Vec sum = values[k] + h[c * AREA + read_position(at + k)];
      if (before) before[p] = sum;
      y[p] = relu(sum);
    }
  });
}

template <int OUT>
inline void to_hidden(const Vec* h, const Vec* w, const Vec* bias, Vec* hidden) {
  convolve<CHANNELS, OUT>(h, w, bias, {}, [&](int c, int at, const Vec* values) {
    for (int k = 0; k < TILE; ++k) hidden[c * AREA + at + k] = relu(values[k]);
  });
}

template <class Small>
inline void small_forward(const Small& block, const Vec* h, Vec* hidden, Vec* y,
                          Vec* before = nullptr) {
  const Vec *bias1 = ZEROS, *bias2 = ZEROS;
  if constexpr (Small::BIASED) bias1 = block.bias1, bias2 = block.bias2;
  to_hidden<HIDDEN>(h, block.conv1, bias1, hidden);
  to_output<HIDDEN>(hidden, block.conv2, bias2, h, y, before);
}

// sums [ROWS] += the sums of the rows of x [ROWS][COLUMNS].
template <int ROWS, int COLUMNS>
inline void add_rows(const Vec* x, Vec* sums) {
  for (int r = 0; r < ROWS; ++r)
    for (int k = 0; k < COLUMNS; ++k) sums[r] += x[r * COLUMNS + k];
}

constexpr int FROZEN_GROUP = 2;  // more would not stay in the second-level cache

template <class Small>
struct GradientScratch {
  Small gradient;
  Vec h[FROZEN_GROUP][MAP], hidden[FROZEN_GROUP][HIDDEN * AREA], y[FROZEN_GROUP][READ],
      features[FROZEN_GROUP * FEATURES];
  Vec dy[READ], dhidden[HIDDEN * AREA];
};

// The gradient of the block in scratch.gradient; to_block(image, room) tells where the block's input
// is, `room` or elsewhere; loss(image, logits) replaces an image's logits by the loss's gradient
// with respect to them.
template <class Small, class ToBlock, class Loss>
inline void small_gradient(int images, const Frozen& frozen, const Small& block,
                           GradientScratch<Small>& scratch, ToBlock&& to_block, Loss&& loss) {
  Small& gradient = scratch.gradient = {};
  in_groups<FROZEN_GROUP>(images, [&](auto count, int first_image) {
    constexpr int COUNT = decltype(count)::value;
    Vec *features = scratch.features, *dy = scratch.dy, *dhidden = scratch.dhidden;
    Vec dlogits[COUNT * CLASSES];
    const Vec* h_of[COUNT];
    for (int n = 0; n < COUNT; ++n) {
      h_of[n] = to_block(first_image + n, scratch.h[n]);
      small_forward(block, h_of[n], scratch.hidden[n], scratch.y[n]);
      frozen.to_features(scratch.y[n], features + n * FEATURES);
    }
    classify<COUNT>(features, frozen.linear, frozen.linear_bias, dlogits);
    for (int n = 0; n < COUNT; ++n) loss(first_image + n, dlogits + n * CLASSES);
    classify_input_gradient<COUNT>(dlogits, frozen.linear, features);
    for (int n = 0; n < COUNT; ++n) {
      const Vec *h = h_of[n], *hidden = scratch.hidden[n], *y = scratch.y[n];
      latter_input_gradient(features + n * FEATURES, frozen.latter, dy);
      for (int k = 0; k < READ; ++k) dy[k] = gated(dy[k], y[k]);
      add_read_weight_gradient<HIDDEN, CHANNELS>(hidden, dy, gradient.conv2);
      read_input_gradient<CHANNELS>(dy, block.conv2, [&](int c, int at, const Vec* d) {
        for (int k = 0, p = c * AREA + at; k < TILE; ++k, ++p) dhidden[p] = gated(d[k], hidden[p]);
      });
      add_weight_gradient<CHANNELS, HIDDEN>(h, dhidden, {}, gradient.conv1);
      if constexpr (Small::BIASED) {
        add_rows<HIDDEN, AREA>(dhidden, gradient.bias1);
        add_rows<CHANNELS, READ_AREA>(dy, gradient.bias2);
      }
    }
  });
}

struct OutputScratch {
  Vec h[MAP], hidden[MAP], y[READ], features[FROZEN_GROUP * FEATURES];
};

// Logits [image][10]; block(h, hidden, y) computes the block's output where the latter block reads,
// to_block is as in small_gradient.
template <class ToBlock, class Block>
inline void to_logits(int images, const Frozen& frozen, const Block& block, OutputScratch& scratch,
                      ToBlock&& to_block, Vec* logits) {
  in_groups<FROZEN_GROUP>(images, [&](auto count, int first_image) {
    constexpr int COUNT = decltype(count)::value;
    for (int n = 0; n < COUNT; ++n) {
      block(to_block(first_image + n, scratch.h), scratch.hidden, scratch.y);
      frozen.to_features(scratch.y, scratch.features + n * FEATURES);
    }
    classify<COUNT>(scratch.features, frozen.linear, frozen.linear_bias,
                    logits + first_image * CLASSES);
  });
}

}  // namespace kt
