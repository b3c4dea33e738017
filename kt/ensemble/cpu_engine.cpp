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

// Two sums over the batch for each channel, formed image by image in single precision.
template <int C>
struct Sums {
  Wide first[C] = {}, second[C] = {};
  Vec image_first[C] = {}, image_second[C] = {};

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

// --- step 1 -------------------------------------------------------------------------------------

// What is kept of every image between the passes over a batch, for one pack.
struct Activations {
  Vec h[MAP];           // the former block's output
  Vec first[MAP];       // of the first convolution
  Vec second[MAP];      // of the second; then the gradient of the first batch norm's output
  Vec third[FEATURES];  // of the latter convolution
  Vec dthird[FEATURES]; // gradient of the third batch norm's output
  Vec y[READ], dy[READ];  // the block's output where it is read; gradient before its ReLU
  Bytes routes[MAP];
};

constexpr int GROUP = 4;  // images that share one reading of the linear layer's weights

struct Step1 {
  const Batch& batch;
  NetworkWeights& weights;
  NetworkStatistics& running;
  Activations* kept;
  const bool frozen;  // whether the large block is
  const int images;

  NetworkWeights gradient = {};
  Norm former[CHANNELS], norm1[CHANNELS], norm2[CHANNELS], norm3[WIDTH];
  Sums<CHANNELS> sums1, sums2, back1, back2;
  Sums<WIDTH> sums3, back3;

  Step1(const Batch& batch, NetworkWeights& weights, NetworkStatistics& running,
        Activations* kept, bool frozen)
      : batch(batch), weights(weights), running(running), kept(kept), frozen(frozen),
        images(batch.images.size()) {}

  void run() {
    former_statistics();
    to_first();
    to_second();
    to_third();
    loss_and_back();
    back_to_block();
    back_to_first();
    back_to_former();
  }

  // The former batch norm, from the patches' moments.
  void former_statistics() {
    const PatchMoments& moments = batch.moments;
    Sums<CHANNELS> sums;
    for (int o = 0; o < CHANNELS; ++o)
      for (int s = 0; s < 9; ++s) {
        Wide row = {};
        for (int t = 0; t < 9; ++t) row += moments.second[s][t] * widen(weights.former.conv[o * 9 + t]);
        sums.first[o] += moments.first[s] * widen(weights.former.conv[o * 9 + s]);
        sums.second[o] += row * widen(weights.former.conv[o * 9 + s]);
      }
    training_norms(sums, former_count(), weights.former.bn, running.former, former);
  }

  void to_first() {
    Vec w[CHANNELS * 9], bias[CHANNELS];
    fold<CHANNELS, 9>(weights.former.conv, former, w, bias);
    for (int n = 0; n < images; ++n) {
      Activations& a = kept[n];
      former_forward<true>(batch.images[n], w, bias, a.h, a.routes);
      convolve_with_sums(a.h, weights.block.conv1, a.first, sums1);
    }
    if (frozen)
      frozen_norms(weights.block.bn1, running.bn1, norm1);
    else
      training_norms(sums1, block_count(), weights.block.bn1, running.bn1, norm1);
  }

  void to_second() {
    Vec hidden[MAP];
    for (int n = 0; n < images; ++n) {
      normalised(kept[n].first, hidden);
      convolve_with_sums(hidden, weights.block.conv2, kept[n].second, sums2);
    }
    if (frozen)
      frozen_norms(weights.block.bn2, running.bn2, norm2);
    else
      training_norms(sums2, block_count(), weights.block.bn2, running.bn2, norm2);
  }

  void to_third() {
    for (int n = 0; n < images; ++n) {
      Activations& a = kept[n];
      for (int c = 0; c < CHANNELS; ++c)
        for (int k = 0; k < READ_AREA; ++k) {
          const int at = c * AREA + read_position(k);
          a.y[c * READ_AREA + k] =
              relu(norm2[c].scale * a.second[at] + norm2[c].shift + a.h[at]);
        }
      latter_convolve(a.y, weights.latter.conv, ZEROS, a.third);
      for (int c = 0; c < WIDTH; ++c)
        for (int k = 0; k < READ_AREA; ++k) {
          const Vec value = a.third[c * READ_AREA + k];
          sums3.image_first[c] += value;
          sums3.image_second[c] += value * value;
        }
      sums3.end_image();
    }
    training_norms(sums3, latter_count(), weights.latter.bn, running.latter, norm3);
  }

  void loss_and_back() {
    int n = 0;
    for (; n + GROUP <= images; n += GROUP) loss_and_back_of<GROUP>(n);
    for (; n < images; ++n) loss_and_back_of<1>(n);
  }

  template <int COUNT>
  void loss_and_back_of(int first_image) {
    Vec features[COUNT * FEATURES], dfeatures[COUNT * FEATURES], logits[COUNT * CLASSES];
    for (int n = 0; n < COUNT; ++n)
      for (int c = 0; c < WIDTH; ++c)
        for (int k = c * READ_AREA; k < (c + 1) * READ_AREA; ++k)
          features[n * FEATURES + k] =
              relu(norm3[c].scale * kept[first_image + n].third[k] + norm3[c].shift);
    classify<COUNT>(features, weights.latter.fc, weights.latter.fc_bias, logits);
    for (int n = 0; n < COUNT; ++n) {
      cross_entropy_gradient(logits + n * CLASSES, batch.labels[first_image + n], 1.0f / images);
      for (int o = 0; o < CLASSES; ++o) gradient.latter.fc_bias[o] += logits[n * CLASSES + o];
    }
    classify_backward<COUNT>(features, weights.latter.fc, logits, dfeatures, gradient.latter.fc);
    for (int n = 0; n < COUNT; ++n) {
      Activations& a = kept[first_image + n];
      for (int c = 0; c < WIDTH; ++c)
        for (int k = c * READ_AREA; k < (c + 1) * READ_AREA; ++k) {
          const Vec d = dfeatures[n * FEATURES + k];
          a.dthird[k] = d;
          back3.image_first[c] += d;
          back3.image_second[c] += d * a.third[k];
        }
      back3.end_image();
    }
  }

  // Through the latter convolution and the block's last ReLU.
  void back_to_block() {
    NormGradient chain[WIDTH];
    norm_gradients(norm3, back3, latter_count(), gradient.latter.bn, chain);
    for (int n = 0; n < images; ++n) {
      Activations& a = kept[n];
      Vec dthird[FEATURES];
      for (int c = 0; c < WIDTH; ++c)
        for (int k = c * READ_AREA; k < (c + 1) * READ_AREA; ++k)
          dthird[k] = chain[c](a.dthird[k], a.third[k]);
      latter_add_weight_gradient(a.y, dthird, gradient.latter.conv);
      latter_input_gradient(dthird, weights.latter.conv, a.dy);
      for (int c = 0; c < CHANNELS; ++c)
        for (int k = 0; k < READ_AREA; ++k) {
          Vec& d = a.dy[c * READ_AREA + k];
          d = gated(d, a.y[c * READ_AREA + k]);
          back2.image_first[c] += d;
          back2.image_second[c] += d * a.second[c * AREA + read_position(k)];
        }
      back2.end_image();
    }
  }

  // Through the second batch norm, the second convolution and the ReLU before it.
  void back_to_first() {
    NormGradient chain[CHANNELS];
    block_gradients(norm2, back2, gradient.block.bn2, chain);
    Vec transposed[CHANNELS * CHANNELS * 9], hidden[MAP], dsecond[MAP];
    transpose_weights<CHANNELS, CHANNELS>(weights.block.conv2, transposed);
    for (int n = 0; n < images; ++n) {
      Activations& a = kept[n];
      normalised(a.first, hidden);
      for (int c = 0; c < CHANNELS; ++c) {
        for (int k = c * AREA; k < (c + 1) * AREA; ++k) dsecond[k] = chain[c](Vec{}, a.second[k]);
        for (int k = 0; k < READ_AREA; ++k)
          dsecond[c * AREA + read_position(k)] += chain[c].slope * a.dy[c * READ_AREA + k];
      }
      if (!frozen) add_weight_gradient<CHANNELS, CHANNELS>(hidden, dsecond, gradient.block.conv2);
      convolve<CHANNELS, CHANNELS>(dsecond, transposed, ZEROS, [&](int c, int at, const Vec* d) {
        for (int p = c * AREA + at, k = 0; k < TILE; ++p, ++k) {
          const Vec value = gated(d[k], hidden[p]);
          a.second[p] = value;
          back1.image_first[c] += value;
          back1.image_second[c] += value * a.first[p];
        }
      });
      back1.end_image();
    }
  }

  // Through the first batch norm and convolution, the pooling and the former batch norm.
  void back_to_former() {
    NormGradient chain[CHANNELS];
    block_gradients(norm1, back1, gradient.block.bn1, chain);
    Vec transposed[CHANNELS * CHANNELS * 9], dfirst[MAP], dh[MAP];
    transpose_weights<CHANNELS, CHANNELS>(weights.block.conv1, transposed);
    FormerSums sums = {};
    for (int n = 0; n < images; ++n) {
      const Activations& a = kept[n];
      for (int c = 0; c < CHANNELS; ++c)
        for (int k = c * AREA; k < (c + 1) * AREA; ++k) dfirst[k] = chain[c](a.second[k], a.first[k]);
      if (!frozen) add_weight_gradient<CHANNELS, CHANNELS>(a.h, dfirst, gradient.block.conv1);
      convolve<CHANNELS, CHANNELS>(dfirst, transposed, ZEROS, [&](int c, int at, const Vec* d) {
        for (int k = 0; k < TILE; ++k) dh[c * AREA + at + k] = d[k];
      });
      for (int c = 0; c < CHANNELS; ++c)
        for (int k = 0; k < READ_AREA; ++k)
          dh[c * AREA + read_position(k)] += a.dy[c * READ_AREA + k];
      for (int k = 0; k < MAP; ++k) dh[k] = gated(dh[k], a.h[k]);
      former_backward(batch.images[n], dh, a.routes, sums);
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

  // The first batch norm and ReLU.
  void normalised(const Vec* first, Vec* hidden) const {
    for (int c = 0; c < CHANNELS; ++c)
      for (int k = c * AREA; k < (c + 1) * AREA; ++k)
        hidden[k] = relu(norm1[c].scale * first[k] + norm1[c].shift);
  }

  static void convolve_with_sums(const Vec* x, const Vec* w, Vec* out, Sums<CHANNELS>& sums) {
    convolve<CHANNELS, CHANNELS>(x, w, ZEROS, [&](int c, int at, const Vec* values) {
      for (int k = 0; k < TILE; ++k) {
        out[c * AREA + at + k] = values[k];
        sums.image_first[c] += values[k];
        sums.image_second[c] += values[k] * values[k];
      }
    });
    sums.end_image();
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
  const Vec *fc, *fc_bias;

  explicit Frozen(const FrozenWeights& w) : fc(w.latter.fc), fc_bias(w.latter.fc_bias) {
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
    latter_convolve(y, latter, latter_bias, features);
    for (int k = 0; k < FEATURES; ++k) features[k] = relu(features[k]);
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
  convolve<CHANNELS, OUT>(h, w, bias, [&](int c, int at, const Vec* values) {
    for (int k = 0; k < TILE; ++k) hidden[c * AREA + at + k] = relu(values[k]);
  });
}

void small_forward(const SmallWeights& block, const Vec* h, Vec* hidden, Vec* y) {
  to_hidden<HIDDEN>(h, block.conv1, ZEROS, hidden);
  to_output<HIDDEN>(hidden, block.conv2, ZEROS, h, y);
}

template <int COUNT>
void step2_of(const Batch& batch, int first_image, const Frozen& frozen, const SmallWeights& block,
              SmallWeights& gradient) {
  Vec h[COUNT][MAP], hidden[COUNT][HIDDEN * AREA], y[COUNT][READ];
  Vec features[COUNT * FEATURES], dfeatures[COUNT * FEATURES], logits[COUNT * CLASSES];
  for (int n = 0; n < COUNT; ++n) {
    frozen.to_block(batch.images[first_image + n], h[n]);
    small_forward(block, h[n], hidden[n], y[n]);
    frozen.to_features(y[n], features + n * FEATURES);
  }
  classify<COUNT>(features, frozen.fc, frozen.fc_bias, logits);
  for (int n = 0; n < COUNT; ++n)
    cross_entropy_gradient(logits + n * CLASSES, batch.labels[first_image + n],
                           1.0f / batch.images.size());
  classify_backward<COUNT>(features, frozen.fc, logits, dfeatures, nullptr);
  for (int n = 0; n < COUNT; ++n) {
    Vec dy[READ], dhidden[HIDDEN * AREA];
    latter_input_gradient(dfeatures + n * FEATURES, frozen.latter, dy);
    for (int k = 0; k < READ; ++k) dy[k] = gated(dy[k], y[n][k]);
    add_read_weight_gradient<HIDDEN, CHANNELS>(hidden[n], dy, gradient.conv2);
    read_input_gradient<CHANNELS>(dy, block.conv2, [&](int c, int at, const Vec* d) {
      for (int k = c * AREA + at, p = 0; p < TILE; ++k, ++p) dhidden[k] = gated(d[p], hidden[n][k]);
    });
    add_weight_gradient<CHANNELS, HIDDEN>(h[n], dhidden, gradient.conv1);
  }
}

template <int COUNT, class Block>
void count_correct(const Batch& batch, int first_image, const Frozen& frozen, const Block& block,
                   int64_t* correct) {
  Vec h[MAP], hidden[MAP], y[READ], features[COUNT * FEATURES], logits[COUNT * CLASSES];
  for (int n = 0; n < COUNT; ++n) {
    frozen.to_block(batch.images[first_image + n], h);
    block(h, hidden, y);
    frozen.to_features(y, features + n * FEATURES);
  }
  classify<COUNT>(features, frozen.fc, frozen.fc_bias, logits);
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
}

template <class Block>
void evaluate_pack(const Batch& batch, const Frozen& frozen, const Block& block, int64_t* correct) {
  const int images = batch.images.size();
  int n = 0;
  for (; n + GROUP <= images; n += GROUP) count_correct<GROUP>(batch, n, frozen, block, correct);
  for (; n < images; ++n) count_correct<1>(batch, n, frozen, block, correct);
}

// --- packs over threads -------------------------------------------------------------------------

// work(pack, thread) for every pack.
template <class Work>
void for_each_pack(int packs, int threads, Work&& work) {
  std::atomic<int> next{0};
  const auto run = [&](int thread) {
    const FlushDenormals flush;
    for (int pack; (pack = next++) < packs;) work(pack, thread);
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
  for_each_pack(packs, threads, [&](int pack, int thread) {
    NetworkWeights& w = static_cast<NetworkWeights*>(weights)[pack];
    Activations* kept = static_cast<Activations*>(activations) + int64_t(thread) * images;
    const auto step = std::make_unique<Step1>(
        batch, w, static_cast<NetworkStatistics*>(statistics)[pack], kept, freeze_block);
    step->run();
    sgd(w, static_cast<NetworkWeights*>(momenta)[pack], step->gradient, lr, momentum);
  });
}

void kt_train_small(int packs, void* weights, void* momenta, const void* frozen,
                    const float* pixels, const int64_t* labels, int images, float lr,
                    float momentum, int threads) {
  using namespace kt;
  const Batch batch(pixels, labels, images);
  for_each_pack(packs, threads, [&](int pack, int) {
    const Frozen around(static_cast<const FrozenWeights*>(frozen)[pack]);
    SmallWeights& w = static_cast<SmallWeights*>(weights)[pack];
    SmallWeights gradient = {};
    int n = 0;
    for (; n + GROUP <= images; n += GROUP) step2_of<GROUP>(batch, n, around, w, gradient);
    for (; n < images; ++n) step2_of<1>(batch, n, around, w, gradient);
    sgd(w, static_cast<SmallWeights*>(momenta)[pack], gradient, lr, momentum);
  });
}

// Adds each network's correctly classified images to correct [packs][16].
void kt_evaluate_small(int packs, const void* weights, const void* frozen, const float* pixels,
                       const int64_t* labels, int images, int64_t* correct, int threads) {
  using namespace kt;
  const Batch batch(pixels, labels, images);
  for_each_pack(packs, threads, [&](int pack, int) {
    const Frozen around(static_cast<const FrozenWeights*>(frozen)[pack]);
    const SmallWeights& w = static_cast<const SmallWeights*>(weights)[pack];
    const auto block = [&](const Vec* h, Vec* hidden, Vec* y) { small_forward(w, h, hidden, y); };
    evaluate_pack(batch, around, block, correct + pack * LANES);
  });
}

void kt_evaluate_large(int packs, const void* weights, const void* frozen, const float* pixels,
                       const int64_t* labels, int images, int64_t* correct, int threads) {
  using namespace kt;
  const Batch batch(pixels, labels, images);
  for_each_pack(packs, threads, [&](int pack, int) {
    const Frozen around(static_cast<const FrozenWeights*>(frozen)[pack]);
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
    evaluate_pack(batch, around, block, correct + pack * LANES);
  });
}
}
