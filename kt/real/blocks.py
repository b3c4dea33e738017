"""Find what can be translated: two maps with hidden channels between that nothing else reads."""

import operator
from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional as F

from kt.real.graph import Graph

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
MAPS = (*CONVOLUTIONS, nn.Linear)
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
"""All that the report names: what is of another kind than `MAPS` is left."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

# Each treats every number by itself.
ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid,
    nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Threshold,
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
ELEMENTWISE_FUNCTIONS = (
    F.relu, F.relu_, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.tanh,
    F.sigmoid, F.hardtanh, F.hardswish, F.hardsigmoid, F.softplus, F.softsign, F.logsigmoid,
    F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout, torch.relu, torch.tanh, torch.sigmoid,
    torch.clamp, torch.sin, torch.cos, torch.exp, torch.abs, torch.square, torch.erf, torch.neg,
    operator.neg,
)  # fmt: skip
ELEMENTWISE_METHODS = (
    "relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_", "clamp", "clamp_", "contiguous",
    "clone", "sin", "cos", "exp", "abs", "square", "erf", "neg",
)  # fmt: skip
ARITHMETIC = (
    operator.add, operator.mul, operator.sub, operator.truediv, operator.iadd, operator.imul,
    torch.add, torch.mul, torch.sub, torch.div, "add", "mul", "sub", "div", "add_", "mul_", "sub_",
    "div_", operator.pow, torch.pow, "pow",
)  # fmt: skip
# Each treats every channel by itself, the same way.
POOLING_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.ZeroPad1d, nn.ZeroPad2d,
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.Upsample,
    nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d,
)  # fmt: skip
POOLING_FUNCTIONS = (
    F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.interpolate,
)  # fmt: skip
MOST_READ = 2**14
"""Numbers that a second map may read for an output: least squares solves for so many at once."""


@dataclass(frozen=True)
class Block:
    """Two maps, by the names of their modules, and what lies between them.

    Attributes:
        into, out: a convolution or a linear layer each.
        between: modules with an entry for each hidden channel: batch norm, depthwise convolutions,
            PReLU.
        channels: hidden channels, which `out` alone reads.
        repeat: how many numbers of each channel a linear `out` reads (positions, flattened).
        first: the graph's node of `into`.
        hidden, outcome: the nodes of what `out` reads, and gives.
        shortcut: the node that is added to the outcome, straight or behind a batch norm.
        norm: that batch norm.
    """

    into: str
    between: tuple[str, ...]
    out: str
    channels: int
    repeat: int
    first: fx.Node
    hidden: fx.Node
    outcome: fx.Node
    shortcut: fx.Node | None
    norm: str | None

    def width_in(self, network: nn.Module) -> int:
        """Its hidden channels in a copy of the network whose blocks may be smaller."""
        return len(network.get_submodule(self.into).weight)


class _LeftError(Exception):
    """Why a layer is not the first of a block."""


def find(model: nn.Module, graph: Graph) -> tuple[list[Block], dict[str, str]]:
    """The blocks of a network, in the order of the computation, and what is left, with the reason.

    A convolution (not grouped) or linear layer opens a block if all that its output goes through,
    up to one other such layer, treats each channel by itself: batch norm, element-wise activations,
    pooling, depthwise convolutions, flattening, means over positions.

    Returns:
        Blocks, and the names of the other convolutions and linear layers, and of modules that could
        not be looked into, each with a reason.
    """
    search = _Search(model, graph)
    blocks, left = [], {name: f"not looked into ({why})" for name, why in graph.opaque.items()}
    for node in graph.nodes:
        if node.op == "call_module" and type(search.modules[node.target]) in MAPS:
            if node.target in left:
                continue
            try:
                blocks.append(search.block(node))
            except _LeftError as reason:
                left[node.target] = str(reason)
    called = {node.target for node in graph.nodes if node.op == "call_module"}
    known = {block.into for block in blocks} | set(left)
    for name, module in model.named_modules():
        if not isinstance(module, LAYERS) or name in known:
            continue
        if any(name.startswith(f"{outer}.") for outer in called):
            left[name] = "inside another layer"
        elif type(module) not in MAPS:
            left[name] = f"a {type(module).__name__}, which is not translated"
        else:
            left[name] = "never called by itself"
    return blocks, left


def norm_behind(model: nn.Module, graph: Graph, node: fx.Node) -> str | None:
    """The name of the batch norm over channels that alone reads a map's outcome, if there is one.

    What a linear layer gives for several places has its channels on another axis than the norm's.
    """
    users = list(node.users)
    if len(users) == 1 and users[0].op == "call_module":
        name = str(users[0].target)
        norm, layer = model.get_submodule(name), model.get_submodule(str(node.target))
        elsewhere = isinstance(layer, nn.Linear) and len(graph.shapes[node]) > 2
        if type(norm) in NORMS and norm.running_mean is not None and not elsewhere:
            return name
    return None


class _Search:
    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.model = model
        self.graph = graph
        self.nodes = graph.nodes
        self.shapes = graph.shapes
        self.modules = dict(model.named_modules(remove_duplicate=False))
        called = [node for node in graph.nodes if node.op == "call_module"]
        # What another layer holds is called with it.
        self.calls = Counter(
            id(inner) for node in called for inner in self.modules[node.target].modules()
        )
        holders: dict[int, set[int]] = {}
        for module in model.modules():
            for tensor in module.parameters(recurse=False):
                holders.setdefault(id(tensor), set()).add(id(module))
        used = {node.target for node in graph.nodes if node.op == "get_attr"}
        direct = {id(tensor) for name, tensor in model.named_parameters() if name in used}
        self.tied = {key for key, modules in holders.items() if len(modules) > 1} | direct

    def block(self, first: fx.Node) -> Block:
        """The block that a map's node opens.

        Raises:
            _LeftError: there is none.
        """
        into = self._own(first)
        if isinstance(into, CONVOLUTIONS) and into.groups > 1:
            depthwise = into.groups == into.in_channels
            raise _LeftError("depthwise: it keeps its input's channels" if depthwise else "grouped")
        channels = into.out_features if isinstance(into, nn.Linear) else into.out_channels
        if channels < 2:
            raise _LeftError("only one channel")
        axis = len(self.shapes[first]) - 1 if isinstance(into, nn.Linear) else 1
        chain, between, ends = {first: (axis, 1)}, [], []
        for node in self.nodes:  # operands come before what reads them
            source = next((n for n in node.all_input_nodes if n in chain), None)
            if source is None or self._size(node, chain[source][0]):
                continue
            place = self._through(node, chain, channels)
            if place is None:
                ends.append(node)
                continue
            if node not in self.shapes:
                raise _LeftError(f"{node.name} gives more than one tensor")
            chain[node] = place
            if node.op == "call_module":
                module = self.modules[node.target]
                if type(module) in NORMS or list(module.parameters()):
                    between.append(node.target)
        if len(ends) != 1:
            raise _LeftError("read by several layers" if ends else "nothing reads its output")
        end = ends[0]
        reader = self.modules[end.target]
        numbers = reader.weight[0].numel()
        if numbers > MOST_READ:
            raise _LeftError(f"{end.target} reads {numbers:,} numbers at once: too many to fit")
        hidden = next(n for n in end.all_input_nodes if n in chain)
        _, repeat = chain[hidden]
        return Block(
            first.target, tuple(between), end.target, channels, repeat, first, hidden,
            end,
            *self._residual(end),
        )  # fmt: skip

    def _own(self, node: fx.Node) -> nn.Module:
        """The module of a node that may be changed without changing anything else."""
        module = self.modules[node.target]
        if self.calls[id(module)] > 1:
            raise _LeftError(f"{node.target} is called {self.calls[id(module)]} times")
        if any(id(tensor) in self.tied for tensor in module.parameters()):
            raise _LeftError(f"{node.target} shares its weights")
        return module

    def _through(
        self, node: fx.Node, chain: dict[fx.Node, tuple[int, int]], channels: int
    ) -> tuple[int, int] | None:
        """Where the channels are behind a node: their axis, and how many numbers each has there.

        Nothing if the node is a map, which ends the block.
        """
        if node.op == "output":
            raise _LeftError("its output is the network's")
        inputs = [n for n in node.all_input_nodes if n in self.shapes]  # numbers tell no channels
        source = next(n for n in inputs if n in chain)
        (axis, repeat), shape = chain[source], self.shapes[source]
        last = axis == len(shape) - 1
        if node.op == "call_module":
            module = self.modules[node.target]
            kind = type(module)
            if len(inputs) > 1:
                raise _LeftError(f"{node.target} reads several values")
            if kind in MAPS:
                self._own(node)
                if kind is nn.Linear and last:
                    return None
                if kind is nn.Linear or axis != 1:
                    raise _LeftError(f"{node.target} reads another axis than the channels'")
                if module.groups == 1:
                    return None
                if not module.groups == module.in_channels == module.out_channels == channels:
                    raise _LeftError(f"{node.target} is grouped")
                return axis, repeat
            if kind in ELEMENTWISE_MODULES:
                return axis, repeat
            if kind in NORMS:
                if axis == 1 and repeat == 1 and self._own(node) is module:
                    if module.running_mean is None:
                        raise _LeftError(f"{node.target} keeps no running statistics")
                    return axis, repeat
                raise _LeftError(f"{node.target} normalises over another axis or split channels")
            if kind is nn.PReLU and (module.num_parameters == 1 or (axis == 1 and repeat == 1)):
                self._own(node)
                return axis, repeat
            if kind in POOLING_MODULES and axis == 1 and not last:
                return axis, repeat
            if kind is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1) and axis == 1:
                return axis, repeat * shape[2:].numel()
            raise _LeftError(f"{node.target} ({kind.__name__}) is not known to keep channels apart")
        if node.target in ARITHMETIC:
            if not all(n in chain for n in inputs):
                others = [n for n in inputs if n not in chain]
                if any(self.shapes[n] for n in others):
                    raise _LeftError(f"combined with another value ({node.name})")
            own = [(*chain[n], len(self.shapes[n])) for n in inputs if n in chain]
            if any(where != own[0] for where in own):
                raise _LeftError(f"combined with another value ({node.name})")
            return axis, repeat
        if len(inputs) > 1:
            raise _LeftError(f"{node.name} reads several values")
        if node.target in (*ELEMENTWISE_FUNCTIONS, *ELEMENTWISE_METHODS):
            return axis, repeat
        if node.target in POOLING_FUNCTIONS and axis == 1 and not last:
            return axis, repeat
        if axis == 1 and self._flattens(node):
            return axis, repeat * shape[2:].numel()
        if node.target in (torch.mean, "mean") and axis == 1 and not last:
            dims = self._options(node).get("dim", self._options(node).get(1))
            dims = (dims,) if isinstance(dims, int) else dims
            if dims and all(d % len(shape) > 1 for d in dims):  # type: ignore[attr-defined]
                return axis, repeat
        raise _LeftError(f"{node.name} is not known to keep channels apart")

    def _options(self, node: fx.Node) -> dict[int | str, object]:
        """A call's arguments, by place and by name."""
        return {**dict(enumerate(node.args)), **node.kwargs}

    def _size(self, node: fx.Node, axis: int) -> bool:
        """Whether a node only asks for sizes, and not for the number of channels, on that axis."""
        if node.target == "size" and (asked := self._options(node)).keys() - {0}:
            return self._other(asked.get("dim", asked.get(1)), node, axis)
        if node.target == "size" or (node.target is getattr and node.args[1] == "shape"):
            return all(
                user.target is operator.getitem
                and (not user.users or self._other(user.args[1], node, axis))
                for user in node.users
            )
        return False

    def _other(self, asked: object, node: fx.Node, axis: int) -> bool:
        """Whether sizes asked for, by a number or a slice, are those of other axes."""
        axes = range(len(self.shapes[node.all_input_nodes[0]]))
        if isinstance(asked, slice):
            parts = (asked.start, asked.stop, asked.step)
            return all(isinstance(p, int | None) for p in parts) and axis not in axes[asked]
        return isinstance(asked, int) and axes[asked] != axis

    def _flattens(self, node: fx.Node) -> bool:
        """Whether a node makes rows of all numbers of each example, however many there are."""
        options = self._options(node)
        if node.target in (torch.flatten, "flatten"):
            start, end = options.get("start_dim", options.get(1, 0)), options.get("end_dim", -1)
            return start == 1 and options.get(2, end) == -1
        if node.target in (torch.reshape, "reshape", "view"):
            size = (*node.args[1:], *node.kwargs.values())
            size = size[0] if len(size) == 1 else size
            rows = (
                len(self.shapes[node.all_input_nodes[0]])
                and self.shapes[node.all_input_nodes[0]][0]
            )
            plain = isinstance(size, list | tuple) and len(size) == 2 and size[1] == -1
            return plain and self.shapes[node][0] == rows
        return False

    def _residual(self, end: fx.Node) -> tuple[fx.Node | None, str | None]:
        """What is added to a map's outcome, the batch norm that it passes before."""
        node, norm = end, norm_behind(self.model, self.graph, end)
        if norm is not None:
            (node,) = end.users
        users = list(node.users)
        if len(users) == 1 and users[0].target in (operator.add, operator.iadd, torch.add):
            others = [other for other in users[0].all_input_nodes if other is not node]
            plain = len(others) == 1 and not users[0].kwargs
            if plain and self.shapes.get(others[0]) == self.shapes[node]:
                return others[0], norm
        return None, norm
