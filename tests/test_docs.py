"""What the documents say: numbers, links, lengths and the Python example."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def load_numbers():
    spec = importlib.util.spec_from_file_location("numbers", ROOT / "docs" / "numbers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


numbers = load_numbers()
DOCUMENTS = [*numbers.documents(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_marked_numbers_are_those_of_the_results(path):
    text = path.read_text()
    assert text == numbers.refreshed(text), "run: python docs/numbers.py"


def test_a_changed_result_changes_the_document(tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "ROOT", tmp_path)
    (tmp_path / "r.json").write_text('{"a": {"mean": 1234.567, "ci95": 0.126}, "b": {"c": 4.2}}')
    for before, after in {
        "x 1.00 ± 2.00 <!-- r.json:a --> 3.0": "x 1,234.57 ± 0.13 <!-- r.json:a --> 3.0",
        "7 <!-- r.json:a -->, 8": "1,235 <!-- r.json:a -->, 8",
        "0.5 % <!-- r.json:b.c -->": "4.2 % <!-- r.json:b.c -->",
    }.items():
        assert numbers.refreshed(before) == after
    for mark in ("r.json:nothing", "none.json:a", "r.json:a.mean.x", "r.json:b"):
        with pytest.raises(ValueError, match=f"^{mark} is no such number"):
            numbers.refreshed(f"1.0 <!-- {mark} -->")
    with pytest.raises(ValueError, match="is no such number"):  # it has no interval
        numbers.refreshed("1.0 ± 0.1 <!-- r.json:b.c -->")


@pytest.mark.parametrize("arguments", [[], ["--check"], ["--chekc"]])
def test_what_is_wrong_with_a_result_or_an_argument_is_one_line(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "ROOT", tmp_path)
    monkeypatch.setattr(numbers.sys, "argv", ["numbers.py", *arguments])
    (tmp_path / "README.md").write_text("1.0 <!-- r.json:a -->")
    with pytest.raises(SystemExit) as end:
        numbers.main()
    assert re.fullmatch("error: (README.md: r.json:a|'--chekc') is no .*", end.value.code)
    assert (tmp_path / "README.md").read_text() == "1.0 <!-- r.json:a -->"


@pytest.mark.parametrize(
    "value",
    [
        *(
            "NaN",
            "Infinity",
            "-1e999",
            "1e101",
            "true",
            "null",
            '"1"',
            "[1]",
            "9" * 400,
            "9" * 5000,
        ),
        '{"mean": 1.0, "ci95": NaN}',
        '{"mean": 1.0, "ci95": -1.0}',
        '{"mean": 1.0, "ci95": 1.0, "mean": 2.0}',
        "[" * 100_000,
    ],
)
def test_what_is_no_number_comes_into_no_document(value, tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "ROOT", tmp_path)
    (tmp_path / "r.json").write_text(f'{{"a": {value}}}')
    with pytest.raises(ValueError, match=r"^r\.json:a is no such number"):
        numbers.refreshed("1.0 ± 0.1 <!-- r.json:a -->")


@pytest.mark.parametrize("mark", ["r.json: a", "r.json:a b", "../r s.json:a"])
def test_a_comment_that_marks_no_number_is_told(mark, tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "ROOT", tmp_path)
    monkeypatch.setattr(numbers.sys, "argv", ["numbers.py"])
    (tmp_path / "README.md").write_text(f"1.0 <!-- {mark} -->")
    with pytest.raises(SystemExit) as end:
        numbers.main()
    assert end.value.code == f"error: README.md: <!-- {mark} --> marks no number"
    (tmp_path / "README.md").unlink()
    with pytest.raises(SystemExit) as end:
        numbers.main()
    assert "README.md: [Errno 2]" in end.value.code


def test_every_comment_that_names_a_result_marks_a_number():
    for path in DOCUMENTS:
        text = path.read_text()
        assert text.count(".json:") == len(numbers.NUMBER.findall(text)), path


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200
    assert len(README.split()) <= 1500


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text()), target


def anchors(text):
    """What GitHub makes of headings, and anchors that are written out."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def test_the_example_in_python_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line]) == 5
    exec(example, {})
    before, after = map(float, capsys.readouterr().out.split())
    assert before > 85 and after > 65


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_parameters_that_are_named_exist(path):
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    text = path.read_text()
    keys = "|".join(key for key, value in tree.items() if isinstance(value, dict))
    named = set(re.findall(r"-S '?([\w.]+)=", text))
    named |= set(re.findall(rf"`((?:{keys})\.[\w.]+)", text)) - {"kt.images"}
    for name in named:
        value = tree
        for key in name.split("."):
            assert key in value, f"{name} in {path.name}"
            value = value[key]
