"""Prototypes: the synthetic images that `merge` keeps for itself."""

import torch
from torch import Tensor

from kt.images import ImageSet, pixels
from kt.run.errors import KTError

CLUSTERED, CLUSTER_STEPS, BLENDED = 20_000, 15, 6
"""Images that prototypes are made of, at most; steps of k-means; images that one is a mean of."""


def make_prototypes(
    images: ImageSet, count: int, generator: torch.Generator, mirrored: bool = True
) -> Tensor:
    """Synthetic images that stand for `images`: means of the few nearest to centres of k-means.

    With more contrast; every other image is mirrored if networks see that.

    Returns:
        (count, 28, 28) uint8, or as large and coloured as the images are.

    Raises:
        KTError: there are fewer images than prototypes.
    """
    if count > (most := min(len(images), CLUSTERED)):
        raise KTError(f"prototypes: got {count:,}; accepts up to {most:,}, a training image each")
    chosen = torch.randperm(len(images), generator=generator)[:CLUSTERED]
    shape = images.images.shape[1:]
    points = pixels(images.images[chosen]).flatten(1)
    if mirrored:
        points[1::2] = points[1::2].unflatten(1, shape).flip(-1).flatten(1)
    centres = points[:count].clone()
    for _ in range(CLUSTER_STEPS):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=count)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
    nearest = torch.cdist(centres, points).topk(min(BLENDED, len(points)), largest=False).indices
    centres = points[nearest].mean(1)
    sharpened = ((centres - 0.3) * 2.5).clamp(0, 1)
    return sharpened.mul(255).round().to(torch.uint8).unflatten(1, shape)
