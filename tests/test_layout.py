"""The order of the packages, and rules that keep the house small."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["run", "networks", "images", "ensemble", "pairs", "translators", "rivals", "real"]
"""Packages of kt/, as data flows: each imports only those before it, and modules come last."""
SOURCES = sorted((ROOT / "kt").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The modules that a file names in imports, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_packages_are_those_of_the_order():
    packages = {path.parent.name for path in (ROOT / "kt").glob("*/__init__.py")}
    assert packages <= set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_those_before_it(package):
    later = ORDER[ORDER.index(package) + 1 :]
    modules = [path.stem for path in (ROOT / "kt").glob("*.py") if path.stem != "__init__"]
    for path in SOURCES:
        if path.relative_to(ROOT / "kt").parts[0] != package:
            continue
        back = [
            name
            for name in imports(path)
            if name.split(".")[0] == "kt"
            and name.split(".")[1:2]
            and name.split(".")[1] in (*later, *modules)
        ]
        assert not back, path


def test_the_library_knows_neither_the_stages_nor_dvc_nor_yaml():
    for path in SOURCES:
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"stages", "benchmarks", "tests", "dvc", "dvclive", "yaml", "ruamel"}, (
            path
        )


def test_stacked_weights_are_defined_once():
    places = [path for path in SOURCES if "\nWeights = " in path.read_text()]
    assert [str(path.relative_to(ROOT)) for path in places] == ["kt/networks/weights.py"]


def test_no_file_is_long():
    files = subprocess.check_output(
        ["git", "ls-files", "*.py", "*.cpp", "*.h", "*.yaml"], cwd=ROOT, text=True
    )
    code = [ROOT / name for name in files.split()]
    lengths = {path: len(path.read_text().splitlines()) for path in code}
    assert {str(path): n for path, n in lengths.items() if n > 400} == {}


def test_importing_the_package_is_cheap():
    code = "import sys, kt; sys.exit('torch' in sys.modules)"
    assert subprocess.run(["python", "-c", code], cwd=ROOT).returncode == 0
