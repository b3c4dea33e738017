"""The results page: what it computes from the tables, and the notes beside them."""

import re
import shutil

import pandas as pd
import pytest

from kt.ensemble import Compute
from kt.run.errors import KTError
from stages.tables import findings, output, page, redraw, terms
from tests.conftest import ROOT, usual_params


def of(mean: float, ci95: float) -> dict[str, float]:
    return {"mean": mean, "ci95": ci95}


def test_means_are_told_apart_where_their_intervals_do_not_overlap():
    others = {"low": of(70, 2), "near": of(81, 2), "high": of(90, 1), "far low": of(10, 2)}
    assert findings.standing("A", of(80, 1.5), others) == (
        "A (80.00 ± 1.50) is ahead of: low; far low. It is within the interval of: near. "
        "It is behind: high."
    )
    assert "within the interval of: B" in findings.standing("A", of(80, 1), {"B": of(82, 1)})
    assert "behind: B" in findings.standing("A", of(80, 1), {"B": of(82.1, 1)})


@pytest.mark.parametrize(
    ("gain", "words"), [(of(2, 1), "a gain"), (of(-2, 1), "a loss"), (of(-1, 2), "no clear change")]
)
def test_a_gain_is_told_from_zero_by_its_interval(gain, words):
    assert f": {words} (" in findings.gain("A", gain)


def test_findings_follow_the_numbers():
    """The same table with other numbers says something else."""
    names = ("large", "prune_refit", "kt_mixer", "kt_merge")
    table = pd.DataFrame({"method": ["large", "pruning", "mixer", "merge"]})

    def said(merge: float) -> str:
        sizes = dict(zip(names, (672, 324, 324, 324), strict=True))
        means = dict(zip(names, (96, 81, 30, merge), strict=True))
        metrics = {n: of(means[n], 1.0) | {"parameters": sizes[n]} for n in names}
        return findings.findings("table1", metrics | {"break_even": {}}, table)[0]

    assert said(88) == "merge (88.00 ± 1.00) is ahead of: pruning; mixer."
    assert said(75) == "merge (75.00 ± 1.00) is ahead of: mixer. It is behind: pruning."


def test_a_table_writes_and_reads_a_mean_with_its_interval():
    assert output.parsed(output.spread(of(88.064, 1.397))) == (88.06, 1.4)


def test_few_updates_are_called_a_smoke_run():
    few, many = ({"updates": count, "late_fall": 0.5} for count in (999, 1000))
    assert output.trained_with({"mixer": [few]}).endswith("mixer 999. *Smoke runs*: all of these.")
    assert output.trained_with({"mixer": [few], "merge": [many]}).endswith("*Smoke runs*: mixer.")
    assert "Smoke" not in output.trained_with({"mixer": [few, many]})


def test_a_caption_counts_trainings_whose_loss_had_stopped_falling():
    falls = (None, 1.5, 0.5, -3.0)
    cells = [{"updates": 1000, "late_fall": fall} for fall in falls]
    said = output.trained_with({"mixers": cells, "merge": cells[1:2]})
    assert said.endswith("*converged*: mixers 2 of 4, merge 0 of 1.")
    said = output.trained_with({"mixers": cells, "few": [{"updates": 12, "late_fall": 0.0}]})
    assert said.endswith("*converged*: mixers 2 of 4. *Smoke runs*: few.")


def test_of_many_others_a_sentence_names_the_nearest():
    others = {f"no. {mean}": of(mean, 1) for mean in (10, 30, 20, 25, 15)} | {"high": of(90, 1)}
    assert findings.standing("merge", of(50, 1), others) == (
        "merge (50.00 ± 1.00) is ahead of 5 of 6, of which the nearest is: no. 30 (30.00 ± 1.00). "
        "It is behind: high."
    )


def test_no_zero_of_a_table_has_a_sign():
    assert output.spread(of(-0.001, 0)) == "0.00 ± 0.00"


def test_a_note_stands_on_the_page_with_its_date_and_scales(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "NOTES", tmp_path)
    (tmp_path / "table3.md").write_text("2026-11-27 · quick, mnist\n\nIt agrees.\n")
    assert page.note("table3") == ["", "**Note of 2026-11-27 (scales quick, mnist).** It agrees."]
    assert page.note("table4") == []
    for text in ("It agrees.\n", "2026-13-27 · quick\n\nIt agrees.\n"):
        (tmp_path / "table4.md").write_text(text)
        with pytest.raises(KTError, match=r"table4\.md: begins with no line like"):
            page.note("table4")


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("table3", "2026-02-31 · quick", "table3.md: there is no day 2026-02-31"),
        ("table3", "2026-02-28 · quick, quik", "table3.md: a scale is 'quik', which is none of"),
        ("table9", "2026-02-28 · quick", "table9.md: there is no table 'table9'"),
    ],
)
def test_a_note_that_no_page_can_show_is_refused(tmp_path, monkeypatch, name, head, message):
    monkeypatch.setattr(page, "NOTES", tmp_path)
    (tmp_path / f"{name}.md").write_text(f"{head}\n\nIt agrees.\n")
    with pytest.raises(KTError, match=message):
        page.require_notes(usual_params())


def test_the_page_explains_the_words_that_captions_share():
    told = "\n".join(terms.lines())
    assert "* *smoke run*: a training of fewer than 1,000 updates." in told
    assert "* *below 80*: the share of networks with less than 80 %." in told
    page_of = (output.TABLES / "README.md").read_text()
    assert told in page_of and output.TERMS not in page_of
    for name in ("ceiling", "gap", "converged", "smoke run"):
        assert name in terms.TERMS


@pytest.mark.parametrize("scale", ["quick", "mnist"])
def test_the_files_of_every_committed_table_say_the_same(scale):
    tables = [path.stem for path in (output.TABLES / scale).glob("*.json")]
    assert {"table1", "figure5", "limits"} <= set(tables) <= {*page.TITLES, "cost"}
    for name in tables:
        output.read(output.TABLES / scale / f"{name}.json")


def test_every_note_is_of_a_table_and_dated():
    notes = sorted(path.stem for path in page.NOTES.glob("*.md"))
    assert notes and set(notes) <= {*page.TITLES, page.FEW_PAIRS}
    assert all(page.note(name) for name in notes)


def loses_its_third_row(text):
    return "".join(text.splitlines(keepends=True)[:2] + text.splitlines(keepends=True)[3:])


def has_other_means(text):
    return re.sub(r'"mean": \d+', '"mean": 50', text)


def has_another_loss(text):
    return text.replace('"loss": 0.', '"loss": 1.', 1)


@pytest.mark.parametrize(
    ("name", "end", "change", "message"),
    [
        (name, "csv", loses_its_third_row, "md is damaged .its rows")
        for name in redraw.DRAWN
        if (ROOT / output.TABLES / "quick" / f"{name}.csv").exists()
    ]
    + [
        (
            "figure6",
            "md",
            lambda text: text.replace("small", "large", 1),
            "md is damaged .its rows",
        ),
        ("curve", "json", has_other_means, "json is damaged"),
        ("figure4", "json", has_another_loss, "json is damaged .mixer.loss is 1.0"),
    ],
)
def test_a_table_whose_files_do_not_say_the_same_is_not_drawn(
    tmp_path, monkeypatch, name, end, change, message
):
    monkeypatch.chdir(tmp_path)
    folder = output.TABLES / "quick"
    shutil.copytree(ROOT / folder, folder)
    path = folder / f"{name}.{end}"
    path.write_text(change(path.read_text()))
    monkeypatch.setattr(redraw, "DRAWN", {name: redraw.DRAWN[name]})
    with pytest.raises(KTError, match=f"{name}.{message}"):
        redraw.main(usual_params(), Compute(), "quick")
