"""The CUDA engine: its arithmetic, in a process of its own, and where it is taken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kt.ensemble import Compute, cpu_engine, cuda_engine, torch_engine
from kt.run.errors import KTError

ROOT = Path(__file__).resolve().parent.parent
without_gpu = pytest.mark.skipif(cuda_engine.available(), reason="there is a GPU")


def test_the_kernels_compute_what_the_reference_computes():
    """In another process, because Triton is either interpreted or compiled throughout."""
    pytest.importorskip("triton")
    mode = {} if cuda_engine.available() else {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/cuda_kernels.py"],
        cwd=ROOT,
        env={**os.environ, **mode},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_other_kinds_are_refused_in_one_line():
    assert not cuda_engine.supports("mlp")
    with pytest.raises(KTError, match="torch engine"):
        cuda_engine.train_blocks("mlp", {}, {}, {}, [], 0.1, 0.9)
    with pytest.raises(KTError, match="torch engine"):
        next(cuda_engine.outputs("mlp", {}, {}, {}, []))


@without_gpu
def test_no_gpu_is_said_in_one_line():
    assert not cuda_engine.available()
    assert "\n" not in cuda_engine.reason()
    with pytest.raises(KTError, match="not available"):
        Compute(engine="cuda").engine_for("large")
    with pytest.raises(KTError, match="not available"):
        cuda_engine.train_networks({"latter.fc.bias": torch.zeros(1, 10)}, [], 0.1, 0.9)


def test_a_gpu_takes_the_cuda_engine_where_it_can(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(cuda_engine, "reason", lambda *sizes: None)
    for engine in ("auto", "cuda"):
        assert Compute(gpu, engine=engine).engine_for("large") is cuda_engine
        assert Compute(gpu, engine=engine).engine_for("conv") is cuda_engine
        assert Compute(gpu, engine=engine).engine_for("mlp") is torch_engine
    assert Compute(gpu, engine="torch").engine_for("large") is torch_engine
    assert Compute(gpu, engine="cpu").engine_for("large") is torch_engine
    assert Compute().engine_for("large") in (cpu_engine, torch_engine)
    with pytest.raises(KTError, match="not on 'cpu'"):
        Compute(engine="cuda").engine_for("large")
    monkeypatch.setattr(cuda_engine, "reason", lambda *sizes: "no Triton")
    assert Compute(gpu).engine_for("large") is torch_engine


def test_triton_is_imported_only_by_who_trains():
    code = (
        "import sys; sys.modules['triton'] = None; import kt.ensemble, stages.common.base.runtime"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
