// A 3x3 convolution of many images, its weights made ready once: directly or by minimal filtering.
#pragma once

#include "winograd.h"

namespace kt {

namespace winograd {

// Weights at all points; taps(output, input) tells where three rows of three are.
template <int OUT, int IN, class Taps>
inline void weights_to_points(Taps&& taps, Vec* u) {
  in_blocks<OUT, IN>([&](int out, int in, int at) {
    for (int a = 0; a < POINTS; ++a) {
      Vec row[3] = {};
      for (int r = 0; r < 3; ++r)
        for (int k = 0; k < 3; ++k)
          row[k] = fma(splat(TAPS[a][r]), taps(out, in)[r * 3 + k], row[k]);
      for (int b = 0; b < POINTS; ++b) {
        Vec sum = {};
        for (int k = 0; k < 3; ++k) sum = fma(splat(TAPS[b][k]), row[k], sum);
        u[(a * POINTS + b) * IN * OUT + at] = sum;
      }
    }
  });
}

// dw += the weights' gradient, from that of the weights at all points.
template <int OUT, int IN>
inline void add_from_points(const Vec* du, Vec* dw) {
  in_blocks<OUT, IN>([&](int out, int in, int at) {
    Vec* taps = dw + (out * IN + in) * 9;
    for (int a = 0; a < POINTS; ++a) {
      Vec row[3] = {};
      for (int b = 0; b < POINTS; ++b)
        for (int k = 0; k < 3; ++k)
          row[k] = fma(splat(TAPS[b][k]), du[(a * POINTS + b) * IN * OUT + at], row[k]);
      for (int r = 0; r < 3; ++r)
        for (int k = 0; k < 3; ++k)
          taps[r * 3 + k] = fma(splat(TAPS[a][r]), row[k], taps[r * 3 + k]);
    }
  });
}

}  // namespace winograd

// Whether minimal filtering pays for so many channels, on maps of this side: the transforms' cost
// grows with the channels, the products' with their square.
template <int IN, int OUT>
constexpr bool WINOGRAD = IN >= 8 && OUT >= 8 && winograd::Tiles::SIZE == 4;

// A map [channels][14][14] as the convolution below takes its input and its output's gradient:
// source(channel, room) tells where a channel is, in `room` or in a map that is there and stays.
inline auto whole(const Vec* map) {
  return [map](int channel, Vec*) { return map + channel * AREA; };
}

// A 3x3 convolution, its weights made ready once for many images, and its gradients.
template <int IN, int OUT, bool = WINOGRAD<IN, OUT>>
class Convolution {
  const Vec *w_ = nullptr, *x_ = nullptr, *dy_ = nullptr;
  Vec turned_[IN * OUT * 9], inputs_[IN * AREA], gradients_[OUT * AREA];
  static constexpr Vec NO_BIAS[IN] = {};

  template <int C, class Source>
  static const Vec* all(Source&& source, Vec* room) {
    const Vec* map = source(0, room);
    for (int c = 1; c < C; ++c) source(c, room + c * AREA);
    return map;
  }

 public:
  void start(const Vec* w) { w_ = w; }  // with the weights, which must stay
  // An image's input and its output's gradient, for one of those below that need them.
  template <class Source>
  void take_input(Source&& x) {
    x_ = all<IN>(x, inputs_);
  }
  template <class Source>
  void take_gradient(Source&& dy) {
    dy_ = all<OUT>(dy, gradients_);
  }
  template <class Emit>
  void output(const Vec* bias, Ahead ahead, Emit&& emit) {
    convolve<IN, OUT>(x_, w_, bias, ahead, emit);
  }

  void start_gradient() {}                                                     // the weights'
  void start_backward(const Vec* w) { transpose_weights<IN, OUT>(w, turned_); }  // the input's
  // Adds the weights' gradient, to dw or in the end.
  void add_weight_gradient(Ahead ahead, Vec* dw) {
    kt::add_weight_gradient<IN, OUT>(x_, dy_, ahead, dw);
  }
  template <class Emit>
  void input_gradient(Ahead ahead, Emit&& emit) {
    convolve<OUT, IN>(dy_, turned_, NO_BIAS, ahead, emit);
  }
  template <class Emit>
  void both_gradients(Ahead ahead, Vec* dw, Ahead ahead2, Emit&& emit) {
    add_weight_gradient(ahead, dw);
    input_gradient(ahead2, emit);
  }
  void end_gradient(Vec*) {}
};

template <int IN, int OUT>
class Convolution<IN, OUT, true> {
  static constexpr int ALL = winograd::POINTS * winograd::POINTS, PAIRS = IN * OUT;
  static constexpr int PLACE = winograd::place(IN > OUT ? IN : OUT);
  Vec u_[ALL * PAIRS], du_[ALL * PAIRS];
  // Products go to the place before that of what they are products of: they overwrite what nobody
  // needs any more while it is in the cache.
  Vec points_[(ALL + 1) * PLACE], gradients_[(ALL + 1) * PLACE];
  static constexpr Vec NO_BIAS[IN] = {};

 public:
  void start(const Vec* w) {
    winograd::weights_to_points<OUT, IN>([&](int o, int i) { return w + (o * IN + i) * 9; }, u_);
  }
  template <class Source>
  void take_input(Source&& x) {
    winograd::map_to_points<IN, false, PLACE>(x, points_ + PLACE);
  }
  template <class Source>
  void take_gradient(Source&& dy) {
    winograd::map_to_points<OUT, true, PLACE>(dy, gradients_ + PLACE);
  }
  template <class Emit>
  void output(const Vec* bias, Ahead ahead, Emit&& emit) {
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
  void add_weight_gradient(Ahead ahead, Vec*) {
    winograd::at_points([&](int rows, auto columns, int k) { add<columns>(rows, k, ahead); });
  }
  template <class Emit>
  void input_gradient(Ahead ahead, Emit&& emit) {
    winograd::at_points([&](int rows, auto columns, int k) { back<columns>(rows, k, ahead); });
    winograd::points_to_map<IN, true, PLACE>(gradients_, NO_BIAS, emit);
  }
  // Point by point, while a point's gradients are in the first-level cache.
  template <class Emit>
  void both_gradients(Ahead ahead, Vec*, Ahead ahead2, Emit&& emit) {
    winograd::at_points([&](int rows, auto columns, int k) {
      add<columns>(rows, k, ahead);
      back<columns>(rows, k, ahead2);
    });
    winograd::points_to_map<IN, true, PLACE>(gradients_, NO_BIAS, emit);
  }
  void end_gradient(Vec* dw) { winograd::add_from_points<OUT, IN>(du_, dw); }

 private:
  template <int COLUMNS>
  void add(int rows, int k, Ahead& ahead) {
    winograd::add_products<IN, OUT, COLUMNS>(gradients_ + (k + 1) * PLACE,
                                             points_ + (k + 1) * PLACE, rows, ahead,
                                             du_ + k * PAIRS);
  }
  template <int COLUMNS>
  void back(int rows, int k, Ahead& ahead) {
    winograd::multiply<OUT, IN, COLUMNS>(u_ + k * PAIRS, gradients_ + (k + 1) * PLACE, rows, ahead,
                                         gradients_ + k * PLACE);
  }
};

}  // namespace kt
