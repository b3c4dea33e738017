// Batch norm of one channel, for a pack of networks: as an affine map, and its gradient as another.
#pragma once

#include <cmath>

#include "lanes.h"

namespace kt {

constexpr double EPSILON = 1e-5, RUNNING = 0.1;  // PyTorch's defaults

// z = scale * x + shift.
struct Norm {
  Vec scale, shift;
  Wide mean, inverse;  // inverse standard deviation

  Norm() = default;
  Vec operator()(Vec x) const { return fma(scale, x, shift); }

  Norm(Wide mean, Wide variance, Vec weight, Vec bias) : mean(mean) {
    for (int lane = 0; lane < LANES; ++lane)
      inverse[lane] = 1 / std::sqrt(variance[lane] + EPSILON);
    const Wide exact = widen(weight) * inverse;
    scale = narrow(exact);
    shift = narrow(fma(-mean, exact, widen(bias)));
  }
};

// In training: from the batch's sum of x and of x squared over `count` values; moves the running
// statistics on.
inline Norm batch_norm(Wide sum, Wide squares, double count, Vec weight, Vec bias,
                       Vec& running_mean, Vec& running_variance) {
  const Wide mean = sum / count, spread = fma(-mean, mean, squares / count);
  const Wide variance = spread > 0 ? spread : Wide{};
  running_mean = narrow(fma(splat(1 - RUNNING), widen(running_mean), RUNNING * mean));
  running_variance = narrow(
      fma(splat(1 - RUNNING), widen(running_variance), RUNNING * count / (count - 1) * variance));
  return Norm(mean, variance, weight, bias);
}

// dx = slope * dz + along * x + constant.
struct NormGradient {
  Vec slope, along = {}, constant = {};

  Vec operator()(Vec dz, Vec x) const { return fma(slope, dz, fma(along, x, constant)); }
};

// In training: from the batch's sums of dz and of dz * x; the gradients of weight and bias come
// out.
inline NormGradient batch_norm_gradient(const Norm& norm, Wide sum, Wide sum_x, double count,
                                        Vec& dweight, Vec& dbias) {
  const Wide projection = fma(-norm.mean, sum, sum_x) * norm.inverse;  // on the normalised x
  const Wide along = widen(norm.scale) * norm.inverse * projection / -count;
  dweight = narrow(projection);
  dbias = narrow(sum);
  return {norm.scale, narrow(along),
          narrow(fma(-along, norm.mean, -(widen(norm.scale) * sum / count)))};
}

}  // namespace kt
