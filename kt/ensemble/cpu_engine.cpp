// Training and evaluating packs of sixteen networks on the same images: the C interface that
// cpu_engine.py calls. Each pack is computed by one thread from start to end, each lane by the same
// operations, so that no result depends on the number of threads or on the networks alongside.
//
// Sizes are in vectors of sixteen floats; every pointer to floats is aligned to one.

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "cpu/frozen.h"
#include "cpu/state.h"
#include "cpu/train.h"

namespace kt {
namespace {

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
  for (int thread = 1; thread < threads && thread < packs; ++thread)
    helpers.emplace_back(run, thread);
  run(0);
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace
}  // namespace kt

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
