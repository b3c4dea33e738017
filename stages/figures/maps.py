"""The figure of feature maps: what blocks make of images."""

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from stages.figures import style


def feature_maps(
    images: Tensor, maps: dict[str, Tensor], scale_of: str, marked: dict[str, str]
) -> Figure:
    """A row for each image, a group of six maps for each block; one scale for all, and its bar.

    Args:
        images: (M, 28, 28).
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
        axes[0].imshow(images[r].numpy(), cmap="gray_r")
        axes[0].set_axis_off()
        for ax, (label, m) in zip(axes[1:], maps.items(), strict=True):
            tiled = m[r].unflatten(0, (2, 3)).permute(0, 2, 1, 3).reshape(28, 42).numpy()
            drawn = ax.imshow(tiled, cmap="viridis", norm=shades)
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
