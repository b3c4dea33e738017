// Networks with frozen former and latter blocks: step 2's gradient, and evaluation. Nothing couples
// the images of a batch, so that each passes through the whole network within the cache.
#pragma once

#include "attention.h"
#include "blocks.h"

namespace kt {

// The former and latter blocks with batch norm folded into their convolutions.
struct Frozen {
  Vec former[CHANNELS * PATCH], former_bias[CHANNELS];
  Vec latter[WIDTH * CHANNELS], latter_bias[WIDTH];
  Vec linear[FEATURES * CLASSES];  // transposed
  const Vec* linear_bias;

  explicit Frozen(const FrozenWeights& w) : linear_bias(w.latter.fc_bias) {
    transpose_linear(w.latter.fc, linear);
    Norm norms[CHANNELS], norms3[WIDTH];
    frozen_norms(w.former.bn, w.former_running, norms);
    fold<CHANNELS, PATCH>(w.former.conv, norms, former, former_bias);
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
    pointwise_convolve<CHANNELS, WIDTH>(y, latter, latter_bias, {},
                                        [&](int c, int at, const Vec* values, auto count) {
      for (int k = 0; k < count; ++k) features[c * READ_AREA + at + k] = relu(values[k]);
    });
  }
};

constexpr int FROZEN_GROUP = 2;  // more would not stay in the second-level cache

template <class Small>
struct GradientScratch {
  Small gradient;
  Vec h[FROZEN_GROUP][MAP], y[FROZEN_GROUP][READ], features[FROZEN_GROUP * FEATURES];
  Passage<Small> passages[FROZEN_GROUP];
  Vec dy[READ];
  Step<Small> step;
};

// The gradient of the block in scratch.gradient; to_block(image, room) tells where the block's
// input is, `room` or elsewhere; loss(image, logits) replaces an image's logits by the loss's
// gradient with respect to them.
template <class Small, class ToBlock, class Loss>
inline void small_gradient(int images, const Frozen& frozen, const Small& block,
                           GradientScratch<Small>& scratch, ToBlock&& to_block, Loss&& loss) {
  Small& gradient = scratch.gradient = {};
  scratch.step.start(block);
  in_groups<FROZEN_GROUP>(images, [&](auto count, int first_image) {
    constexpr int COUNT = decltype(count)::value;
    Vec *features = scratch.features, *dy = scratch.dy;
    Vec dlogits[COUNT * CLASSES];
    const Vec* h_of[COUNT];
    for (int n = 0; n < COUNT; ++n) {
      h_of[n] = to_block(first_image + n, scratch.h[n]);
      scratch.step.pass(block, h_of[n], scratch.passages[n], scratch.y[n]);
      frozen.to_features(scratch.y[n], features + n * FEATURES);
    }
    classify<COUNT>(features, frozen.linear, frozen.linear_bias, dlogits);
    for (int n = 0; n < COUNT; ++n) loss(first_image + n, dlogits + n * CLASSES);
    classify_input_gradient<COUNT>(dlogits, frozen.linear, [&](int, int place, Vec value) {
      features[place] = gated(value, features[place]);
    });
    for (int n = 0; n < COUNT; ++n) {
      pointwise_input_gradient<CHANNELS, WIDTH>(features + n * FEATURES, frozen.latter, dy);
      scratch.step.back(block, h_of[n], scratch.y[n], scratch.passages[n], dy, gradient);
    }
  });
  scratch.step.end(gradient);
}

template <class Weights>
struct OutputScratch {
  Vec h[MAP], y[READ], features[FROZEN_GROUP * FEATURES];
  Passage<Weights> passage;
};

// Logits [image][10]; block(h, passage, y) computes the block's output where the latter block reads
// it, to_block is as in small_gradient.
template <class ToBlock, class Block, class Weights>
inline void to_logits(int images, const Frozen& frozen, const Block& block,
                      OutputScratch<Weights>& scratch, ToBlock&& to_block, Vec* logits) {
  in_groups<FROZEN_GROUP>(images, [&](auto count, int first_image) {
    constexpr int COUNT = decltype(count)::value;
    for (int n = 0; n < COUNT; ++n) {
      block(to_block(first_image + n, scratch.h), scratch.passage, scratch.y);
      frozen.to_features(scratch.y, scratch.features + n * FEATURES);
    }
    classify<COUNT>(scratch.features, frozen.linear, frozen.linear_bias,
                    logits + first_image * CLASSES);
  });
}

}  // namespace kt
