"""What a network is shown where no images are given: drawn ones, which its batch norms adapt to."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from kt.real.blocks import NORMS
from kt.real.graph import Example, call, tensors
from kt.real.images import are_images
from kt.run.errors import KTError

COUNT, FEWEST = 1000, 128
PIXELS = 2**20
"""Images drawn; of large ones fewer, so that there are about so many pixels."""
LEAVES = 60
RADII = (0.04, 0.6)
"""Shapes in an image, and their radii as shares of its side."""
TEXTURE, SHADE, GREY, CHROMA = 0.15, 0.5, 0.9, 0.35
"""Deviations: of the noise, of a shape's shading, of colours' common part and of the rest."""
SEEN = ("running_mean", "running_var", "num_batches_tracked")
TRAINED = "trained_"
"""Begins the names under which a batch norm that has adapted keeps what it saw in training."""


def make(example: Example, draw: torch.Generator, told: Callable[[int, int], None]) -> Example:
    """Examples like a network's own, drawn: images with edges and shades, or else noise.

    Raises:
        KTError: the network reads something other than floating-point numbers.
    """
    if not all(tensor.is_floating_point() for tensor in tensors(example)):
        raise KTError("images: needed, since the network reads other than floating-point numbers")
    if not are_images(example):
        return _noise(example, draw)
    height, width = example.shape[2:]
    count = max(FEWEST, min(COUNT, PIXELS // (height * width)))
    parts = []
    for size in [len(part) for part in torch.arange(count).split(FEWEST)]:
        parts.append(leaves((size, *example.shape[1:]), draw))
        told(sum(map(len, parts)), count)
    made = torch.cat(parts)
    spread, centre = torch.std_mean(made, (0, 2, 3), keepdim=True)
    return ((made - centre) / spread).to(example)


def leaves(shape: Sequence[int], draw: torch.Generator) -> Tensor:
    """Images (N, channels, height, width) of shapes that lie on one another, as dead leaves do.

    Ellipses and rectangles of all sizes, each with a colour and a shade, and noise whose amplitude
    falls with frequency, as in photographs: Baradad et al., 2021, "Learning to See by Looking at
    Noise", after Lee et al., 2001, "Occlusion Models for Natural Images".
    """
    count, channels, height, width = shape
    down, across = torch.meshgrid(
        torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"
    )

    def uniform() -> Tensor:
        return torch.rand(count, 1, 1, generator=draw)

    def colour() -> Tensor:
        common = torch.randn(count, 1, 1, 1, generator=draw)
        return GREY * common + CHROMA * torch.randn(count, channels, 1, 1, generator=draw)

    images = colour().expand(*shape)
    for _ in range(LEAVES):
        small, large = (size**-2 for size in RADII)
        radius = (large + uniform() * (small - large)) ** -0.5  # their number falls as its cube
        x, y = (axis + 0.1 - 1.2 * uniform() for axis in (across, down))
        angle, flatness = math.pi * uniform(), 1 - 0.5 * uniform()
        along = x * angle.cos() + y * angle.sin()
        beside = (y * angle.cos() - x * angle.sin()) / flatness
        distance = torch.where(
            uniform() < 0.4, along.abs().maximum(beside.abs()), along.hypot(beside)
        )
        cover = ((radius - distance) * max(height, width) + 0.5).clamp(0, 1)[:, None]
        shade = SHADE * torch.randn(count, 1, 1, 1, generator=draw)
        leaf = colour() + shade * (along / radius).clamp(-2, 2)[:, None]
        images = images.lerp(leaf, cover)
    return images + TEXTURE * _texture(shape, draw)


def _texture(shape: Sequence[int], draw: torch.Generator) -> Tensor:
    """Noise of deviation 1 whose amplitude falls as its frequency rises."""
    height, width = shape[2:]
    frequency = torch.fft.fftfreq(height)[:, None].hypot(torch.fft.rfftfreq(width))
    amplitude = 1 / (frequency + 1 / height)
    amplitude[0, 0] = 0
    noise = torch.fft.rfft2(torch.randn(*shape, generator=draw))
    noise = torch.fft.irfft2(noise * amplitude, s=(height, width))
    return noise / noise.std()


def adapt(model: nn.Module, batches: Iterable[Example]) -> None:
    """Have batch norms take their statistics from some batches, until `restore`, in place.

    So what they pass on has the mean and deviation in each channel that it had in training, on
    whatever images (Li et al., 2017, "Revisiting Batch Normalization for Practical Domain
    Adaptation"). What follows a batch norm is then read where it matters.
    """
    for norm in norms_of(model):
        for name in SEEN:
            norm.register_buffer(TRAINED + name, getattr(norm, name).clone())
    recalibrate(model, batches)


def restore(model: nn.Module) -> None:
    """Give batch norms back what they saw in training, in place: those of the channels left."""
    for norm in norms_of(model):
        for name in SEEN:
            norm._buffers[name] = norm._buffers.pop(TRAINED + name)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Example]) -> None:
    """Take batch norms' statistics anew, in place: their means over some batches."""
    norms = norms_of(model)
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
        norm.train()
    for batch in batches:
        call(model, batch)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()


def norms_of(model: nn.Module) -> list[nn.Module]:
    """The batch norms of a network that keep statistics."""
    return [m for m in model.modules() if type(m) in NORMS and m.running_mean is not None]


def _noise(example: Example, draw: torch.Generator) -> Example:
    if isinstance(example, Tensor):
        return torch.randn(COUNT, *example.shape[1:], generator=draw).to(example)
    if isinstance(example, dict):
        return {name: _noise(value, draw) for name, value in example.items()}
    return tuple(_noise(value, draw) for value in example)
