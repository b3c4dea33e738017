"""What a translator is trained to do: like known small blocks, or like the large block behaves.

An objective has samples, `len(objective)`, and adds the gradient of its loss on some of them to a
translator's: `objective.backward(model, index)`. `kt.fit` does the rest.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kt import ensemble, losses, symmetry
from kt.augment import Side, augment
from kt.data import ImageSet, pixels
from kt.ensemble import Compute
from kt.pairs import Rows
from kt.threads import one_thread

Weights = dict[str, Tensor]
Samples = Weights | dict[str, Rows]
PIECE, LARGE_PIECE = 32, 512
"""Pairs whose activations are in memory together: for one of a CPU's threads, and else. A batch's
gradient is the sum over its pieces, in order, and so depends on them by rounding."""


@dataclass(frozen=True)
class WeightObjective:
    """Predict the small block's weights from the large block's (Equation 1).

    Attributes:
        large, small: the pairs, stacked (N, ...), in memory or in a store's files.
        masking, noise, side: augmentation drawn afresh for every batch (Section 3.2).
        precision: "bfloat16" computes the forward pass in it; weights stay float32.
        workers: CPU threads, each at a piece of a batch; they change no result.
    """

    large: Samples
    small: Samples
    masking: float = 0.0
    noise: float = 0.0
    side: Side = "large"
    precision: str = "float32"
    workers: int = 1

    def __len__(self) -> int:
        return len(next(iter(self.small.values())))

    def backward(self, model: nn.Module, index: Tensor) -> Tensor:
        """Add the gradient of the pairs at `index` (B,); returns their mean loss, a scalar."""
        parameters, count = list(model.parameters()), len(index)
        device = parameters[0].device
        large, small = (_rows(side, index, device) for side in (self.large, self.small))
        large, small = augment(large, small, self.masking, self.noise, self.side)

        def gradients(piece: slice) -> tuple[Tensor, tuple[Tensor, ...]]:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                predicted = model({name: tensor[piece] for name, tensor in large.items()})
            predicted = {name: tensor.float() for name, tensor in predicted.items()}
            wanted = {name: tensor[piece] for name, tensor in small.items()}
            loss = losses.weight_mse(predicted, wanted) * ((piece.stop - piece.start) / count)
            return loss.detach(), torch.autograd.grad(loss, parameters)

        total = torch.zeros((), device=device)
        with _pieces(model, count, self.workers) as (spread, pieces):
            for loss, gradient in spread(gradients, pieces):
                total += loss
                for parameter, more in zip(parameters, gradient, strict=True):
                    parameter.grad = more if parameter.grad is None else parameter.grad + more
        return total


@contextlib.contextmanager
def _pieces(
    model: nn.Module, count: int, workers: int
) -> Iterator[tuple[Callable[..., Iterable], list[slice]]]:
    """A `map` over the pieces of a batch of `count` pairs, and the pieces.

    On a CPU one thread computes a piece: the activations stay in its cache, it waits for no other
    within an operation, and sums are formed in the same order whatever the number of threads.
    Dropout draws from one stream for all threads, so with it pieces come one after the other.
    """

    def cut(size: int) -> list[slice]:
        return [slice(at, min(at + size, count)) for at in range(0, count, size)]

    on_cpu = next(model.parameters()).device.type == "cpu"
    draws = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    if draws or not on_cpu:
        yield map, cut(LARGE_PIECE)
        return
    with one_thread():
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield pool.map, cut(PIECE)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class BehaviourObjective:
    """Make networks with translated blocks answer as those with large blocks do.

    The loss is log(1 + KL) of their outputs on random training images, averaged over networks: the
    logarithm keeps a few hopeless networks from drowning the others. Labels are not used.

    Attributes:
        networks: stacked `former.*`, `large.*`, `latter.*`, (N, ...), in memory or in files.
        images: those to compare the outputs on.
        images_per_step: how many of them, drawn anew for every batch of networks.
        flip: mirror half of the batches.
        symmetry: show the encoder kernels that are turned, and so mean the same, by chance.
        target: kind of the translated block.
    """

    networks: Samples
    images: ImageSet
    target: str
    compute: Compute
    images_per_step: int = 64
    flip: bool = True
    symmetry: bool = True

    def __len__(self) -> int:
        return len(self.networks["latter.fc.bias"])

    def backward(self, model: nn.Module, index: Tensor) -> Tensor:
        """Add the gradient of the networks at `index` (B,); returns their mean loss, a scalar.

        The translation and one of the blocks on the way to it, drawn at random, are both judged.
        """
        networks = _rows(self.networks, index, next(model.parameters()).device)
        chosen = torch.randint(len(self.images), (self.images_per_step,))
        mirrored, turn = torch.rand(()) < 0.5, int(torch.randint(symmetry.TURNS, ()))
        if not self.symmetry:
            turn = 0
        images = pixels(self.images.images[chosen])
        if self.flip and mirrored:
            images = images.flip(-1)
        shown = ensemble.show(self.target, networks, images, self.compute)
        wanted = shown.outputs("large", ensemble.part(networks, "large")).softmax(-1)

        def loss(block: Weights) -> Tensor:
            apart = losses.divergence(self.target, block, shown, wanted)
            return apart.clamp(min=0).log1p().mean()

        with one_thread():
            *before, translation = model(networks, self.compute, turn)
            final = loss(translation)
            total = final
            if before:
                total = final + 0.5 * loss(before[int(torch.randint(len(before), ()))])
            total.backward()
        return final.detach()


def _rows(samples: Samples, index: Tensor, device: torch.device) -> Weights:
    return {name: tensor[index].to(device) for name, tensor in samples.items()}
