"""Weights in files, whatever wrote them: safetensors, or `torch.save` of a `state_dict`."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kt.run.errors import KTError
from kt.run.files import load_tensors, problem, read_bytes
from kt.run.finite import is_finite

PREFIXES = ("module.", "_orig_mod.")
"""Put before all names by `DataParallel` and `torch.compile`."""
HOLDERS = ("state_dict", "model_state_dict", "model")
"""Keys under which checkpoints keep the weights."""
PICKLED = (b"PK", b"\x80")
"""How files of `torch.save` begin, new and old ones."""
COUNTER = "num_batches_tracked"
"""Ends the names of what batch norms count; nothing that a trained network computes needs it."""
VARIANCE = "running_var"
"""Ends the names of the variances that norms keep."""
UNPICKLER = "WeightsUnpickler error: "
"""Before PyTorch's own reason; in front of it stands how to run a file's code."""
ADVICE = re.compile("(Weights only load failed. )?In PyTorch 2.6,.* trusted source.| Please use.*")
"""The same, before or behind PyTorch's other reasons."""
NOTHING = "it begins like neither"


def load_state_dict(path: Path, remedy: str = "") -> dict[str, Tensor]:
    """The weights in a safetensors file, or in a `torch.save` of a `state_dict` or a checkpoint.

    Only weights are read: no code in a file is run.

    Raises:
        KTError: the file is missing or damaged, or holds something other than weights, or numbers
            that are not finite.
    """
    found: Any
    try:
        found = load_tensors(path, remedy=remedy)
    except KTError as error:
        start = read_bytes(path, remedy, 9)
        if start[8:] == b"{":  # a header of safetensors
            raise
        what = f"is no safetensors file and no torch.save of weights alone ({NOTHING})"
        if not start.startswith(PICKLED):
            raise problem(path, what, remedy) from error
        try:
            if start.startswith(b"PK") and not zipfile.is_zipfile(path):
                raise ValueError("the end of the archive is missing")
            if zipfile.is_zipfile(path) and (record := zipfile.ZipFile(path).testzip()):
                raise ValueError(f"the checksum of {record} is another")
            with warnings.catch_warnings(action="ignore"):  # of what follows in the error
                found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as reason:  # what unpickling a damaged file raises has no end
            why = ADVICE.sub("", str(reason).rpartition(UNPICKLER)[2]).strip()
            why = next(iter(why.splitlines()), type(reason).__name__)
            raise problem(path, what.replace(NOTHING, why[:150]), remedy) from None
    for key in HOLDERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found:
        raise problem(path, "holds no weights by name", remedy)
    for name, tensor in found.items():
        if not isinstance(name, str):
            raise problem(path, f"holds {name!r}, which is no name", remedy)
        if (
            not isinstance(tensor, Tensor)
            or tensor.layout != torch.strided
            or tensor.is_quantized
            or tensor.is_meta
        ):
            raise problem(path, f"holds {name}, which is no plain tensor", remedy)
        try:
            finite = is_finite(tensor)
        except RuntimeError:  # of packed numbers, two in a byte, and of a few that stand for many
            what = f"holds {name}, {tuple(tensor.shape)} of {tensor.dtype}, which cannot be used"
            raise problem(path, what, remedy) from None
        if not finite:
            raise problem(path, f"holds {name}, which is not finite", remedy)
        if name.endswith(VARIANCE) and not tensor.is_complex() and bool((tensor.float() < 0).any()):
            what = f"holds a negative variance ({name}), which no training makes"
            raise problem(path, what, remedy)
        if name.endswith(COUNTER) and not _is_count(tensor):
            shape = tuple(tensor.shape)
            one = tensor.numel() == 1 and not tensor.is_complex()
            got = tensor.item() if one else f"{tensor.dtype} of shape {shape}"
            what = f"holds {name} as {got}, which is no count of batches"
            raise problem(path, what, remedy)
    return plain(found)


def _is_count(tensor: Tensor) -> bool:
    """Whether a tensor is one whole number, of whatever type, and not negative."""
    if tensor.numel() != 1 or tensor.is_complex():
        return False
    return float(tensor) >= 0 and float(tensor).is_integer()


def plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without the prefixes that wrappers put before all names."""
    weights = dict(weights)
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in weights)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights
