"""Many networks at once in plain PyTorch: `torch.vmap` over the reference modules.

Runs everywhere and trains every kind of block; the faster engines are tested against it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from kt.networks.blocks import BLOCKS, Former, LargeBlock, Latter, Network, Sizes, skeleton
from kt.networks.weights import Weights, network_count, part, prefixed
from kt.run.finite import solving

Batches = Iterable[tuple[Tensor, Tensor]]
"""(images (B, 1, 28, 28) in [0, 1], labels (B,)), the same for all networks."""


def _lent(former: Weights) -> Sizes:
    """Sizes for a skeleton. Its padding goes by the kernel's size; weights bring all others."""
    return Sizes(kernel=former["conv.weight"].shape[-1])


def _vectorised(
    module: nn.Module, inputs: int | None = None
) -> Callable[[Weights, Tensor], Tensor]:
    """`module` as a function of stacked weights {name: (N, ...)} and one shared input (B, ...).

    With `inputs` 0 each has its own input: (N, B, ...).
    """

    def single(weights: Weights, x: Tensor) -> Tensor:
        return functional_call(module, weights, (x,))

    return torch.vmap(single, in_dims=(0, inputs))


def _in_company(weights: Weights) -> Weights:
    """A lone network beside a copy of itself.

    A grouped convolution of a single group takes another kernel, which rounds differently, and no
    result may depend on how many networks are trained together.
    """
    return {name: w.expand(2, *w.shape[1:]) if len(w) == 1 else w for name, w in weights.items()}


def _fit(
    forward: Callable[[Tensor], Tensor],
    parameters: list[Tensor],
    batches: Batches,
    lr: float,
    momentum: float,
) -> Iterator[int]:
    """SGD on the stacked parameters in place; `forward` gives logits (N, B, 10).

    Yields the number of steps made so far after each.
    """
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, foreach=True)
    for step, (images, labels) in enumerate(batches, 1):
        logits = forward(images)
        n, b = logits.shape[:2]
        # The sum over networks of each one's mean loss: every network gets just its own gradient.
        loss = F.cross_entropy(logits.reshape(n * b, -1), labels.repeat(n), reduction="sum") / b
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield step


def _trainable(weights: Weights) -> Weights:
    """Copies of the weights, all but the running statistics ready for gradients."""
    return {
        name: tensor.clone().requires_grad_("running_" not in name)
        for name, tensor in weights.items()
    }


def train_networks(
    initial: Weights,
    batches: Batches,
    lr: float,
    momentum: float,
    freeze_block: bool = False,
    snapshots: Sequence[int] = (),
) -> Weights:
    """Step 1: train former + large block + latter. See `kt.ensemble.train_networks`.

    Args:
        initial: stacked weights and running statistics of `Network`, {name: (N, ...)}.
        snapshots: numbers of steps after which to keep the networks as they are, S increasing ones.

    Returns:
        {name: ((1 + S) * N, ...)}: the networks in the end, then the snapshots, the latest first.
    """
    count = network_count(initial)
    weights = _trainable(_in_company(initial))
    sizes = _lent(part(initial, "former"))
    network = skeleton(lambda: Network(sizes=sizes))
    if freeze_block:
        network.get_submodule("block").eval()
        for name, tensor in weights.items():
            tensor.requires_grad_(tensor.requires_grad and not name.startswith("block."))
    forward = _vectorised(network)
    parameters = [w for w in weights.values() if w.requires_grad]

    def now() -> Weights:
        return {name: tensor.detach()[:count].clone() for name, tensor in weights.items()}

    steps = _fit(lambda x: forward(weights, x), parameters, batches, lr, momentum)
    kept = [now() for step in steps if step in snapshots]
    kept.append(now())
    return {name: torch.cat([at[name] for at in reversed(kept)]) for name in initial}


def train_blocks(
    kind: str,
    initial: Weights,
    former: Weights,
    latter: Weights,
    batches: Batches,
    lr: float,
    momentum: float,
) -> Weights:
    """Step 2: train blocks between frozen parts. See `kt.ensemble.train_blocks`."""
    count = network_count(initial)
    block = _trainable(_in_company(initial))
    forward = _vectorised(skeleton(lambda: Network(kind, _lent(former))).eval())
    frozen = _in_company(prefixed("former", former) | prefixed("latter", latter))

    def logits(x: Tensor) -> Tensor:
        return forward(frozen | prefixed("block", block), x)

    for _ in _fit(logits, list(block.values()), batches, lr, momentum):
        pass
    return {name: tensor.detach()[:count] for name, tensor in block.items()}


@torch.no_grad()
def outputs(
    kind: str, former: Weights, block: Weights, latter: Weights, images: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Logits (N, B, 10) for every batch of images. See `kt.ensemble.outputs`."""
    forward, weights, count = _assembled(kind, former, block, latter)
    for batch in images:
        yield forward(weights, batch)[:count]


@torch.no_grad()
def features(
    kind: str | None, former: Weights, block: Weights, images: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Feature maps (N, B, 6, 14, 14) for every batch of images. See `kt.ensemble.features`."""
    forward = _vectorised(skeleton(lambda: _Front(kind, _lent(former))).eval())
    count = len(former["bn.weight"])
    weights = _in_company(prefixed("former", former) | prefixed("block", block))
    for batch in images:
        yield forward(weights, batch)[:count].contiguous()  # vmap lets images come first in memory


class _Front(nn.Module):
    """The former block, and a block of `kind` behind it if that is not None."""

    def __init__(self, kind: str | None, sizes: Sizes) -> None:
        super().__init__()
        self.former = Former(sizes)
        self.block = nn.Identity() if kind is None else BLOCKS[kind](sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.former(x))


class Probe:
    """Networks and images. See `kt.ensemble.Probe`."""

    @torch.no_grad()
    def __init__(self, former: Weights, latter: Weights, images: Tensor) -> None:
        self.count = len(latter["fc.bias"])
        self._sizes = _lent(former)
        self._latter = _in_company(prefixed("latter", latter))
        former = _in_company(prefixed("former", former))
        front = skeleton(lambda: _Front(None, self._sizes)).eval()
        self._maps = _vectorised(front)(former, images)

    @torch.no_grad()
    def outputs(self, kind: str, block: Weights, images: slice = slice(None)) -> Tensor:
        return self._logits(kind, _in_company(block), images)[: self.count]

    @torch.no_grad()
    def watch_teacher(self, large: Weights) -> Tensor:
        block = prefixed("block", _in_company(large))
        before_relu = _vectorised(skeleton(lambda: _LargeSum(self._sizes)).eval(), 0)
        self._large = before_relu(block, self._maps)[..., ::2, ::2]
        return self.outputs("large", large)

    @torch.no_grad()
    def fit_second_convolution(
        self, kind: str, block: Weights, images: slice, decay: float
    ) -> Tensor:
        products, wanted = self._products(_in_company(block), images)
        solution = torch.cholesky_solve(wanted, _factors(products, decay))
        return solution.mT.unflatten(2, block["conv2.weight"].shape[2:])[: self.count]

    @torch.no_grad()
    def whitening(self, kind: str, block: Weights, images: slice, damping: float) -> Weights:
        block, maps = _in_company(block), self._maps[:, images]
        hidden = torch.vmap(_hidden)(maps, block["conv1.weight"], _bias(block))
        found = {}
        for name, read in {"conv1.weight": maps, "conv2.weight": hidden}.items():
            patches = torch.vmap(self._patches)(read)
            products = patches.mT @ patches
            mean = products.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-6
            identity = torch.eye(products.shape[1], device=products.device)
            damped = products + (damping * (mean - 1e-6) + 1e-6) * identity
            with solving("the networks' blocks"):
                found[name] = (mean * torch.linalg.inv(damped))[: self.count]
        return found

    @torch.no_grad()
    def score_subsets(
        self, wide: Weights, kept: Tensor, metric: Tensor, images: slice, decay: float
    ) -> Tensor:
        products, wanted = self._products(_in_company(wide), images)
        explained, taps = [], self._sizes.kernel**2
        for channels in kept:
            rows = (taps * channels[:, None] + torch.arange(taps, device=channels.device)).flatten()
            factors = _factors(products[:, rows][:, :, rows], decay)
            half = torch.linalg.solve_triangular(factors, wanted[:, rows], upper=False)
            half = half[: self.count]
            explained.append((metric * (half.mT @ half)).sum((1, 2)))
        return torch.stack(explained, 1)

    @torch.no_grad()
    def equations(self, wide: Weights, images: slice) -> tuple[Tensor, Tensor]:
        products, wanted = self._products(_in_company(wide), images)
        return products[: self.count], wanted[: self.count]

    def _products(self, block: Weights, images: slice) -> tuple[Tensor, Tensor]:
        """The normal equations of second convolutions behind C hidden channels, without decay.

        (N, 9 * C, 9 * C) and the right side (N, 9 * C, 6).
        """
        maps = self._maps[:, images]
        hidden = torch.vmap(_hidden)(maps, block["conv1.weight"], _bias(block))
        patches = torch.vmap(self._patches)(hidden)
        wanted = self._large[:, images] - maps[..., ::2, ::2]
        if "conv2.bias" in block:
            wanted = wanted - block["conv2.bias"][:, None, :, None, None]
        wanted = wanted.permute(0, 1, 3, 4, 2).flatten(1, 3)
        return patches.mT @ patches, patches.mT @ wanted

    @torch.enable_grad()
    def behaviour(
        self, kind: str, block: Weights, targets: Tensor, images: slice = slice(None)
    ) -> tuple[Tensor, Weights]:
        trained = _trainable(_in_company(block))
        logits = self._logits(kind, trained, images)[: self.count]
        losses = -(targets * logits.log_softmax(-1)).sum(-1).mean(-1)
        gradients = torch.autograd.grad(losses.sum(), list(trained.values()))
        named = zip(trained, (g[: self.count] for g in gradients), strict=True)
        return losses.detach(), dict(named)

    def _logits(self, kind: str, block: Weights, images: slice) -> Tensor:
        forward = _vectorised(skeleton(lambda: _Back(kind, self._sizes)).eval(), 0)
        return forward(prefixed("block", block) | self._latter, self._maps[:, images])

    def _patches(self, maps: Tensor) -> Tensor:
        """What a convolution of maps (B, C, 14, 14) reads where latter blocks read.

        (B * 49, 9 * C).
        """
        kernel = self._sizes.kernel
        patches = F.unfold(maps, kernel, padding=kernel // 2, stride=2)
        return patches.transpose(1, 2).flatten(0, 1)


def _factors(products: Tensor, decay: float) -> Tensor:
    """Cholesky's factors of normal equations (N, K, K), with weight decay added to them."""
    more = decay * products.diagonal(dim1=1, dim2=2).mean(1) + 1e-6
    identity = torch.eye(products.shape[1], device=products.device)
    return torch.linalg.cholesky_ex(products + more[:, None, None] * identity).L


def _hidden(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu(F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2))


def _bias(block: Weights) -> Tensor:
    """That of the first convolutions, (N, hidden); zero if they have none."""
    weight = block["conv1.weight"]
    return block.get("conv1.bias", weight.new_zeros(weight.shape[:2]))


class _LargeSum(nn.Module):
    """The large block without its last ReLU."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.block = LargeBlock(sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.block.before_relu(x)


class _Back(nn.Module):
    """A block of `kind` and the latter block behind it."""

    def __init__(self, kind: str, sizes: Sizes) -> None:
        super().__init__()
        self.block = BLOCKS[kind](sizes)
        self.latter = Latter(sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.latter(self.block(x))


def _assembled(
    kind: str, former: Weights, block: Weights, latter: Weights
) -> tuple[Callable[[Weights, Tensor], Tensor], Weights, int]:
    """The networks as a function, their weights (see `_in_company`), and how many they are."""
    forward = _vectorised(skeleton(lambda: Network(kind, _lent(former))).eval())
    weights = _in_company(
        prefixed("former", former) | prefixed("block", block) | prefixed("latter", latter)
    )
    return forward, weights, len(latter["fc.bias"])
