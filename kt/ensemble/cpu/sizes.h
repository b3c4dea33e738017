// Sizes of the networks: the paper's, unless the compiler is told others.
#pragma once

#ifndef KT_CHANNELS
#define KT_CHANNELS 6
#define KT_HIDDEN 3
#define KT_KERNEL 3
#define KT_IMAGE_CHANNELS 1
#define KT_IMAGE_SIZE 28
#endif

#if KT_KERNEL != 3
#error the compiled engine has kernels of 3 x 3 only
#elif KT_CHANNELS < 1 || KT_CHANNELS > 32
#error the compiled engine has 1 to 32 channels
#elif KT_HIDDEN < 1 || KT_HIDDEN > KT_CHANNELS
#error the compiled engine has hidden channels from 1 to the number of channels
#elif KT_IMAGE_CHANNELS != 1 && KT_IMAGE_CHANNELS != 3
#error the compiled engine has images of 1 or 3 channels
#elif KT_IMAGE_SIZE < 8 || KT_IMAGE_SIZE > 32
#error the compiled engine has images of 8 x 8 to 32 x 32
#endif

namespace kt {

constexpr int CHANNELS = KT_CHANNELS;
constexpr int HIDDEN = KT_HIDDEN;  // of convolutional small blocks
constexpr int IMAGE_CHANNELS = KT_IMAGE_CHANNELS;
constexpr int IMAGE_SIDE = KT_IMAGE_SIZE;
constexpr int SIDE = (IMAGE_SIDE + 1) / 2;  // of the block's maps
constexpr int AREA = SIDE * SIDE;
constexpr int READ_SIDE = (SIDE + 1) / 2;  // of what the latter block's stride-2 convolution reads
constexpr int READ_AREA = READ_SIDE * READ_SIDE;

}  // namespace kt
