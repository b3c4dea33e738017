// The blocks between frozen former and latter blocks: their outputs y [6][49] where the latter
// block reads them, from the former block's h [6][14][14], and the gradients of the small ones.
//
// For each kind of small block, here and in attention.h, there are
//   Passage<Small>, what an image leaves behind on its way,
//   forward<LEARN>(block, h, passage, y), after which, with LEARN,
//   backward(block, h, y, passage, dy, gradient) adds to the gradient; dy, that of y, is used up.
// Training goes through a Step, which convolutions have of their own.
#pragma once

#include "pointwise.h"
#include "ready.h"
#include "state.h"

namespace kt {

// y = relu(second convolution of hidden + h) where the latter block reads it; `before`, if it is
// given, what comes before the ReLU.
template <int IN>
inline void to_output(const Vec* hidden, const Vec* w, const Vec* bias, const Vec* h, Vec* y,
                      Vec* before = nullptr) {
  convolve_read<IN, CHANNELS>(hidden, w, bias, [&](int c, int at, const Vec* values, auto count) {
    for (int k = 0, p = c * READ_AREA + at; k < count; ++k, ++p) {
      const Vec sum = values[k] + h[c * AREA + read_position(at + k)];
      if (before) before[p] = sum;
      y[p] = relu(sum);
    }
  });
}

template <int OUT>
inline void to_hidden(const Vec* h, const Vec* w, const Vec* bias, Vec* hidden) {
  convolve<CHANNELS, OUT>(h, w, bias, {}, [&](int c, int at, const Vec* values, auto count) {
    for (int k = 0; k < count; ++k) hidden[c * AREA + at + k] = relu(values[k]);
  });
}

// sums [ROWS] += the sums of the rows of x [ROWS][COLUMNS].
template <int ROWS, int COLUMNS>
inline void add_rows(const Vec* x, Vec* sums) {
  for (int r = 0; r < ROWS; ++r)
    for (int k = 0; k < COLUMNS; ++k) sums[r] += x[r * COLUMNS + k];
}

// --- two convolutions: SmallWeights, BiasedSmallWeights -----------------------------------------

inline const Vec* bias1(const SmallWeights&) { return ZEROS; }
inline const Vec* bias2(const SmallWeights&) { return ZEROS; }
inline const Vec* bias1(const BiasedSmallWeights& block) { return block.bias1; }
inline const Vec* bias2(const BiasedSmallWeights& block) { return block.bias2; }

template <class Weights>
struct Passage {
  Vec hidden[HIDDEN * AREA];
};

template <>
struct Passage<FrozenLarge> {
  Vec hidden[MAP];
};

template <bool LEARN, class Small>
inline void forward(const Small& block, const Vec* h, Passage<Small>& passage, Vec* y) {
  to_hidden<HIDDEN>(h, block.conv1, bias1(block), passage.hidden);
  to_output<HIDDEN>(passage.hidden, block.conv2, bias2(block), h, y);
}

// What the images of a batch share in training: for most kinds of blocks, nothing.
template <class Small, class = void>
struct Step {
  void start(const Small&) {}
  void pass(const Small& block, const Vec* h, Passage<Small>& passage, Vec* y) {
    forward<true>(block, h, passage, y);
  }
  void back(const Small& block, const Vec* h, const Vec* y, const Passage<Small>& passage,
                Vec* dy, Small& gradient) {
    backward(block, h, y, passage, dy, gradient);
  }
  void end(Small&) {}
};

template <class Small>
struct Step<Small, std::void_t<decltype(Small::BIASED)>> {
  Convolution<CHANNELS, HIDDEN> first;

  void start(const Small& block) {
    first.start(block.conv1);
    first.start_gradient();
  }

  void pass(const Small& block, const Vec* h, Passage<Small>& passage, Vec* y) {
    Vec* hidden = passage.hidden;
    first.take_input(whole(h));
    first.output(bias1(block), {}, [&](int c, int at, const Vec* values, auto count) {
      for (int k = 0; k < count; ++k) hidden[c * AREA + at + k] = relu(values[k]);
    });
    to_output<HIDDEN>(hidden, block.conv2, bias2(block), h, y);
  }

  void back(const Small& block, const Vec* h, const Vec* y, const Passage<Small>& passage,
                Vec* dy, Small& gradient) {
    const Vec* hidden = passage.hidden;
    Vec dhidden[HIDDEN * AREA];
    for (int k = 0; k < READ; ++k) dy[k] = gated(dy[k], y[k]);
    add_read_weight_gradient<HIDDEN, CHANNELS>(hidden, dy, gradient.conv2);
    read_input_gradient<HIDDEN, CHANNELS>(dy, block.conv2, [&](int c, int at, const Vec* d, auto count) {
      for (int k = 0, p = c * AREA + at; k < count; ++k, ++p) dhidden[p] = gated(d[k], hidden[p]);
    });
    first.take_input(whole(h));
    first.take_gradient(whole(dhidden));
    first.add_weight_gradient({}, gradient.conv1);
    if constexpr (Small::BIASED) {
      add_rows<HIDDEN, AREA>(dhidden, gradient.bias1);
      add_rows<CHANNELS, READ_AREA>(dy, gradient.bias2);
    }
  }

  void end(Small& gradient) { first.end_gradient(gradient.conv1); }
};

// --- a two-layer MLP at each position -----------------------------------------------------------

template <>
struct Passage<MlpWeights> {
  Vec x[READ], hidden[WIDTH * READ_AREA];
};

template <bool LEARN>
inline void forward(const MlpWeights& block, const Vec* h, Passage<MlpWeights>& passage, Vec* y) {
  auto& [x, hidden] = passage;
  take_read<CHANNELS>(h, x);
  pointwise_convolve<CHANNELS, WIDTH>(x, block.fc1, block.bias1, {},
                                      [&](int c, int at, const Vec* values, auto count) {
    for (int k = 0, p = c * READ_AREA + at; k < count; ++k, ++p) hidden[p] = relu(values[k]);
  });
  pointwise_convolve<WIDTH, CHANNELS>(hidden, block.fc2, block.bias2, {},
                                      [&](int c, int at, const Vec* values, auto count) {
    for (int k = 0, p = c * READ_AREA + at; k < count; ++k, ++p) y[p] = relu(values[k] + x[p]);
  });
}

inline void backward(const MlpWeights& block, const Vec*, const Vec* y,
                     const Passage<MlpWeights>& passage, Vec* dy, MlpWeights& gradient) {
  const auto& [x, hidden] = passage;
  Vec dhidden[WIDTH * READ_AREA];
  for (int k = 0; k < READ; ++k) dy[k] = gated(dy[k], y[k]);
  add_pointwise_weight_gradient<WIDTH, CHANNELS>(hidden, dy, gradient.fc2);
  add_rows<CHANNELS, READ_AREA>(dy, gradient.bias2);
  pointwise_input_gradient<WIDTH, CHANNELS>(dy, block.fc2, dhidden);
  for (int k = 0; k < WIDTH * READ_AREA; ++k) dhidden[k] = gated(dhidden[k], hidden[k]);
  add_pointwise_weight_gradient<CHANNELS, WIDTH>(x, dhidden, gradient.fc1);
  add_rows<WIDTH, READ_AREA>(dhidden, gradient.bias1);
}

}  // namespace kt
