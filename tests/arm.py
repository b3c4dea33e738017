"""The compiled engine's tests on an emulated ARM processor, outside the normal suite.

    python -m tests.arm [options of pytest]

The engine is compiled with `aarch64-linux-gnu-g++` and runs under `qemu-aarch64` (Debian's packages
`g++-aarch64-linux-gnu` and `qemu-user`), PyTorch and the tests beside it on this machine's own
processor: every call of the library goes to the emulated process, with all memory that it reads or
writes, and comes back.
"""

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from torch import Tensor

from kt.ensemble import cpu_engine, cpu_library

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
SYSTEM = "/usr/aarch64-linux-gnu"
ONLY_ASKED = 0xFFFFFFFF


class Emulated:
    """A library in an emulated process, as `ctypes.CDLL` would have it."""

    def __init__(self, caller: Path, library: Path) -> None:
        self._process = subprocess.Popen(
            [EMULATOR, "-L", SYSTEM, str(caller), str(library)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __getattr__(self, name: str):
        if not self._find(name):
            raise AttributeError(name)
        self._send("I", ONLY_ASKED)
        return lambda *arguments: self._call(name, arguments)

    def _find(self, name: str) -> bool:
        self._send(f"I{len(name)}s", len(name), name.encode())
        return self._receive(1) != b"\0"

    def _call(self, name: str, arguments: tuple) -> int:
        assert self._find(name)
        self._send("I", len(arguments))
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        for argument in arguments:
            if isinstance(argument, Tensor):
                self._send("cQQ", b"b", argument.data_ptr(), argument.nbytes)
                self._process.stdin.write(memoryview(argument.numpy()).cast("B"))
            elif isinstance(argument, float):
                self._send("cf", b"f", argument)
            else:
                self._send("cq", b"i", argument or 0)
        (result,) = struct.unpack("<i4x", self._receive(8))
        for tensor in tensors:
            ctypes.memmove(tensor.data_ptr(), self._receive(tensor.nbytes), tensor.nbytes)
        return result

    def _send(self, layout: str, *values: object) -> None:
        self._process.stdin.write(struct.pack(f"<{layout}", *values))

    def _receive(self, count: int) -> bytes:
        self._process.stdin.flush()
        received = self._process.stdout.read(count)
        assert len(received) == count, "the emulated process ended"
        return received


def main() -> int:
    for command in (COMPILER, EMULATOR):
        if shutil.which(command) is None:
            print(f"{command} is missing: apt-get install g++-aarch64-linux-gnu qemu-user")
            return 1
    os.environ["CXX"] = COMPILER
    with tempfile.TemporaryDirectory() as folder:
        caller = Path(folder) / "caller"
        source = Path(__file__).with_suffix(".cpp")
        subprocess.run([COMPILER, "-std=c++17", "-O2", str(source), "-o", str(caller)], check=True)
        cpu_library._opened = lambda path: Emulated(caller, path)
        cpu_engine._address = lambda tensor: tensor
        tests = Path(__file__).with_name("test_cpu_engine.py")
        return pytest.main([str(tests), "-n0", "-p", "no:cacheprovider", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
