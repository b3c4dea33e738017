// Step 1: the gradient of former, large block and latter, in passes over the batch between which
// batch norm's statistics are formed.
#pragma once

#include "ready.h"
#include "state.h"

namespace kt {

// What is kept of every image between the passes over a batch, for one pack. The passes are bound
// by memory as much as by arithmetic: what is cheap to compute again is not kept.
struct Activations {
  Vec first[MAP];   // output of the first convolution
  Vec second[MAP];  // of the second; later the gradient of the first batch norm's output
  // Where the latter block reads:
  Vec dy[READ];  // the second convolution's output; later the gradient before the last ReLU
  Vec y[READ];   // the former's output; later the block's
  Vec dlogits[CLASSES];
};

constexpr int STEP1_GROUP = 4;

struct Step1Scratch {
  NetworkWeights gradient;
  Vec linear[FEATURES * CLASSES], dlinear[FEATURES * CLASSES];  // transposed
  Vec features[STEP1_GROUP * FEATURES];
  Vec h[MAP], dh[MAP];
  Bytes routes[MAP];
  Convolution<CHANNELS, CHANNELS> convolution;  // first the block's one, then the other
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

  Vec former_weights[CHANNELS * PATCH], former_bias[CHANNELS];  // batch norm folded in
  Norm former[CHANNELS], norm1[CHANNELS], norm2[CHANNELS], norm3[WIDTH];
  Sums<CHANNELS> sums1, sums2, back1, back2;
  Sums<WIDTH> sums3, back3;

  Step1(const Batch& batch, NetworkWeights& weights, NetworkStatistics& running, Activations* kept,
        Step1Scratch& scratch, bool frozen)
      : batch(batch),
        weights(weights),
        running(running),
        kept(kept),
        scratch(scratch),
        gradient(scratch.gradient),
        frozen(frozen),
        images(batch.images.size()) {}

  // The gradient of the mean loss, in scratch.gradient.
  void run() {
    start();
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

  void start() {
    std::memset(&gradient, 0, sizeof gradient);
    std::memset(scratch.dlinear, 0, sizeof scratch.dlinear);
    transpose_linear(weights.latter.fc, scratch.linear);
    former_statistics();
  }

  // The former batch norm, from the patches' moments.
  void former_statistics() {
    const PatchMoments& moments = batch.moments;
    Sums<CHANNELS> sums;
    for (int o = 0; o < CHANNELS; ++o)
      for (int s = 0; s < PATCH; ++s) {
        Wide row = {};
        for (int t = 0; t < PATCH; ++t)
          row = fma(splat(moments.second[s][t]), widen(weights.former.conv[o * PATCH + t]), row);
        sums.first[o] =
            fma(splat(moments.first[s]), widen(weights.former.conv[o * PATCH + s]), sums.first[o]);
        sums.second[o] = fma(row, widen(weights.former.conv[o * PATCH + s]), sums.second[o]);
      }
    training_norms(sums, former_count(), weights.former.bn, running.former, former);
    fold<CHANNELS, PATCH>(weights.former.conv, former, former_weights, former_bias);
  }

  void to_first() {
    Vec* h = scratch.h;
    scratch.convolution.start(weights.block.conv1);
    for (int n = 0; n < images; ++n) {
      former_forward<false>(batch.images[n], former_weights, former_bias, h, nullptr);
      Activations& a = kept[n];
      scratch.convolution.take_input(whole(h));
      convolve_with_sums(ahead(n, a.first, PAST ? a.first : a.second), a.first, sums1, nullptr);
      take_read<CHANNELS>(h, a.y);
    }
    block_norms(weights.block.bn1, sums1, running.bn1, norm1);
  }

  // What the second convolution reads: the first batch norm and ReLU.
  auto hidden(const Activations& a) const {
    return [this, &a](int c, Vec* room) -> const Vec* {
      const Norm norm = norm1[c];
      for (int k = 0; k < AREA; ++k) room[k] = relu(norm(a.first[c * AREA + k]));
      return room;
    };
  }

  void to_second() {
    scratch.convolution.start(weights.block.conv2);
    for (int n = 0; n < images; ++n) {
      Activations& a = kept[n];
      scratch.convolution.take_input(hidden(a));
      convolve_with_sums(ahead(n, a.first, PAST ? a.second : a.y), a.second, sums2, a.dy);
    }
    block_norms(weights.block.bn2, sums2, running.bn2, norm2);
  }

  // The block's output, and the third batch norm's statistics.
  void to_block_output() {
    for (int n = 0; n < images; ++n) {
      Activations& a = kept[n];
      for (int c = 0; c < CHANNELS; ++c)
        for (int k = c * READ_AREA; k < (c + 1) * READ_AREA; ++k)
          a.y[k] = relu(norm2[c](a.dy[k]) + a.y[k]);
      to_third(a, ahead(n, a.dy, a.dlogits), [&](int c, int, const Vec* values, auto count) {
        sums3.add<decltype(count)::value>(c, values, values);
      });
      sums3.end_image();
    }
    training_norms(sums3, latter_count(), weights.latter.bn, running.latter, norm3);
  }

  void to_logits_and_back() {
    in_groups<STEP1_GROUP>(images, [&](auto count, int first_image) {
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
      classify_backward<COUNT>(dlogits, scratch.linear, features, scratch.dlinear);
      for (int n = 0; n < COUNT; ++n) {
        const Vec* d = features + n * FEATURES;
        to_third(kept[first_image + n], {}, [&](int c, int at, const Vec* values, auto length) {
          back3.add<decltype(length)::value>(c, d + c * READ_AREA + at, values);
        });
        back3.end_image();
      }
    });
  }

  // Through the latter convolution and the block's last ReLU.
  void back_to_block_output() {
    NormGradient chain[WIDTH];
    norm_gradients(norm3, back3, latter_count(), gradient.latter.bn, chain);
    in_groups<STEP1_GROUP>(images, [&](auto count, int first_image) {
      constexpr int COUNT = decltype(count)::value;
      Vec dlogits[COUNT * CLASSES];
      for (int n = 0; n < COUNT; ++n)
        std::memcpy(dlogits + n * CLASSES, kept[first_image + n].dlogits, sizeof kept->dlogits);
      for (int n = 0; n < COUNT; ++n) {
        const Activations& a = kept[first_image + n];
        to_third(a, ahead(first_image + n, a.dy, a.dlogits),
                 [&](int c, int at, const Vec* values, auto length) {
          Vec* third = scratch.features + n * FEATURES + c * READ_AREA + at;
          for (int k = 0; k < length; ++k) third[k] = values[k];
        });
      }
      classify_input_gradient<COUNT>(dlogits, scratch.linear, [&](int c, int place, Vec value) {
        Vec& third = scratch.features[place];
        third = chain[c](gated(value, norm3[c](third)), third);
      });
      for (int n = 0; n < COUNT; ++n) {
        Activations& a = kept[first_image + n];
        const Vec* dthird = scratch.features + n * FEATURES;
        add_pointwise_weight_gradient<CHANNELS, WIDTH>(a.y, dthird, gradient.latter.conv);
        Vec dy[READ];
        pointwise_input_gradient<CHANNELS, WIDTH>(dthird, weights.latter.conv, dy);
        for (int k = 0; k < READ; ++k) dy[k] = gated(dy[k], a.y[k]);
        for (int c = 0; c < CHANNELS; ++c)
          back2.add<READ_AREA>(c, dy + c * READ_AREA, a.dy + c * READ_AREA);
        std::memcpy(a.dy, dy, sizeof dy);
        back2.end_image();
      }
    });
  }

  // Through the second batch norm, the second convolution and the ReLU before it.
  void back_to_first() {
    NormGradient chain[CHANNELS];
    block_gradients(norm2, back2, gradient.block.bn2, chain);
    scratch.convolution.start_backward(weights.block.conv2);
    scratch.convolution.start_gradient();
    for (int n = 0; n < images; ++n) {
      Activations& a = kept[n];
      const auto d = [&](int c, Vec* room) -> const Vec* {
        const NormGradient through = chain[c];
        for (int k = 0; k < AREA; ++k) room[k] = through(Vec{}, a.second[c * AREA + k]);
        for (int k = 0; k < READ_AREA; ++k) {
          Vec& at = room[read_position(k)];
          at = fma(through.slope, a.dy[c * READ_AREA + k], at);
        }
        return room;
      };
      const auto emit = [&](int c, int at, const Vec* values, auto count) {
        constexpr int COUNT = decltype(count)::value;
        const Vec* first = a.first + c * AREA + at;
        const Norm norm = norm1[c];
        Vec out[COUNT];
        for (int k = 0; k < COUNT; ++k) out[k] = gated(values[k], norm(first[k]));
        back1.add<COUNT>(c, out, first);
        for (int k = 0; k < COUNT; ++k) a.second[c * AREA + at + k] = out[k];
      };
      back(n, d, hidden(a), gradient.block.conv2, emit);
      back1.end_image();
    }
    if (!frozen) scratch.convolution.end_gradient(gradient.block.conv2);
  }

  // Through the first batch norm and convolution, the pooling and the former batch norm.
  void back_to_former() {
    NormGradient chain[CHANNELS];
    block_gradients(norm1, back1, gradient.block.bn1, chain);
    scratch.convolution.start_backward(weights.block.conv1);
    scratch.convolution.start_gradient();
    FormerSums sums = {};
    Vec *h = scratch.h, *dh = scratch.dh;
    for (int n = 0; n < images; ++n) {
      const Activations& a = kept[n];
      former_forward<true>(batch.images[n], former_weights, former_bias, h, scratch.routes);
      const auto d = [&](int c, Vec* room) -> const Vec* {
        const NormGradient through = chain[c];
        const Vec *second = a.second + c * AREA, *first = a.first + c * AREA;
        for (int k = 0; k < AREA; ++k) room[k] = through(second[k], first[k]);
        return room;
      };
      const auto emit = [&](int c, int at, const Vec* values, auto count) {
        for (int k = 0, p = c * AREA + at; k < count; ++k, ++p) dh[p] = gated(values[k], h[p]);
      };
      back(n, d, whole(h), gradient.block.conv1, emit);
      for (int c = 0; c < CHANNELS; ++c)
        for (int k = 0; k < READ_AREA; ++k) {
          const int p = c * AREA + read_position(k);
          dh[p] += gated(a.dy[c * READ_AREA + k], h[p]);
        }
      former_backward(batch.images[n], dh, scratch.routes, sums);
    }
    if (!frozen) scratch.convolution.end_gradient(gradient.block.conv1);
    former_gradient(sums);
  }

  void former_gradient(const FormerSums& sums) {
    const PatchMoments& moments = batch.moments;
    const Vec* w = weights.former.conv;
    for (int o = 0; o < CHANNELS; ++o) {
      Wide along = {};  // the sum of the gradient times the convolution's output
      for (int t = 0; t < PATCH; ++t) along = fma(widen(w[o * PATCH + t]), sums.patches[o * PATCH + t], along);
      const NormGradient chain =
          batch_norm_gradient(former[o], sums.gradient[o], along, former_count(),
                              gradient.former.bn.weight[o], gradient.former.bn.bias[o]);
      for (int t = 0; t < PATCH; ++t) {
        Wide outputs = {};  // the sum of the convolution's output times pixel t
        for (int s = 0; s < PATCH; ++s)
          outputs = fma(splat(moments.second[s][t]), widen(w[o * PATCH + s]), outputs);
        gradient.former.conv[o * PATCH + t] =
            narrow(fma(widen(chain.constant), splat(moments.first[t]),
                       fma(widen(chain.slope), sums.patches[o * PATCH + t],
                           widen(chain.along) * outputs)));
      }
    }
  }

 private:
  double former_count() const { return double(images) * IMAGE_SIDE * IMAGE_SIDE; }
  double block_count() const { return double(images) * AREA; }
  double latter_count() const { return double(images) * READ_AREA; }

  // What lies between `begin` and `end` in image n's activations, of the next image.
  Ahead ahead(int n, const Vec* begin, const Vec* end) const {
    constexpr int NEXT = vectors<Activations>();
    if (n + 1 == images) return {};
    return {begin + NEXT, end + NEXT};
  }

  // The latter convolution of one image's kept y: cheaper to do again than to keep.
  template <class Emit>
  void to_third(const Activations& a, Ahead ahead, Emit&& emit) const {
    pointwise_convolve<CHANNELS, WIDTH>(a.y, weights.latter.conv, ZEROS, ahead, emit);
  }

  // With its batch norm and ReLU, in scratch.features.
  template <int COUNT>
  void to_features(int first_image) {
    for (int n = 0; n < COUNT; ++n) {
      const Activations& a = kept[first_image + n];
      const Ahead next = ahead(first_image + n, a.y, a.dlogits);
      to_third(a, next, [&](int c, int at, const Vec* values, auto length) {
        Vec* features = scratch.features + n * FEATURES + c * READ_AREA + at;
        for (int k = 0; k < length; ++k) features[k] = relu(norm3[c](values[k]));
      });
    }
  }

  // Maps of many channels are more than the caches hold until the next pass: they go past them.
  static constexpr bool PAST = WINOGRAD<CHANNELS, CHANNELS>;

  // The convolution of an image, in `out`; what the latter block reads of it, in `read`, if wanted.
  void convolve_with_sums(Ahead ahead, Vec* out, Sums<CHANNELS>& sums, Vec* read) {
    scratch.convolution.output(ZEROS, ahead, [&](int c, int at, const Vec* values, auto count) {
      for (int k = 0, p = c * AREA + at; k < count; ++k, ++p)
        if (PAST)
          write_past(values[k], out + p);
        else
          out[p] = values[k];
      sums.add<decltype(count)::value>(c, values, values);
      const int row = at / SIDE;
      if (PAST && read && row % 2 == 0)  // minimal filtering hands on whole rows
        for (int k = 0; k < READ_SIDE; ++k)
          read[(c * READ_SIDE + row / 2) * READ_SIDE + k] = values[2 * k];
    });
    sums.end_image();
    if (!PAST && read) take_read<CHANNELS>(out, read);
  }

  // Through a convolution of image n, from the gradient d of its output to that of its input x, and
  // unless the block is frozen, of its weights.
  template <class D, class X, class Emit>
  void back(int n, D&& d, X&& x, Vec* dw, Emit&& emit) {
    const Activations& a = kept[n];
    const Ahead first = ahead(n, a.first, a.second), rest = ahead(n, a.second, a.y);
    scratch.convolution.take_gradient(d);
    if (frozen) {
      scratch.convolution.input_gradient(rest, emit);
    } else {
      scratch.convolution.take_input(x);
      scratch.convolution.both_gradients(first, dw, rest, emit);
    }
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

}  // namespace kt
