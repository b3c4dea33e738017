// Training and evaluating packs of sixteen networks on the same images; see cpu_engine.py.
//
// A pack's state is an array of vectors, one lane a network, in the order of the structs below. Each
// pack is computed by one thread from start to end, each lane by the same operations.

#include <atomic>
#include <exception>
#include <memory>
#include <thread>

#include "cpu/convolution.h"
#include "cpu/former.h"
#include "cpu/lanes.h"
#include "cpu/latter.h"
#include "cpu/norm.h"

namespace kt {
namespace {

constexpr int MAP = CHANNELS * AREA;        // values of a block's map
constexpr int READ = CHANNELS * READ_AREA;  // those of them that the latter block reads
constexpr int HIDDEN = 3;
constexpr int GROUP = 4;  // images that share one reading of the linear layer's weights

template <int C>
struct Affine {
  Vec weight[C], bias[C];
};
template <int C>
struct Running {
  Vec mean[C], variance[C];
};

struct FormerWeights {
  Vec conv[CHANNELS * 9];
  Affine<CHANNELS> bn;
};
struct LargeWeights {
  Vec conv1[CHANNELS * CHANNELS * 9];
  Affine<CHANNELS> bn1;
  Vec conv2[CHANNELS * CHANNELS * 9];
  Affine<CHANNELS> bn2;
};
struct SmallWeights {
  Vec conv1[HIDDEN * CHANNELS * 9], conv2[CHANNELS * HIDDEN * 9];
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
    m[k] = momentum * m[k] + g[k];
    w[k] -= lr * m[k];
  }
}

// For each channel the sums of a and of a * b over the batch, formed image by image in single precision.
template <int C>
struct Sums {
  Wide first[C] = {}, second[C] = {};
  Vec image_first[C] = {}, image_second[C] = {};

  void add(int channel, Vec a, Vec b) {
    image_first[channel] += a;
    image_second[channel] += a * b;
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
void training_norms(const Sums<C>& sums, double count, const Affine<C>& affine,
                    Running<C>& running, Norm (&norms)[C]) {
  for (int c = 0; c < C; ++c)
    norms[c] = batch_norm(sums.first[c], sums.second[c], count, affine.weight[c], affine.bias[c],
                          running.mean[c], running.variance[c]);
}

template <int C>
void frozen_norms(const Affine<C>& affine, const Running<C>& running, Norm (&norms)[C]) {
  for (int c = 0; c < C; ++c)
    norms[c] = Norm(widen(running.mean[c]), widen(running.variance[c]), affine.weight[c],
                    affine.bias[c]);
}

template <int C>
void norm_gradients(const Norm (&norms)[C], const Sums<C>& sums, double count, Affine<C>& gradient,
                    NormGradient (&out)[C]) {
  for (int c = 0; c < C; ++c)
    out[c] = batch_norm_gradient(norms[c], sums.first[c], sums.second[c], count,
                                 gradient.weight[c], gradient.bias[c]);
}

// A convolution's weights with the batch norm after it folded in; the bias is norm.shift.
template <int OUT, int PER_OUT>
void fold(const Vec* w, const Norm (&norms)[OUT], Vec* folded, Vec* bias) {
  for (int o = 0; o < OUT; ++o) {
    for (int k = 0; k < PER_OUT; ++k) folded[o * PER_OUT + k] = norms[o].scale * w[o * PER_OUT + k];
    bias[o] = norms[o].shift;
  }
}

// work(integral constant COUNT, first image) over all images, GROUP at once as long as they suffice.
template <class Work>
void in_groups(int images, Work&& work) {
  int n = 0;
  for (; n + GROUP <= images; n += GROUP) work(std::integral_constant<int, GROUP>{}, n);
  for (; n < images; ++n) work(std::integral_constant<int, 1>{}, n);
}

// --- step 1 -------------------------------------------------------------------------------------

// What is kept of every image between the passes over a batch, for one pack. The passes are bound by
// memory as much as by arithmetic: what is cheap to compute again is not kept.
struct Activations {
  Vec first[MAP];   // output of the first convolution
  Vec second[MAP];  // of the second; later the gradient of the first batch norm's output
  Vec y[READ];      // where the latter block reads: the former's output; later the block's
  Vec dy[READ];     // there: the second convolution's output; later the gradient before the last ReLU
  Vec dlogits[CLASSES];
};

struct Step1Scratch {
  NetworkWeights gradient;
  Vec linear[FEATURES * CLASSES], dlinear[FEATURES * CLASSES];  // transposed
  Vec features[GROUP * FEATURES];
  Vec h[MAP], hidden[MAP], d[MAP], dh[MAP];
  Bytes routes[MAP];
};

struct Step1 {
  const Batch& batch;
  NetworkWeights& weights;
  NetworkStatistics& running;
  Activations* const kept;
  Step1Scratch& scratch;
  NetworkWeights& gradient;
  const bool frozen;  // whether the large block is
  const int images;

  Vec former_weights[CHANNELS * 9], former_bias[CHANNELS];  // batch norm folded in
  Norm former[CHANNELS], norm1[CHANNELS], norm2[CHANNELS], norm3[WIDTH];
  Sums<CHANNELS> sums1, sums2, back1, back2;
  Sums<WIDTH> sums3, back3;

  Step1(const Batch& batch, NetworkWeights& weights, NetworkStatistics& running,
        Activations* kept, Step1Scratch& scratch, bool frozen)
      : batch(batch), weights(weights), running(running), kept(kept), scratch(scratch),
        gradient(scratch.gradient), frozen(frozen), images(batch.images.size()) {}

  // The gradient of the mean loss, in scratch.gradient.
  void run() {
    std::memset(&gradient, 0, sizeof gradient);
    std::memset(scratch.dlinear, 0, sizeof scratch.dlinear);
    transpose_linear(weights.latter.fc, scratch.linear);
    former_statistics();
    to_first();
    to_second();
    to_block_output();
    to_logits_and_back();
    back_to_block_output();
    back_to_first();
    back_to_former();
    for (int k = 0; k < FEATURES; ++k)
      for (int o = 0; o < CLASSES; ++o)
        gradient.latter.fc[o * FEATURES + k] = scratch.dlinear[k * CLASSES + o];
  }

  // The former batch norm, from the patches' moments.
  void former_statistics() {
    const PatchMoments& moments = batch.moments;
    Sums<CHANNELS> sums;
    for (int o = 0; o < CHANNELS; ++o)
      for (int s = 0; s < 9; ++s) {
        Wide row = {};
        for (int t = 0; t < 9; ++t)
          row += moments.second[s][t] * widen(weights.former.conv[o * 9 + t]);
        sums.first[o] += moments.first[s] * widen(weights.former.conv[o * 9 + s]);
        sums.second[o] += row * widen(weights.former.conv[o * 9 + s]);
      }
    training_norms(sums, former_count(), weights.former.bn, running.former, former);
    fold<CHANNELS, 9>(weights.former.conv, former, former_weights, former_bias);
  }

  void to_first() {
    Vec* h = scratch.h;
    for (int n = 0; n < images; ++n) {
      former_forward<false>(batch.images[n], former_weights, former_bias, h, nullptr);
      convolve_with_sums(h, weights.block.conv1, ahead(n, 1), kept[n].first, sums1);
      take_read(h, kept[n].y);
    }
    block_norms(weights.block.bn1, sums1, running.bn1, norm1);
  }

  void to_second() {
    for (int n = 0; n < images; ++n) {
      normalised(kept[n].first, scratch.hidden);
      convolve_with_sums(scratch.hidden, weights.block.conv2, ahead(n, 2), kept[n].second, sums2);
      take_read(kept[n].second, kept[n].dy);
    }
    block_norms(weights.block.bn2, sums2, running.bn2, norm2);
  }

  // The block's output, and the third batch norm's statistics.
  void to_block_output() {
    for (int n = 0; n < images; ++n) {
      Activations& a = kept[n];
      for (int c = 0; c < CHANNELS; ++c)
        for (int k = c * READ_AREA; k < (c + 1) * READ_AREA; ++k)
          a.y[k] = relu(norm2[c].scale * a.dy[k] + norm2[c].shift + a.y[k]);
      to_third(a, [&](int c, int, const Vec* values) {
        for (int k = 0; k < TILE; ++k) sums3.add(c, values[k], values[k]);
      });
      sums3.end_image();
    }
    training_norms(sums3, latter_count(), weights.latter.bn, running.latter, norm3);
  }

  void to_logits_and_back() {
    in_groups(images, [&](auto count, int first_image) {
      constexpr int COUNT = decltype(count)::value;
      Vec* features = scratch.features;
      Vec dlogits[COUNT * CLASSES];
      to_features<COUNT>(first_image);
      classify<COUNT>(features, scratch.linear, weights.latter.fc_bias, dlogits);
      for (int n = 0; n < COUNT; ++n) {
        Vec* d = dlogits + n * CLASSES;
        cross_entropy_gradient(d, batch.labels[first_image + n], 1.0f / images);
        for (int o = 0; o < CLASSES; ++o) {
          kept[first_image + n].dlogits[o] = d[o];
          gradient.latter.fc_bias[o] += d[o];
        }
      }
      classify_add_weight_gradient<COUNT>(features, dlogits, scratch.dlinear);
      classify_input_gradient<COUNT>(dlogits, scratch.linear, features);
      for (int n = 0; n < COUNT; ++n) {
        const Vec* d = features + n * FEATURES;
        to_third(kept[first_image + n], [&](int c, int at, const Vec* values) {
          for (int k = 0; k < TILE; ++k) back3.add(c, d[c * READ_AREA + at + k], values[k]);
        });
        back3.end_image();
      }
    });
  }

  // Through the latter convolution and the block's last ReLU.
  void back_to_block_output() {
    NormGradient chain[WIDTH];
    norm_gradients(norm3, back3, latter_count(), gradient.latter.bn, chain);
    in_groups(images, [&](auto count, int first_image) {
      constexpr int COUNT = decltype(count)::value;
      Vec dlogits[COUNT * CLASSES];
      for (int n = 0; n < COUNT; ++n)
        std::memcpy(dlogits + n * CLASSES, kept[first_image + n].dlogits, sizeof kept->dlogits);
      to_features<COUNT>(first_image);
      classify_input_gradient<COUNT>(dlogits, scratch.linear, scratch.features);
      for (int n = 0; n < COUNT; ++n) {
        Activations& a = kept[first_image + n];
        Vec* dthird = scratch.features + n * FEATURES;
        to_third(a, [&](int c, int at, const Vec* values) {
          for (int k = 0, p = c * READ_AREA + at; k < TILE; ++k, ++p)
            dthird[p] = chain[c](dthird[p], values[k]);
        });
        latter_add_weight_gradient(a.y, dthird, gradient.latter.conv);
        Vec dy[READ];
        latter_input_gradient(dthird, weights.latter.conv, dy);
        for (int c = 0; c < CHANNELS; ++c)
          for (int k = c * READ_AREA; k < (c + 1) * READ_AREA; ++k) {
            const Vec d = gated(dy[k], a.y[k]);
            back2.add(c, d, a.dy[k]);
            a.dy[k] = d;
          }
        back2.end_image();
      }
    });
  }

  // Through the second batch norm, the second convolution and the ReLU before it.
  void back_to_first() {
    NormGradient chain[CHANNELS];
    block_gradients(norm2, back2, gradient.block.bn2, chain);
    Vec transposed[CHANNELS * CHANNELS * 9];
    transpose_weights<CHANNELS, CHANNELS>(weights.block.conv2, transposed);
    Vec *hidden = scratch.hidden, *d = scratch.d;
    for (int n = 0; n < images; ++n) {
      Activations& a = kept[n];
      normalised(a.first, hidden);
      for (int c = 0; c < CHANNELS; ++c) {
        for (int k = c * AREA; k < (c + 1) * AREA; ++k) d[k] = chain[c](Vec{}, a.second[k]);
        for (int k = 0; k < READ_AREA; ++k)
          d[c * AREA + read_position(k)] += chain[c].slope * a.dy[c * READ_AREA + k];
      }
      if (!frozen) add_weight_gradient<CHANNELS, CHANNELS>(hidden, d, gradient.block.conv2);
      convolve<CHANNELS, CHANNELS>(d, transposed, ZEROS, ahead(n, 2), [&](int c, int at, const Vec* values) {
        for (int k = 0, p = c * AREA + at; k < TILE; ++k, ++p) {
          a.second[p] = gated(values[k], hidden[p]);
          back1.add(c, a.second[p], a.first[p]);
        }
      });
      back1.end_image();
    }
  }

  // Through the first batch norm and convolution, the pooling and the former batch norm.
  void back_to_former() {
    NormGradient chain[CHANNELS];
    block_gradients(norm1, back1, gradient.block.bn1, chain);
    Vec transposed[CHANNELS * CHANNELS * 9];
    transpose_weights<CHANNELS, CHANNELS>(weights.block.conv1, transposed);
    FormerSums sums = {};
    Vec *h = scratch.h, *d = scratch.d, *dh = scratch.dh;
    for (int n = 0; n < images; ++n) {
      const Activations& a = kept[n];
      former_forward<true>(batch.images[n], former_weights, former_bias, h, scratch.routes);
      for (int c = 0; c < CHANNELS; ++c)
        for (int k = c * AREA; k < (c + 1) * AREA; ++k) d[k] = chain[c](a.second[k], a.first[k]);
      if (!frozen) add_weight_gradient<CHANNELS, CHANNELS>(h, d, gradient.block.conv1);
      convolve<CHANNELS, CHANNELS>(d, transposed, ZEROS, ahead(n, 2), [&](int c, int at, const Vec* values) {
        for (int k = 0, p = c * AREA + at; k < TILE; ++k, ++p) dh[p] = gated(values[k], h[p]);
      });
      for (int c = 0; c < CHANNELS; ++c)
        for (int k = 0; k < READ_AREA; ++k) {
          const int p = c * AREA + read_position(k);
          dh[p] += gated(a.dy[c * READ_AREA + k], h[p]);
        }
      former_backward(batch.images[n], dh, scratch.routes, sums);
    }
    former_gradient(sums);
  }

  void former_gradient(const FormerSums& sums) {
    const PatchMoments& moments = batch.moments;
    const Vec* w = weights.former.conv;
    for (int o = 0; o < CHANNELS; ++o) {
      Wide along = {};  // the sum of the gradient times the convolution's output
      for (int t = 0; t < 9; ++t) along += widen(w[o * 9 + t]) * sums.patches[o * 9 + t];
      const NormGradient chain = batch_norm_gradient(former[o], sums.gradient[o], along, former_count(),
                                                     gradient.former.bn.weight[o], gradient.former.bn.bias[o]);
      for (int t = 0; t < 9; ++t) {
        Wide outputs = {};  // the sum of the convolution's output times pixel t
        for (int s = 0; s < 9; ++s) outputs += moments.second[s][t] * widen(w[o * 9 + s]);
        gradient.former.conv[o * 9 + t] =
            narrow(widen(chain.slope) * sums.patches[o * 9 + t] + widen(chain.along) * outputs +
                   widen(chain.constant) * moments.first[t]);
      }
    }
  }

 private:
  double former_count() const { return double(images) * IMAGE_SIDE * IMAGE_SIDE; }
  double block_count() const { return double(images) * AREA; }
  double latter_count() const { return double(images) * READ_AREA; }

  // The next image's first `maps` kept maps.
  Ahead ahead(int n, int maps) const {
    if (n + 1 == images) return {};
    return {kept[n + 1].first, kept[n + 1].first + maps * MAP};
  }

  // The first batch norm and ReLU.
  void normalised(const Vec* first, Vec* hidden) const {
    for (int c = 0; c < CHANNELS; ++c)
      for (int k = c * AREA; k < (c + 1) * AREA; ++k)
        hidden[k] = relu(norm1[c].scale * first[k] + norm1[c].shift);
  }

  // The latter convolution of one image's kept y: cheaper to do again than to keep.
  template <class Emit>
  void to_third(const Activations& a, Emit&& emit) const {
    latter_convolve(a.y, weights.latter.conv, ZEROS, emit);
  }

  // With its batch norm and ReLU, in scratch.features.
  template <int COUNT>
  void to_features(int first_image) {
    for (int n = 0; n < COUNT; ++n)
      to_third(kept[first_image + n], [&](int c, int at, const Vec* values) {
        Vec* features = scratch.features + n * FEATURES + c * READ_AREA + at;
        for (int k = 0; k < TILE; ++k)
          features[k] = relu(norm3[c].scale * values[k] + norm3[c].shift);
      });
  }

  static void take_read(const Vec* map, Vec* read) {
    for (int c = 0; c < CHANNELS; ++c)
      for (int k = 0; k < READ_AREA; ++k)
        read[c * READ_AREA + k] = map[c * AREA + read_position(k)];
  }

  static void convolve_with_sums(const Vec* x, const Vec* w, Ahead ahead, Vec* out,
                                 Sums<CHANNELS>& sums) {
    convolve<CHANNELS, CHANNELS>(x, w, ZEROS, ahead, [&](int c, int at, const Vec* values) {
      for (int k = 0; k < TILE; ++k) {
        out[c * AREA + at + k] = values[k];
        sums.add(c, values[k], values[k]);
      }
    });
    sums.end_image();
  }

  void block_norms(const Affine<CHANNELS>& affine, const Sums<CHANNELS>& sums,
                   Running<CHANNELS>& statistics, Norm (&norms)[CHANNELS]) const {
    if (frozen)
      frozen_norms(affine, statistics, norms);
    else
      training_norms(sums, block_count(), affine, statistics, norms);
  }

  void block_gradients(const Norm (&norms)[CHANNELS], const Sums<CHANNELS>& sums,
                       Affine<CHANNELS>& affine, NormGradient (&chain)[CHANNELS]) const {
    if (frozen)
      for (int c = 0; c < CHANNELS; ++c) chain[c] = {norms[c].scale};
    else
      norm_gradients(norms, sums, block_count(), affine, chain);
  }
};

// --- step 2 and evaluation ----------------------------------------------------------------------

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
  void to_features(const Vec* y, Vec* features) const {
    latter_convolve(y, latter, latter_bias, [&](int c, int at, const Vec* values) {
      for (int k = 0; k < TILE; ++k) features[c * READ_AREA + at + k] = relu(values[k]);
    });
  }
};

// y = relu(second convolution of hidden + h) where the latter block reads it.
template <int IN>
void to_output(const Vec* hidden, const Vec* w, const Vec* bias, const Vec* h, Vec* y) {
  convolve_read<IN, CHANNELS>(hidden, w, bias, [&](int c, int at, const Vec* values) {
    for (int k = 0; k < TILE; ++k)
      y[c * READ_AREA + at + k] = relu(values[k] + h[c * AREA + read_position(at + k)]);
  });
}

template <int OUT>
void to_hidden(const Vec* h, const Vec* w, const Vec* bias, Vec* hidden) {
  convolve<CHANNELS, OUT>(h, w, bias, {}, [&](int c, int at, const Vec* values) {
    for (int k = 0; k < TILE; ++k) hidden[c * AREA + at + k] = relu(values[k]);
  });
}

void small_forward(const SmallWeights& block, const Vec* h, Vec* hidden, Vec* y) {
  to_hidden<HIDDEN>(h, block.conv1, ZEROS, hidden);
  to_output<HIDDEN>(hidden, block.conv2, ZEROS, h, y);
}

struct Step2Scratch {
  SmallWeights gradient;
  Vec h[GROUP][MAP], hidden[GROUP][HIDDEN * AREA], y[GROUP][READ], features[GROUP * FEATURES];
  Vec dy[READ], dhidden[HIDDEN * AREA];
};

// The gradient of the mean loss, in scratch.gradient.
void step2(const Batch& batch, const Frozen& frozen, const SmallWeights& block,
           Step2Scratch& scratch) {
  const int images = batch.images.size();
  SmallWeights& gradient = scratch.gradient = {};
  in_groups(images, [&](auto count, int first_image) {
    constexpr int COUNT = decltype(count)::value;
    Vec *features = scratch.features, *dy = scratch.dy, *dhidden = scratch.dhidden;
    Vec dlogits[COUNT * CLASSES];
    for (int n = 0; n < COUNT; ++n) {
      frozen.to_block(batch.images[first_image + n], scratch.h[n]);
      small_forward(block, scratch.h[n], scratch.hidden[n], scratch.y[n]);
      frozen.to_features(scratch.y[n], features + n * FEATURES);
    }
    classify<COUNT>(features, frozen.linear, frozen.linear_bias, dlogits);
    for (int n = 0; n < COUNT; ++n)
      cross_entropy_gradient(dlogits + n * CLASSES, batch.labels[first_image + n], 1.0f / images);
    classify_input_gradient<COUNT>(dlogits, frozen.linear, features);
    for (int n = 0; n < COUNT; ++n) {
      const Vec *h = scratch.h[n], *hidden = scratch.hidden[n], *y = scratch.y[n];
      latter_input_gradient(features + n * FEATURES, frozen.latter, dy);
      for (int k = 0; k < READ; ++k) dy[k] = gated(dy[k], y[k]);
      add_read_weight_gradient<HIDDEN, CHANNELS>(hidden, dy, gradient.conv2);
      read_input_gradient<CHANNELS>(dy, block.conv2, [&](int c, int at, const Vec* d) {
        for (int k = 0, p = c * AREA + at; k < TILE; ++k, ++p) dhidden[p] = gated(d[k], hidden[p]);
      });
      add_weight_gradient<CHANNELS, HIDDEN>(h, dhidden, gradient.conv1);
    }
  });
}

struct EvaluationScratch {
  Vec h[MAP], hidden[MAP], y[READ], features[GROUP * FEATURES];
};

// block(h, hidden, y) computes the block's output y where the latter block reads it.
template <class Block>
void evaluate_pack(const Batch& batch, const Frozen& frozen, const Block& block,
                   EvaluationScratch& scratch, int64_t* correct) {
  in_groups(batch.images.size(), [&](auto count, int first_image) {
    constexpr int COUNT = decltype(count)::value;
    Vec* features = scratch.features;
    Vec logits[COUNT * CLASSES];
    for (int n = 0; n < COUNT; ++n) {
      frozen.to_block(batch.images[first_image + n], scratch.h);
      block(scratch.h, scratch.hidden, scratch.y);
      frozen.to_features(scratch.y, features + n * FEATURES);
    }
    classify<COUNT>(features, frozen.linear, frozen.linear_bias, logits);
    for (int n = 0; n < COUNT; ++n) {
      Vec top = logits[n * CLASSES];
      Int winner = {};
      for (int o = 1; o < CLASSES; ++o) {
        winner = logits[n * CLASSES + o] > top ? Int{} + o : winner;
        top = maximum(logits[n * CLASSES + o], top);
      }
      for (int lane = 0; lane < LANES; ++lane)
        correct[lane] += winner[lane] == batch.labels[first_image + n];
    }
  });
}

// --- packs over threads -------------------------------------------------------------------------

// work(pack, thread, scratch) for every pack, with a Scratch for each thread.
template <class Scratch, class Work>
void for_each_pack(int packs, int threads, Work&& work) {
  std::atomic<int> next{0};
  const auto run = [&](int thread) {
    const FlushDenormals flush;
    const std::unique_ptr<Scratch> scratch(new Scratch);
    for (int pack; (pack = next++) < packs;) work(pack, thread, *scratch);
  };
  std::vector<std::thread> helpers;
  for (int thread = 1; thread < threads && thread < packs; ++thread) helpers.emplace_back(run, thread);
  run(0);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace
}  // namespace kt

// --- C interface --------------------------------------------------------------------------------
// Sizes are in vectors of sixteen floats; every float pointer is aligned to one.

extern "C" {

int kt_network_weights() { return kt::vectors<kt::NetworkWeights>(); }
int kt_network_statistics() { return kt::vectors<kt::NetworkStatistics>(); }
int kt_small_weights() { return kt::vectors<kt::SmallWeights>(); }
int kt_frozen_weights() { return kt::vectors<kt::FrozenWeights>(); }
int kt_frozen_large() { return kt::vectors<kt::FrozenLarge>(); }
int kt_activations() { return kt::vectors<kt::Activations>(); }

// One step of SGD on each pack. `activations` has room for threads * images.
void kt_train_networks(int packs, void* weights, void* momenta, void* statistics,
                       const float* pixels, const int64_t* labels, int images, float lr,
                       float momentum, int freeze_block, void* activations, int threads) {
  using namespace kt;
  Batch batch(pixels, labels, images);
  for (const Image& image : batch.images) batch.moments.add(image);
  for_each_pack<Step1Scratch>(packs, threads, [&](int pack, int thread, Step1Scratch& scratch) {
    NetworkWeights& w = static_cast<NetworkWeights*>(weights)[pack];
    Activations* kept = static_cast<Activations*>(activations) + int64_t(thread) * images;
    Step1(batch, w, static_cast<NetworkStatistics*>(statistics)[pack], kept, scratch, freeze_block)
        .run();
    sgd(w, static_cast<NetworkWeights*>(momenta)[pack], scratch.gradient, lr, momentum);
  });
}

void kt_train_small(int packs, void* weights, void* momenta, const void* frozen,
                    const float* pixels, const int64_t* labels, int images, float lr,
                    float momentum, int threads) {
  using namespace kt;
  const Batch batch(pixels, labels, images);
  for_each_pack<Step2Scratch>(packs, threads, [&](int pack, int, Step2Scratch& scratch) {
    const auto around = std::make_unique<Frozen>(static_cast<const FrozenWeights*>(frozen)[pack]);
    SmallWeights& w = static_cast<SmallWeights*>(weights)[pack];
    step2(batch, *around, w, scratch);
    sgd(w, static_cast<SmallWeights*>(momenta)[pack], scratch.gradient, lr, momentum);
  });
}

// Adds each network's correctly classified images to correct [packs][16].
void kt_evaluate_small(int packs, const void* weights, const void* frozen, const float* pixels,
                       const int64_t* labels, int images, int64_t* correct, int threads) {
  using namespace kt;
  const Batch batch(pixels, labels, images);
  for_each_pack<EvaluationScratch>(packs, threads, [&](int pack, int, EvaluationScratch& scratch) {
    const auto around = std::make_unique<Frozen>(static_cast<const FrozenWeights*>(frozen)[pack]);
    const SmallWeights& w = static_cast<const SmallWeights*>(weights)[pack];
    const auto block = [&](const Vec* h, Vec* hidden, Vec* y) { small_forward(w, h, hidden, y); };
    evaluate_pack(batch, *around, block, scratch, correct + pack * LANES);
  });
}

void kt_evaluate_large(int packs, const void* weights, const void* frozen, const float* pixels,
                       const int64_t* labels, int images, int64_t* correct, int threads) {
  using namespace kt;
  const Batch batch(pixels, labels, images);
  for_each_pack<EvaluationScratch>(packs, threads, [&](int pack, int, EvaluationScratch& scratch) {
    const auto around = std::make_unique<Frozen>(static_cast<const FrozenWeights*>(frozen)[pack]);
    const FrozenLarge& w = static_cast<const FrozenLarge*>(weights)[pack];
    Norm norm1[CHANNELS], norm2[CHANNELS];
    frozen_norms(w.weights.bn1, w.bn1, norm1);
    frozen_norms(w.weights.bn2, w.bn2, norm2);
    constexpr int PER_OUT = CHANNELS * 9;
    Vec conv1[CHANNELS * PER_OUT], bias1[CHANNELS], conv2[CHANNELS * PER_OUT], bias2[CHANNELS];
    fold<CHANNELS, PER_OUT>(w.weights.conv1, norm1, conv1, bias1);
    fold<CHANNELS, PER_OUT>(w.weights.conv2, norm2, conv2, bias2);
    const auto block = [&](const Vec* h, Vec* hidden, Vec* y) {
      to_hidden<CHANNELS>(h, conv1, bias1, hidden);
      to_output<CHANNELS>(hidden, conv2, bias2, h, y);
    };
    evaluate_pack(batch, *around, block, scratch, correct + pack * LANES);
  });
}
}
