"""The figure of feature maps: what blocks make of images."""

from math import isqrt

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from stages.figures import style


def feature_maps(
    images: Tensor, maps: dict[str, Tensor], scale_of: str, marked: dict[str, str]
) -> Figure:
    """A row for each image, a group of maps for each block; one scale for all, and its bar.

    Args:
        images: (M, 28, 28), or in colour (M, 3, H, W).
        maps: (M, 6, 14, 14) for every label.
        scale_of: the label whose maps set the colours' scale: 0 to their 99.8 % quantile.
        marked: what to warn of, by label: framed, and said above.
    """
    rows, columns = len(images), len(maps)
    figure = Figure(figsize=(1.1 + 1.75 * columns, 1.2 * rows + 0.7), layout="constrained", dpi=120)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    grid = figure.subplots(rows, 1 + columns, squeeze=False, width_ratios=[1] + [1.5] * columns)
    shades = matplotlib.colors.Normalize(0, float(maps[scale_of].quantile(0.998)))
    for r, axes in enumerate(grid):
        shown = images[r] if images.dim() == 3 else images[r].permute(1, 2, 0)
        axes[0].imshow(shown.numpy(), cmap="gray_r")
        axes[0].set_axis_off()
        for ax, (label, m) in zip(axes[1:], maps.items(), strict=True):
            drawn = ax.imshow(tiled(m[r]).numpy(), cmap="viridis", norm=shades)
            ax.grid(visible=False)
            ax.set(xticks=[], yticks=[])
            warned = label in marked
            ax.spines[:].set(
                visible=warned, color=style.VERMILLION, linewidth=3, linestyle=(0, (3, 1))
            )
            if r == 0:
                text = f"{label}\n{marked[label]}" if warned else label.replace(" ", "\n")
                ax.set_title(text, fontsize=11, color=style.VERMILLION if warned else "black")
    bar = figure.colorbar(drawn, ax=grid, extend="max", fraction=0.02, pad=0.01)
    bar.set_label("activation")
    bar.outline.set_visible(False)
    return figure


def tiled(maps: Tensor) -> Tensor:
    """Maps (C, H, W) side by side in rows, about one and a half times as wide as high; zeros last.

    Six maps lie in two rows of three.
    """
    count, height, width = maps.shape
    rows = isqrt(count)
    columns = -(-count // rows)
    room = maps.new_zeros(rows * columns, height, width)
    room[:count] = maps
    side_by_side = room.unflatten(0, (rows, columns)).permute(0, 2, 1, 3)
    return side_by_side.reshape(rows * height, columns * width)
