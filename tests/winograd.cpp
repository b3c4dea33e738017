// A convolution by minimal filtering of some images and its gradients, for tests/test_winograd.py.
#include <memory>

#include "ready.h"

using namespace kt;

#pragma GCC visibility push(default)
extern "C" {

int lanes() { return LANES; }

// x [images][CHANNELS][SIDE][SIDE], w [HIDDEN][CHANNELS][3][3], y and dy as x of HIDDEN channels.
void convolution(int images, const Vec* x, const Vec* w, const Vec* bias, const Vec* dy, Vec* y,
                 Vec* dx, Vec* dw) {
  const auto ready = std::make_unique<Convolution<CHANNELS, HIDDEN, true>>();
  const auto into = [](Vec* map) {
    return [map](int c, int at, const Vec* values, auto count) {
      for (int k = 0; k < count; ++k) map[c * AREA + at + k] = values[k];
    };
  };
  constexpr int IN = CHANNELS * AREA, OUT = HIDDEN * AREA;
  ready->start(w);
  for (int n = 0; n < images; ++n) {
    ready->take_input(whole(x + n * IN));
    ready->output(bias, {}, into(y + n * OUT));
  }
  ready->start_backward(w);
  ready->start_gradient();
  for (int n = 0; n < images; ++n) {
    ready->take_input(whole(x + n * IN));
    ready->take_gradient(whole(dy + n * OUT));
    ready->both_gradients({}, dw, {}, into(dx + n * IN));
  }
  ready->end_gradient(dw);
}
}
#pragma GCC visibility pop
