"""What a network computes, as a graph of its layers, and how to read values off that graph.

The graph is PyTorch's own (`torch.fx`), traced once and run with the layers of any copy of the
network. A dependency graph for pruning (Torch-Pruning's, say) would do too much here: it couples
all layers along a residual stream, where only hidden channels are translated, and takes an
operation that it does not know for element-wise, where this project leaves alone what it does not
know.
"""

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from kt.errors import KTError

Example = Tensor | Sequence[Any] | Mapping[str, Any]
"""What a network is called with: one input, several in their order, or several by their names."""


def arguments(example: Example) -> tuple[tuple, dict[str, Any]]:
    """An example as positional and named arguments."""
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, Tensor):
        return (example,), {}
    return tuple(example), {}


def tensors(example: Any) -> list[Tensor]:
    """All tensors in an example, or in an answer."""
    if isinstance(example, Tensor):
        return [example]
    if isinstance(example, Mapping):
        example = list(example.values())
    parts = example if isinstance(example, list | tuple) else []
    return [tensor for part in parts for tensor in tensors(part)]


def size(example: Example) -> int:
    """How many examples a batch holds: the length of its first tensor."""
    return len(tensors(example)[0])


def call(model: nn.Module, example: Example) -> Any:
    """What a network answers."""
    positional, named = arguments(example)
    return model(*positional, **named)


def as_floats(example: Any) -> Any:
    """The same with floating-point tensors in single precision."""
    if isinstance(example, Tensor):
        return example.float() if example.is_floating_point() else example
    if isinstance(example, Mapping):
        return {name: as_floats(value) for name, value in example.items()}
    return tuple(map(as_floats, example)) if isinstance(example, list | tuple) else example


class Graph:
    """The graph of a network.

    Args:
        model: in evaluation mode. Any copy of it can be read with this graph, and so can a copy
        whose
            layers have other widths.
        example: an input that it accepts.

    Attributes:
        nodes: torch.fx's nodes, in the order of the computation.
        shapes: of each node whose value on the example is a tensor.
        opaque: modules whose inside could not be traced, by name, with the reason.

    Raises:
        KTError: the network cannot be traced, or does not accept the example.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        self._signature = inspect.signature(model.forward)
        fixed = {
            name: value
            for name, value in self._bound(example).items()
            if not tensors(value) and value not in ((), {})
        }
        tracer = _Tracer()
        try:
            self._graph = tracer.trace(model, concrete_args=fixed or None)
        except Exception as error:  # whatever the network's own code does with a traced value
            raise KTError(
                f"torch.fx cannot trace {type(model).__name__}: {_reason(error)}"
            ) from None
        self.opaque = tracer.opaque
        self.nodes = list(self._graph.nodes)
        try:
            with torch.no_grad():
                shapes = self.read(model, example, dict.fromkeys(self.nodes, _shape))
        except Exception as error:
            raise KTError(f"the network fails on the example: {_reason(error)}") from None
        self.shapes = {node: shape for node, shape in shapes.items() if shape is not None}

    def read(
        self,
        model: nn.Module,
        example: Example,
        wanted: Mapping[fx.Node, Callable[[Any], Any]],
    ) -> dict[fx.Node, Any]:
        """Run a network as far as needed, and see some of its values.

        Args:
            wanted: for nodes of this graph, what is to be kept of their values. It is called as the
                values come up: what the network does in place may change them later.

        Returns:
            What was kept, by node.
        """
        runner = _Runner(model, self._graph, wanted)
        with contextlib.suppress(_EnoughError):
            runner.run(*self._bound(example).values())
        return runner.kept

    def _bound(self, example: Example) -> dict[str, Any]:
        positional, named = arguments(example)
        try:
            bound = self._signature.bind(*positional, **named)
        except TypeError as error:
            raise KTError(f"the network does not accept the example: {error}") from None
        bound.apply_defaults()
        return bound.arguments


class _EnoughError(Exception):
    """All that was wanted has been seen."""


class _Runner(fx.Interpreter):
    def __init__(self, model: nn.Module, graph: fx.Graph, wanted: Mapping[fx.Node, Callable]):
        super().__init__(model, graph=graph)
        self.extra_traceback = False
        self.kept: dict[fx.Node, Any] = {}
        self._wanted = wanted

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._wanted:
            self.kept[n] = self._wanted[n](value)
            if len(self.kept) == len(self._wanted):
                raise _EnoughError
        return value


class _Tracer(fx.Tracer):
    """Goes into every module that can be traced; the others are nodes as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.opaque: dict[str, str] = {}

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        before = len(self.graph.nodes)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            for node in reversed(list(self.graph.nodes)[before:]):
                self.graph.erase_node(node)
            name = self.path_of_module(m)
            self.opaque[name] = _reason(error)
            for inner in [inner for inner in self.opaque if inner.startswith(f"{name}.")]:
                del self.opaque[inner]
            return self.create_proxy("call_module", name, args, kwargs)


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
