"""Factor Transfer: a student learns what a paraphraser has drawn from its teacher's features.

Kim et al., "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018.
The factors are those of the last group of residual blocks. Paraphraser and translator are there for
training alone: the student that remains is the plain network.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from kt.run.errors import KTError

RATE = 0.5
"""The paraphrase rate k: channels of a factor in terms of those of the teacher's features."""
SLOPE = 0.1
"""Of the leaky ReLU behind every convolution."""


class Paraphraser(nn.Module):
    """Autoencoder of the teacher's features; what lies in its middle is the teacher's factor.

    Three 3x3 convolutions lead from the teacher's C channels over C to kC and kC, three transposed
    ones back the same way (Section 3.1). All have biases, none a batch norm.

    Args:
        channels: of the teacher's features, C.
        rate: k; a factor has round(kC) channels.

    Raises:
        KTError: that is none.
    """

    def __init__(self, channels: int, rate: float = RATE) -> None:
        super().__init__()
        self.factor_channels = factor_channels(channels, rate)
        self.encoder = _encoder(channels, self.factor_channels)
        widths = (self.factor_channels, self.factor_channels, channels, channels)
        self.decoder = _layers(nn.ConvTranspose2d, widths)

    def factor(self, features: Tensor) -> Tensor:
        """The teacher's factor: (B, C, H, W) -> (B, kC, H, W)."""
        return self.encoder(features)

    def forward(self, features: Tensor) -> Tensor:
        """The features as the decoder rebuilds them from their factor, (B, C, H, W) -> same."""
        return self.decoder(self.encoder(features))


class FactorTranslator(nn.Module):
    """The student's side: three 3x3 convolutions from its features to its factor (Section 3.2).

    Args:
        channels: of the student's features.
        factor_channels: of the teacher's factor, which the student's is compared with entry by
            entry: the teacher's width counts here, not the student's.
    """

    def __init__(self, channels: int, factor_channels: int) -> None:
        super().__init__()
        self.encoder = _encoder(channels, factor_channels)

    def forward(self, features: Tensor) -> Tensor:
        """The student's factor, (B, channels, H, W) -> (B, factor_channels, H, W)."""
        return self.encoder(features)


def factor_channels(channels: int, rate: float) -> int:
    """Of the factor of features of so many channels, at a paraphrase rate.

    Raises:
        KTError: none.
    """
    if not (count := round(channels * rate)):
        raise KTError(f"rate: got {rate}, which leaves none of the {channels} channels; take more")
    return count


def _encoder(channels: int, factor_channels: int) -> nn.Sequential:
    return _layers(nn.Conv2d, (channels, channels, factor_channels, factor_channels))


def _layers(
    convolution: type[nn.Conv2d | nn.ConvTranspose2d], widths: tuple[int, ...]
) -> nn.Sequential:
    layers = []
    for before, behind in pairwise(widths):
        layers += [convolution(before, behind, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def reconstruction_loss(rebuilt: Tensor, features: Tensor, p: int) -> Tensor:
    """What the paraphraser learns to make small, without labels.

    The p-th power of the distance in the L_p norm, as a mean over images and entries: p = 2 is the
    squared L2 distance of the paper (Equation 1), p = 1 the L1 distance of the authors' code.

    Args:
        rebuilt: (B, ...), to which the loss is differentiable.
        features: (B, ...); no gradient passes to them.
    """
    return _distance(rebuilt, features.detach(), p)


def factor_loss(teacher_factor: Tensor, student_factor: Tensor, p: int) -> Tensor:
    """Distance of two factors, each image's scaled to an L2 norm of 1.

    The paper writes an L_p norm (Equation 4); this is the mean of its p-th power over images and
    entries, as in the authors' code, to which their weight of 500 belongs.

    Args:
        teacher_factor: (B, ...); no gradient passes to it.
        student_factor: (B, ...) of the same shape, to which the loss is differentiable.
        p: 1 or 2.
    """
    teacher, student = (F.normalize(f.flatten(1)) for f in (teacher_factor, student_factor))
    return _distance(student, teacher.detach(), p)


def _distance(a: Tensor, b: Tensor, p: int) -> Tensor:
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    return {1: F.l1_loss, 2: F.mse_loss}[p](a, b)
