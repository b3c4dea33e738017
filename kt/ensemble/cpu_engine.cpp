// Training and evaluating packs of LANES networks on the same images: the C interface that
// cpu_engine.py calls. Each pack is computed by one thread from start to end, each lane by the same
// operations, so that no result depends on the number of threads or on the networks alongside.
//
// Sizes are in vectors of LANES floats; every pointer to floats is aligned to one.

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "cpu/frozen.h"
#include "cpu/nearest.h"
#include "cpu/state.h"
#include "cpu/train.h"

namespace kt {
namespace {

// work(pack, scratch) for every pack, with a scratch_of(thread) for each thread.
template <class ScratchOf, class Work>
void for_each_pack(int packs, int threads, ScratchOf&& scratch_of, Work&& work) {
  std::atomic<int> next{0};
  const auto run = [&](int thread) {
    const FlushDenormals flush;
    const auto scratch = scratch_of(thread);
    for (int pack; (pack = next++) < packs;) work(pack, *scratch);
  };
  std::vector<std::thread> helpers;
  for (int thread = 1; thread < threads && thread < packs; ++thread)
    helpers.emplace_back(run, thread);
  run(0);
  for (std::thread& helper : helpers) helper.join();
}

template <class Scratch>
std::unique_ptr<Scratch> created(int) {
  return std::unique_ptr<Scratch>(new Scratch);
}

template <class Small>
void train_small(int packs, void* weights, void* momenta, const void* frozen, const float* pixels,
                 const int64_t* labels, int images, float lr, float momentum, int threads) {
  const Batch batch(pixels, labels, images);
  for_each_pack(packs, threads, created<GradientScratch<Small>>, [&](int pack, auto& scratch) {
    const auto around = std::make_unique<Frozen>(static_cast<const FrozenWeights*>(frozen)[pack]);
    Small& w = static_cast<Small*>(weights)[pack];
    small_gradient(images, *around, w, scratch, around->of(batch), [&](int n, Vec* logits) {
      cross_entropy_gradient(logits, batch.labels[n], 1.0f / images);
    });
    sgd(w, static_cast<Small*>(momenta)[pack], scratch.gradient, lr, momentum);
  });
}

// A block as `to_logits` takes it: with_block(weights, run) calls run(block). Where it is wanted, a
// large block also tells what comes before its last ReLU.
template <class Small, class Run>
void with_block(const Small& w, Run&& run) {
  run([&](const Vec* h, Passage<Small>& passage, Vec* y, Vec* = nullptr) {
    forward<false>(w, h, passage, y);
  });
}
template <class Run>
void with_block(const FrozenLarge& w, Run&& run) {
  Norm norm1[CHANNELS], norm2[CHANNELS];
  frozen_norms(w.weights.bn1, w.bn1, norm1);
  frozen_norms(w.weights.bn2, w.bn2, norm2);
  constexpr int PER_OUT = CHANNELS * 9;
  Vec conv1[CHANNELS * PER_OUT], bias1[CHANNELS], conv2[CHANNELS * PER_OUT], bias2[CHANNELS];
  fold<CHANNELS, PER_OUT>(w.weights.conv1, norm1, conv1, bias1);
  fold<CHANNELS, PER_OUT>(w.weights.conv2, norm2, conv2, bias2);
  run([&](const Vec* h, Passage<FrozenLarge>& passage, Vec* y, Vec* before = nullptr) {
    to_hidden<CHANNELS>(h, conv1, bias1, passage.hidden);
    to_output<CHANNELS>(passage.hidden, conv2, bias2, h, y, before);
  });
}

template <class Weights>
void outputs(int packs, const void* weights, const void* frozen, const float* pixels, int images,
             void* logits, int threads) {
  const Batch batch(pixels, nullptr, images);
  for_each_pack(packs, threads, created<OutputScratch<Weights>>, [&](int pack, auto& scratch) {
    const auto around = std::make_unique<Frozen>(static_cast<const FrozenWeights*>(frozen)[pack]);
    Vec* out = static_cast<Vec*>(logits) + int64_t(pack) * images * CLASSES;
    with_block(static_cast<const Weights*>(weights)[pack], [&](const auto& block) {
      to_logits(images, *around, block, scratch, around->of(batch), out);
    });
  });
}

// Images first to first + images of those whose former blocks' maps are kept, [packs][kept][MAP].
struct Shown {
  const void *around, *maps;
  int kept, first, images;

  const Frozen& frozen(int pack) const { return static_cast<const Frozen*>(around)[pack]; }
  auto of(int pack) const {
    const Vec* map = static_cast<const Vec*>(maps) + (int64_t(pack) * kept + first) * MAP;
    return [map](int image, Vec*) { return map + image * MAP; };
  }
};

// `ys`, if there are any, are large blocks' outputs before their last ReLU where the latter blocks
// read, [packs][images][READ].
template <class Weights>
void shown_outputs(int packs, const void* weights, const Shown& shown, void* logits, void* ys,
                   int threads) {
  for_each_pack(packs, threads, created<OutputScratch<Weights>>, [&](int pack, auto& scratch) {
    Vec* out = static_cast<Vec*>(logits) + int64_t(pack) * shown.images * CLASSES;
    Vec* kept = ys ? static_cast<Vec*>(ys) + int64_t(pack) * shown.images * READ : nullptr;
    with_block(static_cast<const Weights*>(weights)[pack], [&](const auto& block) {
      const auto keeping = [&](const Vec* h, Passage<Weights>& passage, Vec* y) {
        block(h, passage, y, kept);
        if (kept) kept += READ;
      };
      to_logits(shown.images, shown.frozen(pack), keeping, scratch, shown.of(pack), out);
    });
  });
}

// Images of `ys` [packs][kept][READ], what large blocks made of them.
const Vec* followed(const void* ys, int pack, const Shown& shown) {
  return static_cast<const Vec*>(ys) + (int64_t(pack) * shown.kept + shown.first) * READ;
}

// The equations of second convolutions behind the candidates' hidden channels.
inline void add_all(FirstConvolution<CHANNELS>& first, const Candidates& w, const Shown& shown,
                    int pack, const void* ys, Equations<CHANNELS>& all) {
  first.conv1 = w.conv1, first.bias1 = w.bias1, first.bias2 = w.bias2;
  const auto of = shown.of(pack);
  const Vec* y = followed(ys, pack, shown);
  for (int n = 0; n < shown.images; ++n) first.add(of(n, nullptr), y + n * READ, all);
}

// The second convolutions [packs][6][3][3][3] that bring small blocks nearest to `ys`.
template <class Small>
void nearest(int packs, const void* weights, const Shown& shown, const void* ys, float decay,
             void* found, int threads) {
  struct Scratch {
    FirstConvolution<HIDDEN> first;
    Equations<HIDDEN> equations;
  };
  for_each_pack(packs, threads, created<Scratch>, [&](int pack, Scratch& scratch) {
    const Small& w = static_cast<const Small*>(weights)[pack];
    auto& [first, equations] = scratch;
    first.conv1 = w.conv1, first.bias1 = first.bias2 = ZEROS;
    if constexpr (Small::BIASED) first.bias1 = w.bias1, first.bias2 = w.bias2;
    equations.clear();
    const auto maps = shown.of(pack);
    const Vec* y = followed(ys, pack, shown);
    for (int n = 0; n < shown.images; ++n) first.add(maps(n, nullptr), y + n * READ, equations);
    equations.factorise(decay);
    equations.solve(static_cast<Vec*>(found) + int64_t(pack) * vectors<SmallWeights>() / 2);
  });
}

// For each pack what whitens the gradients of small blocks' convolutions: [54][54], [27][27].
template <class Small>
void whitening(int packs, const void* weights, const Shown& shown, float damping, void* whitened,
               int threads) {
  struct Scratch {
    Whitening<CHANNELS> first;
    Whitening<HIDDEN> second;
    Vec hidden[HIDDEN * AREA];
  };
  constexpr int FIRST = CHANNELS * 9 * CHANNELS * 9, BOTH = FIRST + HIDDEN * 9 * HIDDEN * 9;
  for_each_pack(packs, threads, created<Scratch>, [&](int pack, Scratch& scratch) {
    const Small& w = static_cast<const Small*>(weights)[pack];
    const Vec* bias1 = ZEROS;
    if constexpr (Small::BIASED) bias1 = w.bias1;
    scratch.first.equations.clear(), scratch.second.equations.clear();
    const auto maps = shown.of(pack);
    for (int n = 0; n < shown.images; ++n) {
      const Vec* h = maps(n, nullptr);
      to_hidden<HIDDEN>(h, w.conv1, bias1, scratch.hidden);
      scratch.first.add(h);
      scratch.second.add(scratch.hidden);
    }
    Vec* out = static_cast<Vec*>(whitened) + int64_t(pack) * BOTH;
    scratch.first.invert(damping, out);
    scratch.second.invert(damping, out + FIRST);
  });
}

template <class Small>
void behaviour(int packs, const void* weights, const Shown& shown, const void* targets,
               void* gradients, void* losses, int threads) {
  for_each_pack(packs, threads, created<GradientScratch<Small>>, [&](int pack, auto& scratch) {
    const Vec* target = static_cast<const Vec*>(targets) + int64_t(pack) * shown.images * CLASSES;
    Vec loss = {};
    small_gradient(shown.images, shown.frozen(pack), static_cast<const Small*>(weights)[pack],
                   scratch, shown.of(pack), [&](int n, Vec* logits) {
                     const float weight = 1.0f / shown.images;
                     const Vec entropy =
                         soft_cross_entropy_gradient(logits, target + n * CLASSES, weight);
                     loss = fma(splat(weight), entropy, loss);
                   });
    static_cast<Small*>(gradients)[pack] = scratch.gradient;
    static_cast<Vec*>(losses)[pack] = loss;
  });
}

}  // namespace
}  // namespace kt

#pragma GCC visibility push(default)
extern "C" {

int kt_lanes() { return kt::LANES; }
int kt_network_weights() { return kt::vectors<kt::NetworkWeights>(); }
int kt_network_statistics() { return kt::vectors<kt::NetworkStatistics>(); }
int kt_frozen_weights() { return kt::vectors<kt::FrozenWeights>(); }

// What a thread needs in step 1 on so many images, in vectors.
int64_t kt_step1_memory(int images) {
  return kt::vectors<kt::Step1Scratch>() + int64_t(images) * kt::vectors<kt::Activations>();
}

// One step of SGD on each pack. `memory` holds kt_step1_memory for each thread.
void kt_train_networks(int packs, void* weights, void* momenta, void* statistics,
                       const float* pixels, const int64_t* labels, int images, float lr,
                       float momentum, int freeze_block, void* memory, int threads) {
  using namespace kt;
  Batch batch(pixels, labels, images);
  batch.moments.add(batch.images);
  const auto scratch_of = [&](int thread) {
    return reinterpret_cast<Step1Scratch*>(static_cast<Vec*>(memory) +
                                           thread * kt_step1_memory(images));
  };
  for_each_pack(packs, threads, scratch_of, [&](int pack, Step1Scratch& scratch) {
    NetworkWeights& w = static_cast<NetworkWeights*>(weights)[pack];
    Activations* kept = reinterpret_cast<Activations*>(&scratch + 1);
    Step1(batch, w, static_cast<NetworkStatistics*>(statistics)[pack], kept, scratch, freeze_block)
        .run();
    sgd(w, static_cast<NetworkWeights*>(momenta)[pack], scratch.gradient, lr, momentum);
  });
}

// Frozen parts made ready, around [packs][kt_around()], and the former blocks' maps of images,
// maps [packs][images][kt_map()]: the functions below go on from them. `frozen` must stay.
int kt_around() { return kt::vectors<kt::Frozen>(); }
int kt_map() { return kt::MAP; }
void kt_show(int packs, const void* frozen, const float* pixels, int images, void* around,
             void* maps, int threads) {
  using namespace kt;
  struct None {};
  const Batch batch(pixels, nullptr, images);
  for_each_pack(packs, threads, created<None>, [&](int pack, None&) {
    const Frozen& ready = *new (static_cast<Frozen*>(around) + pack)
                               Frozen(static_cast<const FrozenWeights*>(frozen)[pack]);
    for (int n = 0; n < images; ++n)
      ready.to_block(batch.images[n], static_cast<Vec*>(maps) + (int64_t(pack) * images + n) * MAP);
  });
}

// logits [packs][images][10][LANES] of all images, or of images first to first + images of the
// `kept` ones; ys may be null.
#define KT_OUTPUTS(kind, Weights)                                                                  \
  int kt_##kind##_weights() { return kt::vectors<Weights>(); }                                     \
  void kt_outputs_##kind(int packs, const void* weights, const void* frozen, const float* pixels,  \
                         int images, void* logits, int threads) {                                  \
    kt::outputs<Weights>(packs, weights, frozen, pixels, images, logits, threads);                 \
  }                                                                                                \
  void kt_shown_outputs_##kind(int packs, const void* weights, const void* around,                 \
                               const void* maps, int kept, int first, int images, void* logits,    \
                               void* ys, int threads) {                                            \
    kt::shown_outputs<Weights>(packs, weights, {around, maps, kept, first, images}, logits, ys,    \
                               threads);                                                           \
  }

// One step of SGD on each pack's small blocks. Cross-entropy with the probabilities targets
// [packs][images][10][LANES]: losses [packs][LANES] and the gradients of the small blocks' weights.
#define KT_SMALL(kind, Weights)                                                                    \
  KT_OUTPUTS(kind, Weights)                                                                        \
  void kt_train_##kind(int packs, void* weights, void* momenta, const void* frozen,                \
                       const float* pixels, const int64_t* labels, int images, float lr,           \
                       float momentum, int threads) {                                              \
    kt::train_small<Weights>(packs, weights, momenta, frozen, pixels, labels, images, lr,          \
                             momentum, threads);                                                   \
  }                                                                                                \
  void kt_behaviour_##kind(int packs, const void* weights, const void* around, const void* maps,   \
                           int kept, int first, int images, const void* targets, void* gradients,  \
                           void* losses, int threads) {                                            \
    kt::behaviour<Weights>(packs, weights, {around, maps, kept, first, images}, targets,           \
                           gradients, losses, threads);                                            \
  }

KT_OUTPUTS(large, kt::FrozenLarge)
KT_SMALL(conv, kt::SmallWeights)
KT_SMALL(conv_bias, kt::BiasedSmallWeights)
KT_SMALL(mlp, kt::MlpWeights)
KT_SMALL(attention, kt::AttentionWeights)

// Second convolutions of least squares, found [packs][6][3][3][3][LANES]: see above.
void kt_nearest_conv(int packs, const void* weights, const void* around, const void* maps,
                     int kept, int first, int images, const void* ys, float decay, void* found,
                     int threads) {
  kt::nearest<kt::SmallWeights>(packs, weights, {around, maps, kept, first, images}, ys, decay,
                                found, threads);
}
void kt_nearest_conv_bias(int packs, const void* weights, const void* around, const void* maps,
                          int kept, int first, int images, const void* ys, float decay,
                          void* found, int threads) {
  kt::nearest<kt::BiasedSmallWeights>(packs, weights, {around, maps, kept, first, images}, ys,
                                      decay, found, threads);
}

// What whitens gradients, whitened [packs][54 * 54 + 27 * 27][LANES]: see above.
void kt_whitening_conv(int packs, const void* weights, const void* around, const void* maps,
                       int kept, int first, int images, float damping, void* whitened,
                       int threads) {
  kt::whitening<kt::SmallWeights>(packs, weights, {around, maps, kept, first, images}, damping,
                                  whitened, threads);
}
void kt_whitening_conv_bias(int packs, const void* weights, const void* around, const void* maps,
                            int kept, int first, int images, float damping, void* whitened,
                            int threads) {
  kt::whitening<kt::BiasedSmallWeights>(packs, weights, {around, maps, kept, first, images},
                                        damping, whitened, threads);
}

// The normal equations of second convolutions behind all of the candidates' hidden channels:
// found [packs][54][54 + 6][LANES], of the products only what is on and above the diagonal.
void kt_equations(int packs, const void* candidates, const void* around, const void* maps, int kept,
                  int first, int images, const void* ys, void* found, int threads) {
  using namespace kt;
  const Shown shown{around, maps, kept, first, images};
  for_each_pack(packs, threads, created<FirstConvolution<CHANNELS>>, [&](int pack, auto& scratch) {
    auto& all = static_cast<Equations<CHANNELS>*>(found)[pack];
    all.clear();
    add_all(scratch, static_cast<const Candidates*>(candidates)[pack], shown, pack, ys, all);
  });
}

// For each of `choices` [count][3] among the candidates' hidden channels, in increasing order, how
// much second convolutions of least squares explain in the metric [packs][6][6][LANES]: explained
// [packs][count][LANES].
void kt_choices(int packs, const void* candidates, const void* around, const void* maps, int kept,
                int first, int images, const void* ys, const int32_t* choices, int count,
                const void* metric, float decay, void* explained, int threads) {
  using namespace kt;
  const Shown shown{around, maps, kept, first, images};
  struct Scratch {
    FirstConvolution<CHANNELS> first;
    Equations<CHANNELS> all;
    Equations<HIDDEN> some;
  };
  for_each_pack(packs, threads, created<Scratch>, [&](int pack, Scratch& scratch) {
    auto& [first, all, some] = scratch;
    all.clear();
    add_all(first, static_cast<const Candidates*>(candidates)[pack], shown, pack, ys, all);
    for (int choice = 0; choice < count; ++choice) {
      some.take(all, choices + choice * HIDDEN);
      some.factorise(decay);
      static_cast<Vec*>(explained)[int64_t(pack) * count + choice] = some.explained(
          static_cast<const Vec*>(metric) + int64_t(pack) * CHANNELS * CHANNELS);
    }
  });
}
}
#pragma GCC visibility pop
