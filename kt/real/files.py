"""Weights in files, whatever wrote them, and smaller networks back from theirs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kt.real.graph import Example, arguments, call, tensors
from kt.real.surgery import resize
from kt.run.errors import KTError

PREFIXES = ("module.", "_orig_mod.")
"""Put before all names by `DataParallel` and `torch.compile`."""
HOLDERS = ("state_dict", "model_state_dict", "model")
"""Keys under which checkpoints keep the weights."""
TOLERANCE = 1e-3
"""By how much an exported network may differ, as a share of its largest answer."""


def read(path: Path) -> dict[str, Tensor]:
    """The weights in a safetensors file, or in a `torch.save` of a `state_dict` or a checkpoint.

    Raises:
        KTError: the file is missing or damaged, or holds something other than weights.
    """
    if not path.is_file():
        raise KTError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            found: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (SafetensorError, RuntimeError, EOFError, UnpicklingError, ValueError) as error:
            raise KTError(
                f"{path} is no safetensors file and no torch.save of weights alone "
                f"({str(error).splitlines()[0]})"
            ) from None
    for key in HOLDERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found:
        raise KTError(f"{path} holds no weights by name")
    if strange := [name for name, value in found.items() if not isinstance(value, Tensor)]:
        raise KTError(f"{path}: {strange[0]} is no tensor")
    return plain(found)


def plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without the prefixes that wrappers put before all names."""
    weights = dict(weights)
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in weights)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def load(factory: Callable[[], nn.Module], path: str | Path) -> nn.Module:
    """A network with a file's weights, whose layers may be smaller than the factory makes them.

    Args:
        factory: makes the original network, its weights do not matter.
        path: weights of that network, or of a smaller one that `compress` has made of it.

    Returns:
        The network, in the file's precision.

    Raises:
        KTError: the file cannot be read, or holds another network's weights.
    """
    weights = read(Path(path))
    network = factory()
    kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(kinds) == 1:
        network = network.to(kinds.pop())
    resize(network, weights)
    return network


def save(network: nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors, with what `kt_report` says of its widths.

    Tensors that the network holds under several names are written under each.

    Raises:
        KTError: the file cannot be written.
    """
    weights = {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    report = getattr(network, "kt_report", None)
    metadata = (
        {"widths": json.dumps({n: w for n, (_, w) in report.blocks.items()})} if report else {}
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path, metadata)
    except (OSError, SafetensorError) as error:
        raise KTError(f"{path} cannot be written ({error})") from None


def export_onnx(network: nn.Module, example: Example, path: Path) -> float:
    """Write a network as ONNX, and compare what ONNX Runtime answers with PyTorch on random inputs.

    Args:
        example: its size is the exported network's, but for the number of examples.

    Returns:
        The largest difference, as a share of the largest answer.

    Raises:
        KTError: packages are missing, the network cannot be exported, or the answers differ.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (the exporter needs it)
    except ImportError as error:
        raise KTError(
            f"ONNX needs the packages onnx, onnxscript and onnxruntime ({error})"
        ) from None
    positional, named = arguments(example)
    network = network.eval()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(
            network, positional, str(path), kwargs=named or None, dynamo=True, external_data=False,
            verbose=False,
        )  # fmt: skip
    except Exception as error:
        raise KTError(f"ONNX: {str(error).splitlines()[0]}") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = [torch.randn_like(t) if t.is_floating_point() else t for t in tensors(example)]
    feeds = {port.name: t.numpy() for port, t in zip(session.get_inputs(), inputs, strict=True)}
    found = [torch.from_numpy(answer) for answer in session.run(None, feeds)]
    rest = iter(inputs)
    with torch.no_grad():
        expected = tensors(call(network, _filled(example, rest)))
    worst = 0.0
    for theirs, ours in zip(found, expected, strict=True):
        size = ours.abs().max().clamp(min=1e-12)
        worst = max(worst, ((theirs - ours).abs().max() / size).item())
    if not worst < TOLERANCE:
        path.unlink()
        raise KTError(f"ONNX: answers differ by {worst:.2%} of the largest")
    return worst


def _filled(example: Any, values: Any) -> Any:
    """An example's form with other tensors."""
    if isinstance(example, Tensor):
        return next(values)
    if isinstance(example, Mapping):
        return {name: _filled(value, values) for name, value in example.items()}
    return (
        tuple(_filled(v, values) for v in example) if isinstance(example, list | tuple) else example
    )
