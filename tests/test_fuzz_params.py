"""Mutated files of parameters: each is read as it is meant, or refused in one line."""

import copy
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import dumps_yaml, parse_yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kt.run.errors import KTError
from kt.translators import require_memory
from stages.common import kinds
from stages.common.base import params
from stages.common.base.checks import read_yaml
from stages.factor_transfer import settings as factor_transfer
from stages.networks import settings as networks
from stages.tables.cells import settings as tables
from tests.tiny_params import usual

ROOT = Path(__file__).resolve().parent.parent
FUZZED = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LONGEST = 600
"""Characters of a message, at most."""
HOLE = "a-hole-for-raw-text"
RAW = [
    "!!int abc", "!!float abc", "!!bool abc", "!!null abc", "!!timestamp abc", "!!binary '%'",
    "!!set {a}", "!!omap [a: 1]", "!!python/object:os.system x", "!unknown x", "2024-13-45",
    "2024-01-02", "9" * 5000, "0x" + "f" * 9000, "1" + "0" * 30, "1e-05", "1e400", "-.inf", ".nan",
    "[" * 3000 + "]" * 3000, "{a: " * 3000 + "}" * 3000, "[" * 100_000, "&a [*a]", "*nowhere",
    "&a {<<: *a}", "{<<: 3}", "{a: 1, a: 2}", "{? [a]: 1}", "{? {a: 1}: 1}", "{1: 2}", "{null: 2}",
    "'open", '"\\x0"', "\x00", "\t", "- 1", ": 1", "%YAML 1.1", "--- 1", "...", "|", "\ud7ff", "#",
]  # fmt: skip
"""What stands in a value's place, not quoted."""
SCHEMAS = {
    "ablation": tables.Ablation,
    "curve": tables.Curve,
    "epochs": tables.Epochs,
    "figure4": tables.OfOneCost,
    "table1": tables.Table1,
    "table3": tables.Grid,
    "table4": tables.Grid,
    "table5": tables.Augmentation,
    "table6": tables.Targets,
    "widths": tables.Widths,
}
OTHERS = {"networks": networks.load, "factor_transfer": factor_transfer.load}
"""Tables whose settings are read by functions of their own."""

BOMB = "a0: &a0 [1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
"""Anchors that stand for 9**29 values."""

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**31),
    st.floats(),
    st.sampled_from([1e30, 1e308, 5e-324, -0.0, 10**9, 10**12, 10**30, -1, 0]),
    st.text(max_size=8),
    st.dates(),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2),
)


def places(tree: Any, here: tuple = ()) -> list[tuple]:
    """The keys that lead to every value of nested mappings and lists."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in inside:
        found.append((*here, key))
        if isinstance(value, dict | list):
            found += places(value, (*here, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, tree: dict) -> bytes:
    """A file of parameters with one to three things wrong, perhaps."""
    tree, raw, twice = copy.deepcopy(tree), "", False
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(tree)))
        place = tree
        for key in way:
            place = place[key]
        how = draw(st.sampled_from(["value", "raw", "remove", "rename", "add", "twice", "swap"]))
        if how == "value":
            place[last] = draw(values)
        elif how == "raw":
            place[last], raw = HOLE, draw(st.sampled_from(RAW))
        elif how == "remove":
            del place[last]
        elif how == "swap":
            place[last] = copy.deepcopy(tree[draw(st.sampled_from(sorted(tree)))])
        elif how == "twice" and isinstance(place, list):
            place.append(place[last])
        elif isinstance(place, dict):
            twice = twice or how == "twice"
            value = place.pop(last) if how == "rename" else place[last]
            place[draw(st.text(string.printable, max_size=6))] = copy.deepcopy(value)
        if not tree:
            break
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=draw(st.booleans()))
    text = text.replace(HOLE, raw)
    if twice:
        text += text.splitlines()[-1] + "\n"
    data = text.encode(draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-8-sig"])))
    end = draw(st.one_of(st.none(), st.none(), st.integers(0, len(data))))
    data = bytearray(data[:end])
    if data and draw(st.sampled_from([False] * 4 + [True])):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def settle(read, *arguments) -> Any:
    """What a reader makes of a file; None if it refuses it, in one line that a screen holds."""
    try:
        return read(*arguments)
    except KTError as error:
        said = str(error)
        assert "\n" not in said and 10 < len(said) < LONGEST, said
        assert "params.yaml" in said, said
        return None


def whole(path: Path) -> params.Params:
    """All that is checked of the parameters before a stage's work."""
    loaded = params.load(path)
    kinds.configuration(loaded)
    kinds.learning(loaded)
    require_memory(kinds.chosen(loaded), kinds.configuration(loaded))
    return loaded


@FUZZED
@given(mutated(usual(ROOT)))
def test_mutated_parameters_are_valid_or_refused_in_one_line(tmp_path, data):
    path = tmp_path / "params.yaml"
    path.write_bytes(data)
    loaded = settle(whole, path)
    if loaded is not None:  # then DVC reads the same
        assert params.Params.model_validate(parse_yaml(data.decode("utf-8"), path)) == loaded


@FUZZED
@given(st.data())
def test_mutated_settings_of_tables_are_valid_or_refused_in_one_line(tmp_path, data):
    name = data.draw(st.sampled_from([*SCHEMAS, *OTHERS]))
    tree = read_yaml(ROOT / "tables" / name / "params.yaml")
    path = tmp_path / name / "params.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.draw(mutated(tree)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(params, "TABLES", tmp_path)
        if name in OTHERS:
            settle(OTHERS[name], path)
        else:
            settle(params.settings_of, name, SCHEMAS[name])
            settle(params.stores, name)


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw[:12].strip())
def test_raw_text_in_the_place_of_a_value(raw, tmp_path):
    tree = usual(ROOT)
    tree["scales"]["quick"]["recipe"]["lr"] = HOLE
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree).replace(HOLE, raw))
    loaded = settle(whole, path)
    assert (loaded is not None) == (raw == "1e-05")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "params.yaml: not valid YAML .the file is empty"),
        (b"# nothing\n", "the file is empty"),
        (b"- 1\n", "the file begins with .1., not with a section's name"),
        (b"text", "the file begins with 'text', not"),
        (b"scale: quick\n\xff\xfe", "params.yaml, line 2: .*byte 0xff is not UTF-8"),
        ("scale: é".encode("latin-1"), "params.yaml, line 1: .*byte 0xe9 is not UTF-8"),
        (b"a: \x00", "params.yaml: not valid YAML .unacceptable|control characters"),
        (b"scale: quick\nscale: mnist\n", "params.yaml, line 2: .*found duplicate key .scale"),
        (b"a:\n  - 1\n  b: [1\n", "params.yaml, line 3: not valid YAML"),
        (b"a: !!int abc", "params.yaml, line 1: .*'abc' is no valid value"),
        (b"a: 1\nb: 2024-13-45", "params.yaml, line 2: .*'2024-13-45' is no valid value: month"),
        (b"a: 1\nb: " + b"9" * 5000, "params.yaml, line 2: .*9\\.\\.\\.9+' is no valid value"),
        (b"a: 1\nb: " + b"[" * 3000 + b"]" * 3000, "line 2: .*more than 50 sections or lists"),
        (b"a: &a {b: *a}", "a section contains itself"),
        (BOMB.encode(), "more than 100,000 values"),
        (b"a: 1\nb: " + b"[" * 10**6, "line 2: .*more than 50 sections or lists"),
    ],
)
def test_what_is_no_file_of_parameters_is_refused_with_its_line(content, message, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(KTError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < LONGEST


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(KTError, match=r"cannot be read .Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(KTError, match="missing: run from the repository's root"):
        read_yaml(tmp_path / "params.yaml")


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.recursive(
        st.one_of(
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False),
            st.text(string.printable, max_size=12),
            st.none(),
            st.sampled_from([0.00001, 1e-5, 1e22, 123456789.0, "1e-05", "yes", "017", "1_0"]),
        ),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1_", max_size=4), inner)
        ),
        max_leaves=8,
    )
)
def test_what_dvc_records_is_what_a_stage_uses(value):
    """As `dvc exp run -S` writes parameters, and as DVC reads them for its lock file."""
    text = dumps_yaml({"value": value})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: text.encode())
        found = read_yaml(Path("params.yaml"))
    assert repr(found) == repr(parse_yaml(text, "params.yaml"))
    assert repr(found["value"]) == repr(value)


def test_a_learning_rate_as_dvc_writes_it_is_one(tmp_path):
    tree = usual(ROOT)
    tree["translators"]["merge"]["train"]["lr"] = 0.00001
    path = tmp_path / "params.yaml"
    path.write_text(dumps_yaml(tree))
    assert "lr: 1e-05" in path.read_text()
    assert kinds.learning(whole(path)).lr == 0.00001


def test_an_unknown_key_in_a_section_that_may_be_left_out(tmp_path):
    tree = read_yaml(ROOT / "tables" / "factor_transfer" / "params.yaml")
    tree["settings"]["logits"]["logits"]["heat"] = 4.0
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(KTError, match=r"logits.logits.heat: unknown key; known here: share, temp"):
        factor_transfer.load(path)
