"""Where and how fast networks are computed, and by which engine."""

from dataclasses import dataclass, field
from types import ModuleType

import torch

from kt.ensemble import cpu_engine, cuda_engine, torch_engine
from kt.networks.blocks import PAPER, Sizes


@dataclass(frozen=True)
class Compute:
    """What only changes speed.

    Attributes:
        device: where networks are trained.
        workers: CPU threads, each at a chunk of networks.
        chunk: networks vectorised in one go.
        engine: "auto" takes the compiled one on a CPU with a compiler, "cuda" on a GPU; "torch",
            "cpu" or "cuda" insists.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 1
    chunk: int = 16
    engine: str = "auto"

    def engine_for(self, kind: str, sizes: Sizes = PAPER) -> ModuleType:
        """The engine that trains and evaluates blocks of `kind` in networks of these sizes.

        Raises:
            KTError: `engine` is "cpu" or "cuda" and that engine is not available here.
        """
        if self.engine == "cuda":
            cuda_engine.require(self.device, sizes)
        own = cpu_engine if self.device.type == "cpu" else cuda_engine
        if self.engine not in ("auto", self.device.type) or not own.supports(kind):
            return torch_engine
        if self.engine == "cpu":
            cpu_engine.library(sizes)
        return own if own.available(sizes) else torch_engine
