"""The published CIFAR-10 ResNets: their layers by their names, and their weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.images.root import data_root
from kt.real.files import load
from kt.run.errors import KTError

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""By which their input was normalised, RGB in [0, 1]."""


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (He et al., 2016, option A).

    Where the block widens, the shortcut takes every second position and adds channels of zeros,
    half of them on each side.
    """

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, width // before, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.added = (width - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.added:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        return F.relu(out + x)


class ResNet(nn.Module):
    """The ResNet of He et al. for images of 32 x 32 (2016, Section 4.2).

    Args:
        depth: 6 n + 2 layers: three groups of n blocks.
        widths: channels of the groups.
        colours: channels of an image.
    """

    def __init__(
        self, depth: int, widths: tuple[int, int, int] = (16, 32, 64), colours: int = 3
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(colours, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        befores = (widths[0], *widths)
        for group, width in enumerate(widths):
            blocks = [
                Block(befores[group] if at == 0 else width, width) for at in range(depth // 6)
            ]
            setattr(self, f"layer{group + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(widths[-1], 10)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, colours, 32, 32) to class scores (N, 10)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def published(depth: int) -> ResNet:
    """A trained network: `cifar10_resnet<depth>.safetensors` (Yerlan Idelbayev, BSD 2-Clause).

    Raises:
        KTError: KT_DATA_ROOT is not set; the file is not there, or holds another network's weights.
    """
    file = f"models/cifar10_resnet{depth}.safetensors"
    if (root := data_root()) is None:
        raise KTError(
            f"ResNet-{depth} is published: set KT_DATA_ROOT to the folder that holds {file}"
        )
    return load(lambda: ResNet(depth), root / file).eval()


def pixels(images: Tensor) -> Tensor:
    """(N, H, W) or (N, colours, H, W) uint8 -> (N, colours, H, W) float32, channels last.

    As the networks read them.
    """
    images = images[:, None] if images.dim() == 3 else images
    mean, deviation = (
        torch.tensor(v, device=images.device).view(3, 1, 1) for v in (MEAN, DEVIATION)
    )
    colours = images.shape[1]
    scaled = (images.float() / 255 - mean[:colours]) / deviation[:colours]
    return scaled.contiguous(memory_format=torch.channels_last)
