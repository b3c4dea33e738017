"""Re-training: small blocks that learn from labels, and from what their network's large block does.

Knowledge distillation in the three forms that the paper compares itself with, and training without
a teacher. The blocks are trained between frozen former and latter blocks, by Adam, and may be of
any kind. All of it needs labelled images. `on_budget` is the paper's step 2 with Adam in place of
SGD; the others take as many steps as they are given.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from kt import ensemble
from kt.ensemble import Compute, Probe, Progress, Recipe
from kt.images import ImageSet, pixels, training_batches
from kt.networks.blocks import initial_weights
from kt.networks.weights import Weights, network_count, part, prefixed, take
from kt.rivals import distillation, factor_transfer
from kt.run import seeds
from kt.run.finite import finite_networks
from kt.run.optimizer import minimise
from kt.run.threads import one_thread
from kt.translators import losses

BATCH = 32
"""Images in a step."""
RATE = 0.01
"""Adam's learning rate in the first step; it falls linearly to zero."""
RATES = (0.003, 0.01)
"""Those among which selection networks choose, where Adam has the budget of step 2."""
TEMPERATURE, SHARE = 4.0, 0.9
"""Of the teacher's softened answers, and what they count beside the labels."""
FACTOR_WEIGHT, NORM = 500.0, 1
"""What the distance of factors counts beside the labels, and its p: as in the authors' code."""


class Batch:
    """Images before all networks. What the networks' parts make of them is computed when needed.

    Args:
        kind: of the blocks that are trained.
        networks: stacked `former.*`, `large.*` and `latter.*` (N, ...).
        images: B of them, the same for all networks.
    """

    def __init__(self, kind: str, networks: Weights, images: ImageSet, compute: Compute) -> None:
        self.labels = images.labels
        self._kind, self._networks, self._images, self._compute = kind, networks, images, compute

    @cached_property
    def probe(self) -> Probe:
        return Probe(self._kind, self._networks, pixels(self._images.images), self._compute)

    @cached_property
    def teacher_answers(self) -> Tensor:
        """Logits of the networks with their large blocks, (N, B, 10)."""
        return self.probe.outputs("large", part(self._networks, "large"))

    @cached_property
    def maps(self) -> Tensor:
        """What the blocks read, (N, B, 6, 14, 14)."""
        return ensemble.features(self._images, self._networks, compute=self._compute)

    @cached_property
    @torch.no_grad()
    def teacher_maps(self) -> Tensor:
        """What the large blocks make of `maps`, in the same shape."""
        return losses.behind("large", part(self._networks, "large"), self.maps)


Loss = Callable[[Weights, Batch], Tensor]
"""Of stacked weights (N, ...) on a batch: a scalar, the sum over networks of each one's loss."""


@dataclass(frozen=True)
class Retraining:
    """Which networks' blocks are trained, on what, and for how long.

    Attributes:
        kind: of the blocks, one of `kt.networks.blocks.TARGETS`.
        networks: stacked `former.*`, `large.*` and `latter.*` (N, ...), which stay as they are.
        images: with labels.
        steps: each on 32 images, the same for all networks.
        seed: of the images' order, and of modules that are trained along.
    """

    kind: str
    networks: Weights
    images: ImageSet
    steps: int
    seed: int
    compute: Compute = field(default_factory=Compute)

    def minimise(self, loss: Loss, start: Weights, steps: int, phase: str = "blocks") -> Weights:
        """Stacked weights (N, ...) after some steps of Adam, each network on its own loss.

        Args:
            phase: a name; each has an order of images of its own.
        """
        with one_thread():
            return minimise(start, loss, self._batches(steps, phase), steps, RATE)

    def _batches(self, steps: int, phase: str) -> Iterator[Batch]:
        draw = seeds.generator(self.seed, "re-training", phase)
        for index in torch.randint(len(self.images), (steps, BATCH), generator=draw):
            yield Batch(self.kind, self.networks, self.images.subset(index), self.compute)


def on_budget(
    kind: str,
    networks: Weights,
    data: ImageSet,
    block: Weights,
    stream_seed: int,
    recipe: Recipe,
    rate: float,
    compute: Compute = Compute(),
    progress: Progress = lambda images: None,
) -> Weights:
    """Blocks trained as by `kt.ensemble.train_blocks`, but by Adam, whose rate falls linearly to 0.

    Args:
        networks: stacked `former.*` and `latter.*` (others are ignored), which stay as they are.
        block: where to start, stacked (N, ...).
        stream_seed: of the images' order and flips, the same for all networks.
        recipe: its epochs, batch size and flips count.
        rate: of the first step.

    Raises:
        NotFiniteError: one diverges.
    """

    def loss(learned: Weights, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        probe = Probe(kind, networks, images, compute)
        progress(len(labels) * network_count(block))
        return losses.cross_entropy(kind, learned, probe, labels).sum()

    steps = recipe.epochs * -(-len(data) // recipe.batch_size)
    batches = training_batches(
        data.to(compute.device), recipe.batch_size, recipe.epochs, recipe.flip, stream_seed
    )
    with one_thread():
        trained = minimise(take(block, device=compute.device), loss, batches, steps, rate)
    return finite_networks(take(trained, device=torch.device("cpu")))


def cross_entropy(retraining: Retraining, block: Weights) -> Weights:
    """Blocks trained on labels alone, without a teacher.

    Args:
        block: where to start, stacked (N, ...): fresh weights, for instance.

    Returns:
        The trained blocks. A network's does not depend on the networks beside it.
    """

    def loss(learned: Weights, batch: Batch) -> Tensor:
        return losses.cross_entropy(retraining.kind, learned, batch.probe, batch.labels).sum()

    return retraining.minimise(loss, block, retraining.steps)


def logits(retraining: Retraining, block: Weights) -> Weights:
    """Blocks trained on labels and the teacher's softened answers (Hinton et al., 2015).

    Arguments and result are those of `cross_entropy`.
    """
    return _on_answers(retraining, block, retraining.steps)


def fitnets(retraining: Retraining, block: Weights) -> Weights:
    """Blocks trained the FitNets way: half of the steps on hints, the others on answers.

    Romero et al., 2015. The hints are the feature maps behind the large block; those behind the
    small one have their shape, so that no regressor is needed. Arguments and result are those of
    `cross_entropy`.
    """

    def loss(learned: Weights, batch: Batch) -> Tensor:
        maps = losses.behind(retraining.kind, learned, batch.maps)
        return _summed(distillation.hint_loss, maps, batch.teacher_maps)

    on_hints = retraining.steps // 2
    hinted = retraining.minimise(loss, block, on_hints, "hints")
    return _on_answers(retraining, hinted, retraining.steps - on_hints)


def transferred_factors(retraining: Retraining, block: Weights) -> Weights:
    """Blocks trained on labels and the factors of the feature maps (Kim et al., 2018).

    Every network has a paraphraser of its own, trained beforehand in half as many steps, without
    labels, and a translator that is trained along with the block. Arguments and result are those of
    `cross_entropy`.
    """
    count, channels = network_count(block), retraining.networks["former.bn.weight"].shape[1]
    paraphraser = factor_transfer.Paraphraser(channels)
    width = paraphraser.factor_channels

    def translator() -> nn.Module:
        return factor_transfer.FactorTranslator(channels, width)

    def drawn(make: Callable[[], nn.Module], name: str) -> Weights:
        return initial_weights(make, [seeds.derive(retraining.seed, name, i) for i in range(count)])

    rebuild, paraphrase, translate = map(_stacked, (paraphraser, paraphraser.encoder, translator()))

    def unsupervised(learned: Weights, batch: Batch) -> Tensor:
        maps = batch.teacher_maps
        return _summed(factor_transfer.reconstruction_loss, rebuild(learned, maps), maps, NORM)

    start = drawn(lambda: factor_transfer.Paraphraser(channels), "paraphraser")
    trained = retraining.minimise(unsupervised, start, retraining.steps // 2, "paraphraser")
    encoder = part(trained, "encoder")

    def loss(learned: Weights, batch: Batch) -> Tensor:
        small = part(learned, "block")
        maps = losses.behind(retraining.kind, small, batch.maps)
        student = translate(part(learned, "translator"), maps)
        teacher = paraphrase(encoder, batch.teacher_maps)
        apart = _summed(factor_transfer.factor_loss, teacher, student, NORM)
        known = losses.cross_entropy(retraining.kind, small, batch.probe, batch.labels)
        return known.sum() + FACTOR_WEIGHT * apart

    both = prefixed("block", block) | prefixed("translator", drawn(translator, "translator"))
    return part(retraining.minimise(loss, both, retraining.steps), "block")


def _on_answers(retraining: Retraining, block: Weights, steps: int) -> Weights:
    def loss(learned: Weights, batch: Batch) -> Tensor:
        student, teacher = answers(retraining.kind, learned, batch.probe), batch.teacher_answers
        labels = batch.labels.repeat(len(student))
        return _summed(distillation.logit_loss, student, teacher, labels, TEMPERATURE, SHARE)

    return retraining.minimise(loss, block, steps)


def _summed(loss: Callable[..., Tensor], a: Tensor, b: Tensor, *rest: object) -> Tensor:
    """A mean over images, of tensors (N, B, ...), as the sum over networks of such means."""
    return len(a) * loss(a.flatten(0, 1), b.flatten(0, 1), *rest)


def _stacked(module: nn.Module) -> Callable[[Weights, Tensor], Tensor]:
    """`module` as a function of stacked weights {name: (N, ...)} and inputs (N, B, ...)."""
    return torch.vmap(lambda weights, x: functional_call(module, weights, (x,)))


def answers(kind: str, block: Weights, probe: Probe) -> Tensor:
    """Logits (N, B, 10) of shown networks with stacked blocks, to which they are differentiable.

    Only for losses that stay the same when all logits of an image grow alike, as every function of
    their softmax does.
    """
    return _Answers.apply(kind, list(block), probe, *block.values())


class _Answers(torch.autograd.Function):
    """By `kt.ensemble.Probe`, which has the gradient of a cross-entropy: softmax less the targets.

    The targets are chosen such that the difference is the gradient that is asked for.
    """

    @staticmethod
    def forward(ctx, kind, names, probe, *block):
        ctx.kind, ctx.probe = kind, probe
        ctx.block = dict(zip(names, (tensor.detach() for tensor in block), strict=True))
        found = probe.outputs(kind, ctx.block)
        ctx.save_for_backward(found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        (found,) = ctx.saved_tensors
        targets = found.softmax(-1) - found.shape[1] * slope
        _, gradient = ctx.probe.behaviour(ctx.kind, ctx.block, targets)
        return None, None, None, *(gradient[name] for name in ctx.block)
