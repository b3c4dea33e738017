"""The passes over a batch: what is kept between them, and which kernel follows which."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from kt.ensemble.cuda import convolution, former, latter, norm
from kt.networks.blocks import CLASSES, PAPER

if TYPE_CHECKING:
    from kt.ensemble.cuda_tiles import Tiles

CHANNELS = PAPER.channels
WIDTH = 2 * CHANNELS  # channels of the latter convolution
FEATURES = WIDTH * 49
EPSILON = 1e-5  # batch norm's
NORM_WARPS = 8
ROW_REGISTERS, GRADIENT_REGISTERS = 128, 168
"""At most, for a thread: a multiprocessor holds 16 and 12 warps, and little is spilled (sm_90)."""


@dataclass
class _Norm:
    """A batch norm, or the identity in its place; the tensors are those of `norm`'s kernels."""

    name: str
    channels: int
    trained: bool
    norm: Tensor
    statistics: Tensor
    chain: Tensor


class Passes:
    """Networks and what a batch leaves on its way through them.

    Args:
        weights: stacked weights of whole networks, {name: (N, ...)}; copied.
        trained: which of "former", "block" and "latter" are; the others' batch norm is in
            evaluation mode.
    """

    def __init__(
        self, weights: dict[str, Tensor], trained: tuple[str, ...], tiles: "Tiles"
    ) -> None:
        self.tiles, self.trained = tiles, trained
        self.shapes = {name: tensor.shape for name, tensor in weights.items()}
        self.count = len(weights["latter.fc.bias"])
        self.packs = triton.cdiv(self.count, tiles.lanes)
        self.device = weights["latter.fc.bias"].device
        self.w = {name: self._packed(tensor) for name, tensor in weights.items()}
        self.momenta = {
            name: torch.zeros_like(w) for name, w in self.w.items() if "running_" not in name
        }
        self.hidden = self.shapes["block.conv1.weight"][1]  # channels of the block's inner map
        self.former = self._norm("former.bn", CHANNELS)
        self.norm1 = self._norm("block.bn1", self.hidden)
        self.norm2 = self._norm("block.bn2", CHANNELS)
        self.latter = self._norm("latter.bn", WIDTH)
        self.identity = self._norm("", CHANNELS)
        self.moments = torch.zeros(90, dtype=torch.float64, device=self.device)
        self.capacity = 0  # images that there is room for

    def train(self, images: Tensor, labels: Tensor, lr: float, momentum: float) -> None:
        """One step of SGD on a batch: images (B, 1, 28, 28), labels (B,)."""
        self._begin(images, labels)
        self.lr, self.momentum = lr, momentum
        self._forward()
        self._loss(train=True)
        self._latter_backward()
        self._block_backward()
        if self.former.trained:
            self._former_backward()

    def outputs(self, images: Tensor) -> Tensor:
        """Logits (N, B, 10) of each network."""
        self._begin(images, torch.zeros(len(images), dtype=torch.int64, device=images.device))
        self._forward()
        self._loss(train=False)
        flat = self.dlogits[: self.packs * self.images * CLASSES * self.tiles.lanes]
        logits = flat.view(self.packs, self.images, CLASSES, self.tiles.lanes)
        return logits.permute(0, 3, 1, 2).flatten(0, 1)[: self.count].contiguous()

    def weights(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named weights and running statistics, stacked: {name: (N, ...)}."""
        return {
            name: self.w[name].transpose(1, 2).flatten(0, 1)[: self.count].view(self.shapes[name])
            for name in names
        }

    # --- forward --------------------------------------------------------------------------------

    def _begin(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = len(labels), labels.contiguous()
        self.pixels = F.pad(images, (2, 2, 2, 2)).contiguous()
        if self.former.trained:
            patches = F.unfold(images, 3, padding=1).transpose(0, 1).flatten(1).double()
            self.moments[:9] = patches.sum(1)
            self.moments[9:] = (patches @ patches.T).flatten()
        if self.images > self.capacity:
            self._make_room()

    def _forward(self) -> None:
        tiles, whole = self.tiles, self.norm2.trained
        if self.former.trained:
            self._by_channel(
                former.former_norm, CHANNELS, self.w["former.conv.weight"],
                *self._affine(self.former), *self._running(self.former), self.moments,
                self.former.norm, self.former.statistics, self.images,
            )  # fmt: skip
        self._by_row(
            former.former_forward, self.images * 196 // tiles.pooled, self.pixels,
            self.w["former.conv.weight"], self.former.norm, self.h, self.routes, self.images,
            TILE=tiles.pooled, ROUTES=self.former.trained,
        )  # fmt: skip
        rows = self.images * 196 // tiles.whole
        self._by_row(
            convolution.convolve, rows, self.h, self.w["block.conv1.weight"], self.identity.norm,
            self.first, self.sums, self.images, IN=CHANNELS, OUT=self.hidden, STEP=1,
            TILE=tiles.whole, AFFINE=False, SUMS=self.norm1.trained,
        )  # fmt: skip
        self._forward_norm(self.norm1, rows, 196)
        step, tile = (1, tiles.whole) if whole else (2, tiles.read)
        rows = self.images * (14 // step) ** 2 // tile
        self._by_row(
            convolution.convolve, rows, self.first, self.w["block.conv2.weight"], self.norm1.norm,
            self.second, self.sums, self.images, IN=self.hidden, OUT=CHANNELS, STEP=step,
            TILE=tile, AFFINE=True, SUMS=whole,
        )  # fmt: skip
        self._forward_norm(self.norm2, rows, 196)
        rows = self.images * 49 // tiles.read
        self._by_row(
            latter.latter_forward, rows, self.h, self.second, self.norm2.norm,
            self.w["latter.conv.weight"], self.y, self.third, self.sums, self.images,
            WHOLE=whole, TILE=tiles.read,
        )  # fmt: skip
        self._forward_norm(self.latter, rows, 49)

    def _loss(self, train: bool) -> None:
        tiles = self.tiles
        self._by_row(
            latter.scores, self.images * 49 // tiles.read, self.third, self.latter.norm,
            self.w["latter.fc.weight"], self.sums, self.images, TILE=tiles.read,
        )  # fmt: skip
        self._by_row(
            latter.loss, self.images, self.sums, self.w["latter.fc.bias"], self.labels,
            self.dlogits, self.images, SEGMENTS=49 // tiles.read, TRAIN=train,
        )  # fmt: skip

    # --- backward -------------------------------------------------------------------------------

    def _latter_backward(self) -> None:
        tiles, trained, whole = self.tiles, self.latter.trained, self.norm2.trained
        self._by_row(
            latter.linear_backward, FEATURES // tiles.channels, self.dlogits, self.third,
            self.latter.norm, self.w["latter.fc.weight"], self.momenta["latter.fc.weight"],
            self.dthird, self.sums, self.lr, self.momentum, IMAGES=self.images,
            CHANNELS=tiles.channels, TRAINED=trained,
        )  # fmt: skip
        if trained:
            self._descend("latter.fc.bias", self.dlogits, self.images)
        self._backward_norm(self.latter, 49, 49)
        rows = self.images * 49 // tiles.read
        self._by_row(
            latter.latter_input_gradient, rows, self.dthird, self.third, self.latter.chain,
            self.w["latter.conv.weight"], self.y, self.second, self.dy, self.sums, self.images,
            TILE=tiles.read, TRAINED=trained, WHOLE=whole,
        )  # fmt: skip
        if trained:
            self._weight_gradient(
                "latter.conv.weight", latter.latter_weight_gradient, rows, 3, self.dthird,
                self.third, self.latter.chain, self.y, OUTS=WIDTH // 3, TILE=tiles.read,
            )  # fmt: skip
        self._backward_norm(self.norm2, rows, 196)

    def _block_backward(self) -> None:
        tiles, whole = self.tiles, self.norm2.trained
        rows = self.images * 196 // tiles.whole
        self._by_row(
            convolution.input_gradient, rows, self.dy, self.second, self.norm2.chain,
            self.w["block.conv2.weight"], self.first, self.norm1.norm, self.dy, self.dfirst,
            self.sums, self.images, IN=self.hidden, OUT=CHANNELS, TILE=tiles.whole, SPARSE=True,
            TRAINED=whole, SKIP=False,
        )  # fmt: skip
        if "block" in self.trained:
            step, tile = (1, tiles.whole) if whole else (2, tiles.read)
            self._weight_gradient(
                "block.conv2.weight", convolution.weight_gradient,
                self.images * (14 // step) ** 2 // tile, self.hidden, self.first, self.norm1.norm,
                self.dy, self.second, self.norm2.chain, IN=self.hidden, OUT=CHANNELS, STEP=step,
                TILE=tile, AFFINE=True, SPARSE=True, TRAINED=whole,
            )  # fmt: skip
        self._backward_norm(self.norm1, rows, 196)
        if self.former.trained:
            self._by_row(
                convolution.input_gradient, rows, self.dfirst, self.first, self.norm1.chain,
                self.w["block.conv1.weight"], self.h, self.identity.norm, self.dy, self.dh,
                self.sums, self.images, IN=CHANNELS, OUT=self.hidden, TILE=tiles.whole,
                SPARSE=False, TRAINED=self.norm1.trained, SKIP=True,
            )  # fmt: skip
        if "block" in self.trained:
            self._weight_gradient(
                "block.conv1.weight", convolution.weight_gradient, rows, CHANNELS, self.h,
                self.identity.norm, self.dfirst, self.first, self.norm1.chain, IN=CHANNELS,
                OUT=self.hidden, STEP=1, TILE=tiles.whole, AFFINE=False, SPARSE=False,
                TRAINED=self.norm1.trained,
            )  # fmt: skip

    def _former_backward(self) -> None:
        """`sums` holds those of the gradient before the former block's ReLU."""
        tiles, conv = self.tiles, "former.conv.weight"
        left = self._partial_sums(
            former.former_backward, self.images * 196 // tiles.pooled, 1, self.pixels, self.dh,
            self.routes, TILE=tiles.pooled,
        )  # fmt: skip
        self._by_channel(
            former.former_update, CHANNELS, self.w[conv], *self._affine(self.former),
            self.momenta[conv], *self._affine(self.former, self.momenta), self.moments,
            self.former.norm, self.former.statistics, self.sums, self.gradients, self.images,
            self.lr, self.momentum, ROWS=self.images * 196 // tiles.whole, PATCH_ROWS=left,
            S=tiles.sums,
        )  # fmt: skip

    def _forward_norm(self, of: _Norm, rows: int, area: int) -> None:
        """From `sums`, which `rows` rows left of maps of `area` positions."""
        if of.trained:
            self._by_channel(
                norm.forward_norm, of.channels, self.sums, self.images * area, *self._affine(of),
                *self._running(of), of.norm, of.statistics,
                ROWS=rows, C=of.channels, S=self.tiles.sums,
            )  # fmt: skip

    def _backward_norm(self, of: _Norm, rows: int, area: int) -> None:
        if of.trained:
            self._by_channel(
                norm.backward_norm, of.channels, self.sums, self.images * area, of.norm,
                of.statistics, of.chain, *self._affine(of), *self._affine(of, self.momenta),
                self.lr, self.momentum, ROWS=rows, C=of.channels, S=self.tiles.sums,
            )  # fmt: skip

    def _weight_gradient(self, name: str, kernel, rows: int, depth: int, *arguments, **constants):
        """A kernel's weight gradient, and the step along it."""
        left = self._partial_sums(kernel, rows, depth, *arguments, **constants)
        self._descend(name, self.gradients, left)

    def _descend(self, name: str, sums: Tensor, rows: int) -> None:
        count = self.w[name].shape[1]
        self._by_row(
            norm.descend, count, self.w[name], self.momenta[name], sums, self.lr,
            self.momentum, ROWS=rows, E=count, S=self.tiles.descent_sums,
        )  # fmt: skip

    # --- memory and launches --------------------------------------------------------------------

    def _packed(self, stacked: Tensor) -> Tensor:
        """(N, ...) as (packs, elements, lanes), the last pack filled up with the last network."""
        filled = torch.arange(self.packs * self.tiles.lanes, device=self.device)
        flat = stacked.float().flatten(1)[filled.clamp(max=self.count - 1)]
        return flat.view(self.packs, self.tiles.lanes, -1).transpose(1, 2).contiguous()

    def _norm(self, name: str, channels: int) -> _Norm:
        shape = (self.packs, channels, 2, self.tiles.lanes)
        statistics = torch.zeros(shape, dtype=torch.float64, device=self.device)
        affine = torch.zeros(shape, device=self.device)
        affine[:, :, 0] = 1
        if known := f"{name}.weight" in self.w:
            mean, variance = (self.w[f"{name}.running_{what}"].double() for what in ("mean", "var"))
            scale = self.w[f"{name}.weight"] / (variance + EPSILON).sqrt()
            affine[:, :, 0] = scale
            affine[:, :, 1] = self.w[f"{name}.bias"] - mean * scale
        chain = F.pad(affine[:, :, :1], (0, 0, 0, 2)).contiguous()
        trained = known and name.split(".")[0] in self.trained
        return _Norm(name, channels, trained, affine, statistics, chain)

    def _affine(self, of: _Norm, where: dict[str, Tensor] | None = None) -> list[Tensor]:
        where = self.w if where is None else where
        return [where[f"{of.name}.weight"], where[f"{of.name}.bias"]]

    def _running(self, of: _Norm) -> list[Tensor]:
        return [self.w[f"{of.name}.running_mean"], self.w[f"{of.name}.running_var"]]

    def _make_room(self) -> None:
        tiles, images = self.tiles, self.images
        self.capacity = images

        def room(values: int, dtype: torch.dtype = torch.float32) -> Tensor:
            size = self.packs * values * tiles.lanes
            return torch.empty(size, dtype=dtype, device=self.device)

        training = bool(self.trained)
        whole, read = CHANNELS * images * 196, CHANNELS * images * 49
        inner = self.hidden * images * 196
        self.h, self.first = room(whole), room(inner)
        self.second = room(whole if self.norm2.trained else read)
        self.y, self.third = room(read), room(2 * read)
        self.dlogits = room(CLASSES * images)
        self.routes = room(whole if self.former.trained else 1, torch.int8)
        self.dh = room(whole if self.former.trained else 1)
        self.dfirst = room(inner if training else 1)
        self.dy, self.dthird = room(read if training else 1), room(2 * read if training else 1)
        sums = (2 * CHANNELS * 196 // tiles.whole, 2 * WIDTH * 49 // tiles.read)
        self.sums = room(max(2 * FEATURES, *(images * n for n in sums)))
        gradients = (
            (CHANNELS * CHANNELS * 9, 196 // tiles.whole),
            (CHANNELS * CHANNELS * 9, 49 // tiles.read),
            (CHANNELS * 9, 196 // tiles.pooled),
            (WIDTH * CHANNELS, 49 // tiles.read),
        )
        rooms = [n * self._programs(images * rows) * tiles.gradient_rows for n, rows in gradients]
        self.gradients = room(max(rooms) if training else 1)

    def _programs(self, rows: int) -> int:
        return triton.cdiv(rows, self.tiles.gradient_rows * self.tiles.chunks)

    def _by_row(self, kernel, rows: int, *arguments, **constants) -> None:
        """A kernel on `rows` rows of each pack."""
        grid, r = (triton.cdiv(rows, self.tiles.rows), self.packs), self.tiles.rows
        self._launch(kernel, grid, self._warps(r), ROW_REGISTERS, *arguments, R=r, **constants)

    def _partial_sums(self, kernel, rows: int, depth: int, *arguments, **constants) -> int:
        """A kernel that leaves partial sums in `gradients`; how many rows of them."""
        grid, r = (self._programs(rows), self.packs, depth), self.tiles.gradient_rows
        self._launch(
            kernel, grid, self._warps(r), GRADIENT_REGISTERS, *arguments, self.gradients,
            self.images, CHUNKS=self.tiles.chunks, R=r, **constants,
        )  # fmt: skip
        return grid[0] * r

    def _warps(self, rows: int) -> int:
        """A thread for each row and lane."""
        return max(1, rows * self.tiles.lanes // 32)

    def _by_channel(self, kernel, channels: int, *arguments, **constants) -> None:
        self._launch(kernel, (self.packs, channels), NORM_WARPS, None, *arguments, **constants)

    def _launch(
        self, kernel, grid: tuple[int, ...], warps: int, registers: int | None, *arguments,
        **constants,
    ) -> None:  # fmt: skip
        on_device = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        with on_device:
            kernel[grid](
                *arguments, **constants, L=self.tiles.lanes, num_warps=warps, maxnreg=registers,
                enable_fp_fusion=True,
            )  # fmt: skip
