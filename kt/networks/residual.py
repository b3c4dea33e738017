"""Residual networks for images of 32 x 32, each giving its last features along with its answer."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from kt.networks.blocks import CLASSES


class Classifier(nn.Module):
    """A convolutional body, the mean over positions, and a linear head.

    Args:
        body: (B, 3, 32, 32) -> (B, channels, H, W).
        head: from `channels` to the classes.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, 32, 32) to features (B, channels, H, W) and logits (B, classes)."""
        features = self.body(images)
        return features, self.head(features.mean((2, 3)))


def channels(network: nn.Module) -> int:
    """Of the features of a `Classifier`, fused or not."""
    head = network.get_submodule("head")
    assert isinstance(head, nn.Linear)
    return head.in_features


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (He et al., 2016, option A).

    Where the block widens, the shortcut takes every `stride`-th position and fills up with zeros.
    """

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.added = width - before

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.added:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, 0, self.added))
        return F.relu(out + x, inplace=True)


def cifar_resnet(depth: int) -> Classifier:
    """The ResNet of He et al. for CIFAR-10 (2016, Section 4.2), with features (B, 64, 8, 8).

    Args:
        depth: 6 n + 2 layers: three groups of n blocks, 16, 32 and 64 channels wide.
    """
    if depth % 6 != 2 or depth < 8:
        raise ValueError(f"depth {depth} is not 6 n + 2")
    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    before = 16
    for width in (16, 32, 64):
        for _ in range(depth // 6):
            layers.append(BasicBlock(before, width, stride=width // before))
            before = width
    network = Classifier(nn.Sequential(*layers), nn.Linear(before, CLASSES))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def imagenet_resnet(name: str) -> Classifier:
    """torchvision's ResNet for small images: first convolution 3x3 without stride, no max-pool.

    Features are (B, 512, 4, 4) of "resnet18" and (B, 2048, 4, 4) of "resnet50".
    """
    from torchvision import models  # takes seconds to import; smaller networks do not need it

    network = getattr(models, name)(num_classes=CLASSES)
    first = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    layers = ("bn1", "relu", "layer1", "layer2", "layer3", "layer4")
    kept = OrderedDict((layer, getattr(network, layer)) for layer in layers)
    return Classifier(nn.Sequential(OrderedDict(conv1=first) | kept), network.fc)


NETWORKS: dict[str, Callable[[], Classifier]] = {
    "resnet8": partial(cifar_resnet, 8),
    "resnet20": partial(cifar_resnet, 20),
    "resnet18": partial(imagenet_resnet, "resnet18"),
    "resnet50": partial(imagenet_resnet, "resnet50"),
}
