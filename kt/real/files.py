"""Smaller networks back from their files, and networks as ONNX."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kt.real.graph import Example, arguments, call, reason, tensors, users_code
from kt.real.surgery import resize
from kt.run.errors import KTError
from kt.run.files import problem, replacing, save_tensors
from kt.run.given import path_of
from kt.run.state_dicts import COUNTER, load_state_dict
from kt.run.surroundings import usual_settings

FLOATS = {
    torch.float32: nn.Module.float,
    torch.float16: nn.Module.half,
    torch.bfloat16: nn.Module.bfloat16,
    torch.float64: nn.Module.double,
}
"""Types that weights may have, and what gives a network's real numbers such a type."""
TOLERANCE = 1e-3
"""By how much an exported network may differ, as a share of its largest answer."""


@usual_settings(device=False)
def load(factory: Callable[[], nn.Module], path: str | Path) -> nn.Module:
    """A network with a file's weights, whose layers may be smaller than the factory makes them.

    Args:
        factory: makes the original network, its weights do not matter.
        path: weights of that network, or of a smaller one that `compress` has made of it.

    Returns:
        The network, in the file's precision.

    Raises:
        KTError: the file cannot be read, or holds another network's weights; or the factory fails.
    """
    weights = load_state_dict(path_of(path))
    network = _made_by(factory)
    for name, tensor in state_of(network).items():
        found = weights.get(name, tensor).dtype
        if tensor.is_floating_point() and found not in FLOATS:
            raise KTError(f"{path} holds {name} as {found}, which is none of {[*FLOATS]}")
        whole = not tensor.is_floating_point() and not name.endswith(COUNTER)
        if whole and found != tensor.dtype and (found.is_floating_point or found.is_complex):
            raise KTError(f"{path} holds {name} as {found}, not {tensor.dtype}")
    kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    with users_code("the factory's network does not take the weights"):
        if len(kinds) == 1 and kinds <= FLOATS.keys():
            network = FLOATS[kinds.pop()](network)
        try:
            resize(network, weights)
        except KTError as error:
            raise problem(path, f"does not fit the factory's network: {error}") from None
    return network


def _made_by(factory: Callable[[], nn.Module]) -> nn.Module:
    """What a factory makes, whose code is the user's: whatever it does wrong is said in one line.

    Raises:
        KTError: it raises an error, ends the program, or makes no network with weights.
    """
    try:
        network = factory()
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        raise KTError(f"the factory fails ({kind}: {reason(error)})") from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise KTError(f"the factory gives no torch.nn.Module but a {kind}")
    if any(tensor.is_meta for tensor in state_of(network).values()):
        raise KTError("the factory gives a network without weights, on the device meta")
    return network


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights and buffers by name.

    Raises:
        KTError: it cannot give them, or gives something else.
    """
    with users_code("the network's state_dict fails"):
        state = network.state_dict()
        if bad := [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]:
            raise KTError(f"the network's state_dict holds {bad[0]}, which is no tensor")
        return state


def save(network: nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors, with a checksum that `load` verifies.

    Tensors that the network holds under several names are written under each.

    Raises:
        KTError: a weight is not finite, or the file cannot be written.
    """
    weights = {name: t.detach().cpu().clone() for name, t in state_of(network).items()}
    save_tensors(path, weights, seal=True)


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
    # The exporter takes one tensor in two places for one input.
    example = _filled(example, (tensor.clone() for tensor in tensors(example)))
    positional, named = arguments(example)
    network = network.eval()
    with replacing(path) as partial:
        try:
            torch.onnx.export(
                network, positional, str(partial), kwargs=named or None, dynamo=True,
                external_data=False, verbose=False,
            )  # fmt: skip
        except OSError:
            raise
        except Exception as error:
            raise KTError(f"ONNX: the network cannot be exported ({_cause(error)})") from None
        session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
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
            raise KTError(f"ONNX: answers differ by {worst:.2%} of the largest")
    return worst


def _cause(error: BaseException) -> str:
    """The first line of the innermost of the errors that led to an error."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {reason(error)}"


def _filled(example: Any, values: Any) -> Any:
    """An example's form with other tensors."""
    if isinstance(example, Tensor):
        return next(values)
    if isinstance(example, Mapping):
        return {name: _filled(value, values) for name, value in example.items()}
    return (
        tuple(_filled(v, values) for v in example) if isinstance(example, list | tuple) else example
    )
