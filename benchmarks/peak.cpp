// The processor's multiply-add peak: a loop that stays in registers.
#include <thread>
#include <vector>

#include "lanes.h"

namespace {

constexpr int CHAINS = 12;  // enough to hide the latency, few enough for sixteen registers

float run(int64_t rounds, float factor) {
  kt::Vec acc[CHAINS];
#pragma GCC unroll 12
  for (int k = 0; k < CHAINS; ++k) acc[k] = kt::splat(float(k));
  const kt::Vec a = kt::splat(factor), b = kt::splat(1 - factor);
  for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; ++k) acc[k] = kt::fma(acc[k], a, b);
  float sum = 0;
#pragma GCC unroll 12
  for (int k = 0; k < CHAINS; ++k) sum += acc[k][0];
  return sum;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Floating-point operations of a round in one thread.
int round_flop() { return 2 * CHAINS * kt::LANES; }

// The result is of no interest, but compilers must not know.
float multiply_add(int64_t rounds, int threads, float factor) {
  std::vector<float> results(threads);
  std::vector<std::thread> helpers;
  for (int k = 1; k < threads; ++k)
    helpers.emplace_back([&, k] { results[k] = run(rounds, factor); });
  results[0] = run(rounds, factor);
  for (std::thread& helper : helpers) helper.join();
  float sum = 0;
  for (float result : results) sum += result;
  return sum;
}
}
#pragma GCC visibility pop
