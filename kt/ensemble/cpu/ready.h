// A 3x3 convolution of many images, its weights made ready once: directly or by minimal filtering.
#pragma once

#include "winograd.h"

namespace kt {

// Whether the transforms pay for so many channels, on maps of this side.
template <int IN, int OUT>
constexpr bool WINOGRAD = IN >= 8 && OUT >= 8 && winograd::Tiles::SIZE == 4;

// A 3x3 convolution, its weights made ready once for many images, and its gradients.
template <int IN, int OUT, bool = WINOGRAD<IN, OUT>>
class Convolution {
  const Vec *w_ = nullptr, *dy_ = nullptr;
  Vec turned_[IN * OUT * 9];

 public:
  void start(const Vec* w) { w_ = w; }
  template <class Emit>
  void operator()(const Vec* x, const Vec* bias, Ahead ahead, Emit&& emit) {
    convolve<IN, OUT>(x, w_, bias, ahead, emit);
  }

  void start_gradient() {}
  void start_backward(const Vec* w) { transpose_weights<IN, OUT>(w, turned_); }
  // An image's output gradient, which must stay, for the two below, in this order.
  void take_gradient(const Vec* dy) { dy_ = dy; }
  // Adds the weights' gradient for the input x, to dw or in the end.
  void add_weight_gradient(const Vec* x, Ahead ahead, Vec* dw) {
    kt::add_weight_gradient<IN, OUT>(x, dy_, ahead, dw);
  }
  template <class Emit>
  void input_gradient(Ahead ahead, Emit&& emit) {
    convolve<OUT, IN>(dy_, turned_, NO_BIAS, ahead, emit);
  }
  void end_gradient(Vec*) {}

 private:
  static constexpr Vec NO_BIAS[IN] = {};
};

template <int IN, int OUT>
class Convolution<IN, OUT, true> {
  static constexpr int ALL = winograd::POINTS * winograd::POINTS, PAIRS = IN * OUT;
  static constexpr int PLACE = winograd::place(IN > OUT ? IN : OUT);
  Vec u_[ALL * PAIRS], du_[ALL * PAIRS];
  // Products go to the place before that of what they are products of: they overwrite what nobody
  // needs any more while it is in the cache.
  Vec points_[(ALL + 1) * PLACE], gradients_[(ALL + 1) * PLACE];

 public:
  void start(const Vec* w) {
    winograd::weights_to_points<OUT, IN>([&](int o, int i) { return w + (o * IN + i) * 9; }, u_);
  }
  template <class Emit>
  void operator()(const Vec* x, const Vec* bias, Ahead ahead, Emit&& emit) {
    winograd::map_to_points<IN, false, PLACE>(x, points_ + PLACE);
    winograd::at_points([&](int rows, auto columns, int k) {
      winograd::multiply<IN, OUT, columns>(u_ + k * PAIRS, points_ + (k + 1) * PLACE, rows, ahead,
                                           points_ + k * PLACE);
    });
    winograd::points_to_map<OUT, false, PLACE>(points_, bias, emit);
  }

  void start_gradient() { std::memset(du_, 0, sizeof du_); }
  void start_backward(const Vec* w) {
    winograd::weights_to_points<IN, OUT>([&](int i, int o) { return w + (o * IN + i) * 9; }, u_);
  }
  void take_gradient(const Vec* dy) {
    winograd::map_to_points<OUT, true, PLACE>(dy, gradients_ + PLACE);
  }
  void add_weight_gradient(const Vec* x, Ahead ahead, Vec*) {
    winograd::map_to_points<IN, false, PLACE>(x, points_);
    winograd::at_points([&](int rows, auto columns, int k) {
      winograd::add_products<IN, OUT, columns>(gradients_ + (k + 1) * PLACE, points_ + k * PLACE,
                                               rows, ahead, du_ + k * PAIRS);
    });
  }
  template <class Emit>
  void input_gradient(Ahead ahead, Emit&& emit) {
    winograd::at_points([&](int rows, auto columns, int k) {
      winograd::multiply<OUT, IN, columns>(u_ + k * PAIRS, gradients_ + (k + 1) * PLACE, rows,
                                           ahead, gradients_ + k * PLACE);
    });
    winograd::points_to_map<IN, true, PLACE>(gradients_, nullptr, emit);
  }
  void end_gradient(Vec* dw) { winograd::add_from_points<OUT, IN>(du_, dw); }
};

}  // namespace kt
