// Loops over channels and positions in tiles whose sizes are known at compile time.
#pragma once

#include <type_traits>

namespace kt {

template <int VALUE>
using Constant = std::integral_constant<int, VALUE>;

// COUNT in as few pieces of at most MOST as it takes, all of one size or one less: 16 by 3 is
// 3 + 3 + 3 + 3 + 2 + 2.
template <int COUNT, int MOST>
struct Pieces {
  static constexpr int NUMBER = (COUNT + MOST - 1) / MOST;
  static constexpr int SIZE = (COUNT + NUMBER - 1) / NUMBER;  // of the first ones
  static constexpr int LARGER = COUNT - NUMBER * (SIZE - 1);  // how many have it
};

// work(constant size, first) for each piece.
template <int COUNT, int MOST, class Work>
inline void in_pieces(Work&& work) {
  using Of = Pieces<COUNT, MOST>;
  constexpr int REST = Of::LARGER * Of::SIZE;
  for (int first = 0; first < REST; first += Of::SIZE) work(Constant<Of::SIZE>{}, first);
  if constexpr (REST < COUNT)
    for (int first = REST; first < COUNT; first += Of::SIZE - 1)
      work(Constant<Of::SIZE - 1>{}, first);
}

// work(constant size, constant first) for each piece.
template <int COUNT, int MOST, int FIRST = 0, class Work>
inline void in_fixed_pieces(Work&& work) {
  using Of = Pieces<COUNT, MOST>;
  if constexpr (FIRST < COUNT) {
    constexpr int SIZE = FIRST < Of::LARGER * Of::SIZE ? Of::SIZE : Of::SIZE - 1;
    work(Constant<SIZE>{}, Constant<FIRST>{});
    in_fixed_pieces<COUNT, MOST, FIRST + SIZE>(work);
  }
}

}  // namespace kt
