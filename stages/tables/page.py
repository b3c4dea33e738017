"""The results page: every table and figure of the paper and of our own, at every scale, in one."""

import os
import re
from datetime import date
from pathlib import Path

from kt.ensemble import Compute
from kt.run import files
from kt.run.errors import KTError
from stages.common.base import outputs, runtime
from stages.common.base.checks import none_of
from stages.common.base.params import Params
from stages.tables import output, terms
from stages.tables.findings import findings

TITLES = {
    "table1": "Table 1: what other methods of compression leave, cost and need",
    "table2": "Table 2: the translator's sizes",
    "table3": "Table 3: size and dropout, beside the baselines",
    "table4": "Table 4: the same, trained for longer",
    "table5": "Table 5: augmentation where there are few pairs",
    "table6": "Table 6: other kinds of small blocks",
    "figure4": "Figure 4: MLP, attention and convolution translators of equal cost",
    "figure5": "Figure 5: feature maps",
    "figure6": "Figure 6: training of small and wide translators",
    "figure7": "Figure 7: accuracies of all test networks",
    "figure8": "Figure 8: networks trained on part of the images",
    "usps": "Section 5.5: transfer to another set of images",
    "ablation": "From the paper's translator to merge",
    "mixer_curves": "How many pairs the paper's mixer takes",
    "limits": "What a loss on weights can reach at best",
    "curve": "How many networks merge takes",
    "epochs": "Networks trained for other numbers of epochs",
    "widths": "Widths that a translator has never seen",
    "cost": "What all of this costs",
}
COMMANDS = {
    "cost": "python -m benchmarks.cost paper",
    "mixer_curves": "dvc repro tables/mixer_curves/dvc.yaml",
    "limits": "dvc repro tables/limits/dvc.yaml",
}
"""The commands behind tables that tables/dvc.yaml does not make."""
NOTES = Path("tables/notes")
"""What people conclude from a table: `<table>.md`, which begins with `<date> · <scales>`."""
FEW_PAIRS = "few_pairs"
"""The note that other notes refer to."""
HEAD = re.compile(
    r"(?P<date>\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])) · (?P<scales>\w+(, \w+)*)\n\n"
    r"(?P<text>.+)",
    re.DOTALL,
)


def main(params: Params, compute: Compute) -> None:
    require_notes(params)
    lines = [
        "# Results",
        "",
        "This page shows every table and figure of the paper beside ours, then our own. A command "
        "makes each anew at the scale that `params.yaml` names. A scale at which a table has not "
        "been run has no section.",
        "",
        "*The numbers say* is computed from the tables. One mean is *ahead of* or *behind* another "
        "if their 95 % intervals do not overlap; else it is *within the interval of* it. A *note* "
        "is what somebody concluded on a day, for the scales that it names.",
        "",
        *(f"* [{title}](#{name})" for name, title in TITLES.items()),
        "",
        '<a id="terms"></a>',
        "",
        "## Terms",
        "",
        *terms.lines(),
        "",
        '<a id="few-pairs"></a>',
        *note(FEW_PAIRS),
    ]
    for name, title in TITLES.items():
        lines += ["", f'<a id="{name}"></a>', "", f"## {title}", "", command(name)]
        for scale in params.scales:
            lines += section(output.TABLES / scale, name)
        lines += note(name)
    outputs.write_text(output.TABLES / "README.md", "\n".join(lines) + "\n")


def command(name: str) -> str:
    return f"`{COMMANDS.get(name, f'dvc repro tables/dvc.yaml:{name}')}`"


def section(folder: Path, name: str) -> list[str]:
    """What there is of a table at a scale: figure, caption, rows, and what they say."""
    page = folder / f"{name}.md"
    if not any(os.path.lexists(page.with_suffix(end)) for end in (".md", ".json", ".csv")):
        return []
    lines = ["", f"### {TITLES[name].partition(':')[0]} at scale {folder.name}", ""]
    if page.with_suffix(".png").exists():
        lines += [f"![{TITLES[name]}, scale {folder.name}]({folder.name}/{name}.png)"]
        if name == "table1":  # the clock's numbers differ from run to run: the page names none
            times = f"../times/{folder.name}/times"
            lines += [f"![seconds by networks]({times}.png)", "", f"[By the clock]({times}.md)"]
        lines += [""]
    metrics, table, text = output.read(page.with_suffix(".json"))
    lines.append(text.replace(output.TERMS, "#terms"))
    with output.computing(page.with_suffix(".json")):
        said = findings(name, metrics, table)
    if said:
        lines += ["", "The numbers say:", "", *(f"* {words}" for words in said)]
    return lines


def require_notes(params: Params) -> None:
    """Refuse notes that no page shows, and days and scales that there are not.

    Raises:
        KTError: naming the note.
    """
    for path in sorted(NOTES.glob("*.md")):
        if path.stem not in (*TITLES, FEW_PAIRS):
            raise KTError(f"{path}: there is no table {path.stem!r}: rename the note")
        found = read_note(path)
        try:
            date.fromisoformat(found["date"])
        except ValueError:
            raise KTError(f"{path}: there is no day {found['date']}") from None
        for scale in found["scales"].split(", "):
            if scale not in params.scales:
                raise KTError(f"{path}: {none_of('a scale', scale, params.scales)}")


def read_note(path: Path) -> re.Match:
    """The parts of a note.

    Raises:
        KTError: it has no date or no scales.
    """
    if (found := HEAD.fullmatch(files.read_text(path).rstrip())) is None:
        raise KTError(f"{path}: begins with no line like `2026-11-27 · quick, mnist`")
    return found


def note(name: str) -> list[str]:
    """The note on a table, if there is one, with its date and the scales that it is for."""
    path = NOTES / f"{name}.md"
    if not path.exists():
        return []
    found = read_note(path)
    head = f"**Note of {found['date']} (scales {found['scales']}).**"
    return ["", f"{head} {found['text']}"]


if __name__ == "__main__":
    runtime.run(main, __doc__)
