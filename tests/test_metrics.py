"""Metrics files that say something else than numbers: told by the file's name, or of no account."""

import json

import pytest

from kt.run.errors import KTError
from stages import headline, report
from stages.common.base import metrics
from stages.common.base.inputs import RESULTS
from stages.figures.style import LABELS
from tests.conftest import ROOT, usual_params

WRONG = [None, True, "x", "", 7, -1.5, [], [7], {}, {"a": 7}]


def places(content, way=()):
    """Every way into nested sections, the whole content's aside."""
    for key, value in content.items():
        yield (*way, key)
        if isinstance(value, dict):
            yield from places(value, (*way, key))


def page(found):
    """What the report says of metrics."""
    params, train, transfer = usual_params(), found["train"], found["transfer"]
    baselines = found["baselines"]
    blocks = baselines | {"translation": train["translation"]}
    blocks = {name: blocks[name] for name in LABELS if name in blocks}
    lines = report.introduction(params, train)
    lines += report.main_table(params, blocks, train, baselines)
    lines += report.transfer_table(params, transfer)
    return [*lines, *report.partial_table(found["partial"])]


@pytest.fixture
def found(tmp_path, monkeypatch):
    """The committed metrics of the default run, in a folder of their own."""
    for name in metrics.KINDS:
        path = tmp_path / RESULTS / name / "metrics.json"
        path.parent.mkdir(parents=True)
        path.write_bytes((ROOT / RESULTS / name / "metrics.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    return {name: metrics.read(name) for name in metrics.KINDS}


@pytest.mark.parametrize("name", metrics.KINDS)
def test_metrics_of_any_other_type_are_refused_or_of_no_account(name, found):
    path = RESULTS / name / "metrics.json"
    whole, before = json.loads(path.read_text()), page(found)
    refused = 0
    for *way, key in places(whole):
        for value in WRONG:
            changed = json.loads(json.dumps(whole))
            section = changed
            for step in way:
                section = section[step]
            section[key] = value
            path.write_text(json.dumps(changed))
            try:
                now = page(found | {name: metrics.read(name)})
            except KTError as error:
                assert str(error).startswith(f"{path} is damaged (") and "\n" not in str(error)
                refused += 1
            else:
                assert len(now) == len(before)
    assert refused > 50


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("partial", "{}", r"\(got {}; dictionary should have at least 1 item"),
        ("train", '{"translation": 5}', "translation: got 5; input should be a valid dictionary"),
        ("transfer", '{"gain": null}', "random_initialisation: missing"),
    ],
)
def test_what_the_headline_reads_is_checked(name, text, message, found):
    (RESULTS / name / "metrics.json").write_text(text)
    with pytest.raises(KTError, match=f"results/{name}/metrics.json is damaged .*{message}"):
        headline.main(usual_params(), None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0.0,50.0,-1.0", "large_ci95 is not made of possible numbers"),
        ("0.0,100.5,1.0", "large is not percent, from 0 to 100"),
        ("0.1,50.0,1.0", r"noise is \[0.1\], not \[0.0\]"),
    ],
)
def test_plot_data_that_cannot_be_is_refused(tmp_path, monkeypatch, row, message):
    monkeypatch.chdir(tmp_path)
    path = report.RESULTS / "augment" / "noise.csv"
    path.parent.mkdir(parents=True)
    path.write_text(f"noise,large,large_ci95\n{row}\n")
    with pytest.raises(KTError, match=f"{path} is damaged .{message}"):
        report.rows("augment/noise.csv", "large", "large_ci95", of={"noise": [0.0]}, percent=True)
