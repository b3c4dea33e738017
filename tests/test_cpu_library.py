"""How the compiled engine comes to its library: the compiler, the instruction set, the cache."""

import shutil
import subprocess

import pytest
import torch

from kt.ensemble import cpu_engine, cpu_library
from kt.networks.blocks import Network, Sizes, initial_weights
from kt.run.errors import KTError

compiled = pytest.mark.skipif(not cpu_engine.available(), reason=str(cpu_engine.reason()))
ISAS = cpu_library.executable() if cpu_engine.available() else []


@pytest.mark.parametrize("name", ["sse9", "neon,avx2"])
def test_an_unknown_instruction_set_is_refused_in_one_line(monkeypatch, name):
    if not ISAS:
        pytest.skip("nothing is compiled here")
    monkeypatch.setenv("KT_ISA", name)
    for use in (cpu_engine.available, cpu_engine.reason, cpu_library.library, cpu_library.isa):
        with pytest.raises(KTError, match=f"^KT_ISA={name}: this processor has .*generic$"):
            use()


def test_an_instruction_set_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(cpu_library, "executable", lambda: ["avx2", "generic"])
    assert cpu_library.isa() == "avx2"
    monkeypatch.setenv("KT_ISA", "avx512")
    with pytest.raises(KTError, match="KT_ISA=avx512: this processor has avx2, generic"):
        cpu_library.isa()


@compiled
def test_every_instruction_set_has_a_library_of_its_own():
    paths = {cpu_library.built(cpu_library.SOURCE, isa) for isa in ISAS}
    assert len(paths) == len(ISAS)


@compiled
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm, which comes with compilers")
def test_a_library_shares_its_functions_alone():
    """Two of them in one process would have one of each other thing, of one of the two sizes."""
    target = cpu_library.built(cpu_library.SOURCE, cpu_library.executable()[0])
    names = subprocess.check_output(["nm", "-D", "--defined-only", target], text=True).splitlines()
    shared = {line.split()[-1] for line in names}
    assert any("kt_train_networks" in name for name in shared)
    assert {name for name in shared if "2kt" in name} == set()  # mangled: in the namespace kt


@pytest.fixture
def unloaded():
    cpu_engine.forget()
    yield
    cpu_engine.forget()


def test_no_compiler_is_said_in_one_line(unloaded, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert not cpu_engine.available()
    assert "no C++ compiler" in cpu_engine.reason()
    assert "\n" not in cpu_engine.reason()
    with pytest.raises(KTError, match="not available"):
        batches = [(torch.zeros(8, 1, 28, 28), torch.arange(8))]
        cpu_engine.train_networks(initial_weights(Network, range(2)), batches, 0.05, 0.9)


def test_a_compiler_that_fails_is_said_in_one_line(unloaded, monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'broken: fatal error: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert "out of order" in cpu_engine.reason()
    assert "\n" not in cpu_engine.reason()


@compiled
@pytest.mark.parametrize(
    ("writes", "words"),
    [("", "cxx succeeds, but writes no library"), ("c++ -shared -o $2 -xc /dev/null", "undefined")],
)
def test_a_compiler_that_makes_something_else_is_said(
    writes, words, unloaded, monkeypatch, tmp_path
):
    path = tmp_path / "cxx"
    path.write_text(
        "#!/bin/sh\ncase $* in *-dM*) exec c++ $@;; esac\n"
        f"while [ $1 != -o ]; do shift; done\n{writes}\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert words in cpu_engine.reason() and "\n" not in cpu_engine.reason()


@compiled
def test_what_the_engine_does_not_have_is_not_said_to_be_the_compilers_failure(unloaded):
    for sizes, words in ((Sizes(kernel=5), "kernels of 3 x 3"), (Sizes(channels=40), "1 to 32")):
        assert words in cpu_engine.reason(sizes) and "failed" not in cpu_engine.reason(sizes)


@compiled
def test_the_library_is_built_once(unloaded, monkeypatch):
    def refuse(command):
        raise KTError("must not compile")

    isa = cpu_library.isa()
    path = cpu_library.built(cpu_library.SOURCE, isa)
    real = cpu_library._run
    monkeypatch.setattr(cpu_library, "_run", lambda c: real(c) if "-E" in c else refuse(c))
    assert cpu_library.built(cpu_library.SOURCE, isa) == path
