// A pack's state: arrays of vectors, one lane a network, in the order of these structs.
#pragma once

#include <type_traits>

#include "convolution.h"
#include "former.h"
#include "lanes.h"
#include "latter.h"
#include "norm.h"

namespace kt {

constexpr int MAP = CHANNELS * AREA;        // values of a block's map
constexpr int READ = CHANNELS * READ_AREA;  // those of them that the latter block reads

template <int C>
struct Affine {
  Vec weight[C], bias[C];
};
template <int C>
struct Running {
  Vec mean[C], variance[C];
};

struct FormerWeights {
  Vec conv[CHANNELS * PATCH];
  Affine<CHANNELS> bn;
};
struct LargeWeights {
  Vec conv1[CHANNELS * CHANNELS * 9];
  Affine<CHANNELS> bn1;
  Vec conv2[CHANNELS * CHANNELS * 9];
  Affine<CHANNELS> bn2;
};
struct SmallWeights {
  static constexpr bool BIASED = false;
  Vec conv1[HIDDEN * CHANNELS * 9], conv2[CHANNELS * HIDDEN * 9];
};
struct BiasedSmallWeights {
  static constexpr bool BIASED = true;
  Vec conv1[HIDDEN * CHANNELS * 9], bias1[HIDDEN], conv2[CHANNELS * HIDDEN * 9], bias2[CHANNELS];
};
struct MlpWeights {
  Vec fc1[WIDTH * CHANNELS], bias1[WIDTH], fc2[CHANNELS * WIDTH], bias2[CHANNELS];
};
struct AttentionWeights {
  Vec query[CHANNELS * CHANNELS], key[CHANNELS * CHANNELS], value[CHANNELS * CHANNELS],
      proj[CHANNELS * CHANNELS];
};
struct LatterWeights {
  Vec conv[WIDTH * CHANNELS];
  Affine<WIDTH> bn;
  Vec fc[CLASSES * FEATURES], fc_bias[CLASSES];
};
struct NetworkWeights {
  FormerWeights former;
  LargeWeights block;
  LatterWeights latter;
};
struct NetworkStatistics {
  Running<CHANNELS> former, bn1, bn2;
  Running<WIDTH> latter;
};
// Former and latter blocks with batch norm in evaluation mode.
struct FrozenWeights {
  FormerWeights former;
  LatterWeights latter;
  Running<CHANNELS> former_running;
  Running<WIDTH> latter_running;
};
struct FrozenLarge {
  LargeWeights weights;
  Running<CHANNELS> bn1, bn2;
};

constexpr Vec ZEROS[WIDTH] = {};

template <class State>
constexpr int vectors() {
  return sizeof(State) / sizeof(Vec);
}

template <class Weights>
void sgd(Weights& weights, Weights& momenta, const Weights& gradients, float lr, float momentum) {
  Vec* w = reinterpret_cast<Vec*>(&weights);
  Vec* m = reinterpret_cast<Vec*>(&momenta);
  const Vec* g = reinterpret_cast<const Vec*>(&gradients);
  for (int k = 0; k < vectors<Weights>(); ++k) {
    m[k] = fma(splat(momentum), m[k], g[k]);
    w[k] = fma(splat(-lr), m[k], w[k]);
  }
}

// For each channel the sums of a and of a * b over the batch, formed image by image in single
// precision.
template <int C>
struct Sums {
  Wide first[C] = {}, second[C] = {};
  Vec image_first[C] = {}, image_second[C] = {};

  template <int COUNT>
  void add(int channel, const Vec* a, const Vec* b) {
    Vec first_part = {}, second_part = {};
    for (int k = 0; k < COUNT; ++k) {
      first_part += a[k];
      second_part = fma(a[k], b[k], second_part);
    }
    image_first[channel] += first_part;
    image_second[channel] += second_part;
  }
  void end_image() {
    for (int c = 0; c < C; ++c) {
      first[c] += widen(image_first[c]);
      second[c] += widen(image_second[c]);
      image_first[c] = image_second[c] = Vec{};
    }
  }
};

template <int C>
void training_norms(const Sums<C>& sums, double count, const Affine<C>& affine, Running<C>& running,
                    Norm (&norms)[C]) {
  for (int c = 0; c < C; ++c)
    norms[c] = batch_norm(sums.first[c], sums.second[c], count, affine.weight[c], affine.bias[c],
                          running.mean[c], running.variance[c]);
}

template <int C>
void frozen_norms(const Affine<C>& affine, const Running<C>& running, Norm (&norms)[C]) {
  for (int c = 0; c < C; ++c)
    norms[c] =
        Norm(widen(running.mean[c]), widen(running.variance[c]), affine.weight[c], affine.bias[c]);
}

template <int C>
void norm_gradients(const Norm (&norms)[C], const Sums<C>& sums, double count, Affine<C>& gradient,
                    NormGradient (&out)[C]) {
  for (int c = 0; c < C; ++c)
    out[c] = batch_norm_gradient(norms[c], sums.first[c], sums.second[c], count, gradient.weight[c],
                                 gradient.bias[c]);
}

// A convolution's weights with the batch norm after it folded in; the bias is norm.shift.
template <int OUT, int PER_OUT>
void fold(const Vec* w, const Norm (&norms)[OUT], Vec* folded, Vec* bias) {
  for (int o = 0; o < OUT; ++o) {
    for (int k = 0; k < PER_OUT; ++k) folded[o * PER_OUT + k] = norms[o].scale * w[o * PER_OUT + k];
    bias[o] = norms[o].shift;
  }
}

// work(integral constant COUNT, first image) over all images, GROUP at once as long as they
// suffice: images of a group share one reading of the linear layer's weights.
template <int GROUP, class Work>
void in_groups(int images, Work&& work) {
  int n = 0;
  for (; n + GROUP <= images; n += GROUP) work(std::integral_constant<int, GROUP>{}, n);
  for (; n < images; ++n) work(std::integral_constant<int, 1>{}, n);
}

}  // namespace kt
