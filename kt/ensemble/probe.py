"""Blocks tried between the frozen parts of networks that have been shown images."""

from torch import Tensor

from kt.ensemble import cpu_engine
from kt.ensemble.compute import Compute
from kt.networks import channels
from kt.networks.blocks import require_images, sizes_of
from kt.networks.weights import Weights, part, take
from kt.run.threads import full_precision

DECAY = 1e-3
"""Of `Probe.fit_second_convolution`, relative to the mean square of what the convolutions read."""
DAMPING = 0.1
"""Of `Probe.whitening`, relative to the same."""


class Probe:
    """Networks and images, to try blocks between the networks' frozen parts; with a teacher or not.

    What the former blocks make of the images is computed once, and kept.

    Args:
        kind: of the blocks to try, beside large ones.
        networks: stacked `former.*` and `latter.*` (others are ignored), batch norm in evaluation
            mode.
        images: (B, 1, 28, 28) in [0, 1], the same for all networks.
    """

    @full_precision()
    def __init__(
        self, kind: str, networks: Weights, images: Tensor, compute: Compute = Compute()
    ) -> None:
        sizes = sizes_of(networks, images.shape[-1])
        require_images(images, sizes)
        engine = compute.engine_for(kind, sizes)
        options = {"threads": compute.workers} if engine is cpu_engine else {}
        self._device = compute.device
        former, latter = (self._taken(part(networks, name)) for name in ("former", "latter"))
        self._probe = engine.Probe(former, latter, images.to(compute.device), **options)

    @full_precision()
    def outputs(self, kind: str, block: Weights, images: slice = slice(None)) -> Tensor:
        """Logits (N, B, 10) of former + `block` (of `kind`) + latter for these images."""
        return self._probe.outputs(kind, self._taken(block), images)

    @full_precision()
    def watch_teacher(self, large: Weights) -> Tensor:
        """`outputs` of the large blocks for all images. Fits and scores go by what they do."""
        return self._probe.watch_teacher(self._taken(large))

    @full_precision()
    def fit_second_convolution(
        self, kind: str, block: Weights, images: slice = slice(None)
    ) -> Tensor:
        """Second convolutions with which small blocks' outputs are nearest to the large blocks'.

        Before their last ReLU: so the fit is linear, and exact where a small block can do the same.
        They are those of least squares, over these images and the positions that latter blocks
        read, with a little weight decay.

        Args:
            block: stacked blocks of a convolutional `kind`; its second convolutions do not matter.

        Returns:
            (N, 6, 3, 3, 3).
        """
        return self._probe.fit_second_convolution(kind, self._taken(block), images, DECAY)

    @full_precision()
    def whitening(self, kind: str, block: Weights, images: slice = slice(None)) -> Weights:
        """What a gradient is multiplied by to take correlations of the inputs out of it.

        For each convolution the inverse of the products of its input's patches, over their mean
        square, averaged over images and the positions that latter blocks read, and damped: the
        inputs' half of the natural gradient (K-FAC, Martens and Grosse, 2015).

        Args:
            block: stacked blocks of a convolutional `kind`.

        Returns:
            `conv1.weight` (N, 54, 54) and `conv2.weight` (N, 27, 27).
        """
        return self._probe.whitening(kind, self._taken(block), images, DAMPING)

    @full_precision()
    def score_subsets(
        self, wide: Weights, kept: Tensor, metric: Tensor, images: slice = slice(None)
    ) -> Tensor:
        """How much of what large blocks do is explained by some of the hidden channels.

        By blocks that keep these and have second convolutions of `fit_second_convolution`.

        Args:
            wide: stacked `conv1.weight` (N, 6, 6, 3, 3) of six hidden channels, and `conv1.bias`
                and `conv2.bias` if the block is to have them.
            kept: choices of three, in increasing order (S, 3).
            metric: (N, 6, 6), that of the squared error over the block's output channels.

        Returns:
            By how much the error is lower than without a second convolution, (N, S).
        """
        metric = metric.to(self._device)
        return self._probe.score_subsets(self._taken(wide), kept, metric, images, DECAY)

    @full_precision()
    def choose(
        self, wide: Weights, kept: int, metric: Tensor, images: slice = slice(None)
    ) -> Tensor:
        """The hidden channels (N, kept), in increasing order, that explain most (`score_subsets`).

        All ways are tried if they are few; else channels go one by one (`channels.eliminated`).
        """
        count = wide["conv1.weight"].shape[1]
        if channels.are_few(count, kept):
            ways = channels.subsets(count, kept)
            return ways[self.score_subsets(wide, ways, metric, images).argmax(1).cpu()]
        equations = self._probe.equations(self._taken(wide), images)
        products, wanted = (t.cpu() for t in equations)
        return channels.eliminated(products, wanted, metric.cpu(), count, kept, DECAY)

    @full_precision()
    def behaviour(
        self, kind: str, block: Weights, targets: Tensor, images: slice = slice(None)
    ) -> tuple[Tensor, Weights]:
        """How far the networks are from wanted outputs, and where their blocks should go.

        Args:
            block: stacked blocks of `kind`.
            targets: (N, B, 10) probabilities, for these images.

        Returns:
            The cross-entropy of each network's outputs with its targets, averaged over the images,
            (N,), and each network's gradient with respect to its block, {name: (N, ...)}.
        """
        return self._probe.behaviour(kind, self._taken(block), targets.to(self._device), images)

    def _taken(self, weights: Weights) -> Weights:
        return take(weights, device=self._device)
