"""The unrolled descent of `merge`: how far each layer goes along a gradient."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_STEP = 0.5
FREE_RATE = 0.6
"""The first step outside the span, relative to the largest that is taken; the others begin in a
linear decay."""
QUICK = 10.0
"""How much faster than other parameters their logarithm is learned."""


class Descent(nn.Module):
    """The layers: steps of the coefficients (N, 2, 6, 3), and of kernels outside their span."""

    def __init__(self, width: int, tokens: int, layers: int) -> None:
        super().__init__()
        self.entry = nn.Linear(10, width)
        self.token = nn.Linear(tokens, width, bias=False)
        self.about = nn.Linear(2, width, bias=False)
        self.time = nn.Parameter(torch.randn(max(layers, 1), width) * 0.3)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.alone, self.columns, self.rows = (
            nn.Linear(width, width, bias=bias) for bias in (True, False, False)
        )
        self.step = nn.Linear(width, 2)
        nn.init.normal_(self.step.weight, std=1e-3)
        nn.init.zeros_(self.step.bias)
        self.rate = nn.Parameter(torch.zeros(2))
        self.gain = nn.Linear(width, 2)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)
        decay = 1 - torch.arange(max(layers, 1)) / max(layers, 1)
        self.free_rate = nn.Parameter((FREE_RATE * decay).log()[:, None].repeat(1, 2) / QUICK)

    def forward(
        self, tokens: Tensor, x: Tensor, gradient: Tensor, momentum: Tensor, last: Tensor,
        loss: Tensor, layer: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The step, and how far to go outside the span, (N, 2, 1, 3).

        Args:
            tokens: `self.token` of the hidden channels, (N, 6, width).
        """
        size = gradient.square().mean((1, 2, 3), True).sqrt() + 1e-6
        gradient, momentum = gradient / size, momentum / size
        entries = torch.cat([x, gradient, momentum, 10 * last, gradient.tanh()], 1)
        about = torch.stack([size.log().flatten(), loss.clamp(1e-3, 10).log()], -1)
        network = self.about(about) + self.time[layer]
        h = self.entry(entries.permute(0, 2, 3, 1)) + (tokens + network[:, None])[:, :, None]
        h = self.norm(self.hidden(F.relu(h)))
        columns = h.mean(1)
        pooled = self.columns(columns)[:, None] + self.rows(h.mean(2))[:, :, None]
        step = self.step(F.relu(self.alone(h) + pooled)).permute(0, 3, 1, 2)
        step = step - self.rate[:, None, None] * momentum
        gain = (self.gain(columns) + QUICK * self.free_rate[layer]).exp().transpose(1, 2)
        return LARGEST_STEP * (step / LARGEST_STEP).tanh(), gain[:, :, None]
