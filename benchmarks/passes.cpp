// Step 1's passes over a batch one by one, for `benchmarks.passes`.
#include <memory>

#include "train.h"

using namespace kt;

namespace {

struct Started {
  Batch batch;
  NetworkWeights weights;
  NetworkStatistics statistics;
  Step1 step;

  Started(const void* w, const void* s, const float* pixels, const int64_t* labels, int images,
          void* memory)
      : batch(pixels, labels, images),
        weights(*static_cast<const NetworkWeights*>(w)),
        statistics(*static_cast<const NetworkStatistics*>(s)),
        step(batch, weights, statistics,
             reinterpret_cast<Activations*>(static_cast<Step1Scratch*>(memory) + 1),
             *static_cast<Step1Scratch*>(memory), false) {
    batch.moments.add(batch.images);
    step.start();
  }
};

std::unique_ptr<Started> started;
void (Step1::*const PASSES[])() = {&Step1::to_first,           &Step1::to_second,
                                   &Step1::to_block_output,    &Step1::to_logits_and_back,
                                   &Step1::back_to_block_output, &Step1::back_to_first,
                                   &Step1::back_to_former};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// As kt_train_networks, of one pack.
void start(const void* weights, const void* statistics, const float* pixels, const int64_t* labels,
           int images, void* memory) {
  started = std::make_unique<Started>(weights, statistics, pixels, labels, images, memory);
}

// The pass of this number, in their order.
void run(int pass) {
  const FlushDenormals flush;
  (started->step.*PASSES[pass])();
}
}
#pragma GCC visibility pop
