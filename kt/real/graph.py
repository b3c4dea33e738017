"""What a network computes, as a graph of its layers, and how to read values off that graph.

The graph is PyTorch's own (`torch.fx`), traced once and run with the layers of any copy of the
network. A dependency graph for pruning (Torch-Pruning's, say) would do too much here: it couples
all layers along a residual stream, where only hidden channels are translated, and takes an
operation that it does not know for element-wise, where this project leaves alone what it does not
know.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from kt.run.errors import KTError
from kt.run.guard import lacks_memory

STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

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
    """What a network answers.

    Raises:
        KTError: its code fails.
    """
    positional, named = arguments(example)
    with users_code(f"the network fails on a batch of {size(example)}"):
        return model(*positional, **named)


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Run code of a user, who can mend whatever it does wrong, but for a lack of memory.

    Raises:
        KTError: saying `what` it does, and why.
    """
    try:
        yield
    except (KTError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if lacks_memory(error):
            raise
        raise KTError(f"{what} ({type(error).__name__}: {reason(error)})") from error


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
            whose layers have other widths.
        example: an input that it accepts.

    Attributes:
        nodes: torch.fx's nodes, in the order of the computation, of its `graph`.
        places: of each node, in that order.
        last_read: what no later node reads, by the last that does.
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
        with users_code(f"torch.fx cannot trace {type(model).__name__}"):
            self.graph = tracer.trace(model, concrete_args=fixed or None)
        self.opaque = tracer.opaque
        self.nodes = list(self.graph.nodes)
        self.places = {node: place for place, node in enumerate(self.nodes)}
        self.last_read: dict[fx.Node, list[fx.Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            self.last_read[max(node.users, key=self.places.get, default=node)].append(node)
        with torch.no_grad():
            shapes = self.read(model, example, dict.fromkeys(self.nodes, _shape))
        self.shapes = {node: shape for node, shape in shapes.items() if shape is not None}

    def read(
        self, model: nn.Module, example: Example, wanted: Mapping[fx.Node, Callable[[Any], Any]]
    ) -> dict[fx.Node, Any]:
        """Run a network as far as needed, and see some of its values: `Walk.read`."""
        return Walk(self, model, example).read(wanted)

    def inputs(self, example: Example) -> list[Any]:
        """The values of all parameters of the network's `forward`, in their order."""
        kinds = self._signature.parameters
        given = self._bound(example)
        # torch.fx puts *inputs and **inputs last.
        return [given[name] for name in sorted(given, key=lambda name: kinds[name].kind in STARRED)]

    def _bound(self, example: Example) -> dict[str, Any]:
        positional, named = arguments(example)
        try:
            bound = self._signature.bind(*positional, **named)
        except TypeError as error:
            raise KTError(f"the network does not accept the example: {error}") from None
        bound.apply_defaults()
        return bound.arguments


class Walk:
    """A network on its way through one batch: it stops where it is told to, and goes on from there.

    It keeps the values that what comes later reads, and no others.
    """

    def __init__(self, graph: Graph, model: nn.Module, example: Example) -> None:
        self._graph = graph
        self._model = model
        self._example = example
        self.size = size(example)
        """Examples in the batch."""
        self._restart()

    def before(self, node: fx.Node) -> None:
        """Go to where a node is computed next; from the start, if that is behind."""
        if (place := self._graph.places[node]) < self._at:
            self._restart()
        while self._at < place:
            self._step()

    def branch(self, model: nn.Module | None = None) -> "Walk":
        """A second walk from here on, of this network or of another one that is the same so far.

        What it does in place does not reach this walk.
        """
        other = Walk(self._graph, model or self._model, self._example)
        other._at = self._at
        other._runner.env.update({node: _cloned(value) for node, value in self._runner.env.items()})
        return other

    def change(self, node: fx.Node, how: Callable[[Tensor], Tensor]) -> None:
        """Put another value in the place of a node's."""
        self._runner.env[node] = how(self._runner.env[node])

    def read(self, wanted: Mapping[fx.Node, Callable[[Any], Any]]) -> dict[fx.Node, Any]:
        """Go on until some values have been seen.

        Args:
            wanted: for nodes, what is to be kept of their values. It is called as the values come
                up: what the network does in place may change them later.

        Returns:
            What was kept, by node.
        """
        here = self._runner.env
        kept = {node: take(here[node]) for node, take in wanted.items() if node in here}
        while len(kept) < len(wanted):
            node, value = self._step()
            if node in wanted:
                kept[node] = wanted[node](value)
        return kept

    def _restart(self) -> None:
        self._runner = _Interpreter(
            self._model, garbage_collect_values=False, graph=self._graph.graph
        )
        self._runner.args_iter = iter(self._graph.inputs(self._example))
        self._at = 0

    def _step(self) -> tuple[fx.Node, Any]:
        node = self._graph.nodes[self._at]
        with users_code(f"the network fails on a batch of {self.size}"):
            value = self._runner.env[node] = self._runner.run_node(node)
        for done in self._graph.last_read[node]:
            self._runner.env.pop(done, None)
        self._at += 1
        return node, value


class _Interpreter(fx.Interpreter):
    def placeholder(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """The next input: all of *inputs, or of **inputs, at once."""
        return next(self.args_iter)


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
            self.opaque[name] = reason(error)
            for inner in [inner for inner in self.opaque if inner.startswith(f"{name}.")]:
                del self.opaque[inner]
            return self.create_proxy("call_module", name, args, kwargs)


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _cloned(part) for key, part in value.items()}
    return type(value)(map(_cloned, value)) if type(value) in (list, tuple) else value


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def reason(error: BaseException) -> str:
    """What an error of others' code says, in one line that a screen holds."""
    first = next(iter(str(error).splitlines()), "")
    return first[:300] or type(error).__name__
