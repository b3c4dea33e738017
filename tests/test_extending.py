"""What docs/extending.md shows, put into a project and run."""

import json
import re

import yaml

from tests.conftest import ROOT
from tests.tiny_params import SCHEDULE

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = re.findall(r"^```python\n# (\S+[.]py)\n(.*?)^```", PAGE, re.M | re.S)
SECTIONS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)


def test_an_extension_is_one_new_file_and_at_most_one_section():
    assert [path.rsplit("/", 1)[0] for path, _ in FILES] == [
        "kt/translators",
        "kt/images",
        "kt/networks/targets",
    ]
    assert not any((ROOT / path).exists() for path, _ in FILES)
    (section,) = map(yaml.safe_load, SECTIONS)
    assert set(section) == {"translators"} and len(section["translators"]) == 1


def test_the_page_runs_as_it_stands(project):
    for path, code in FILES:
        (project.folder / path).write_text(code)
    (kind, section), *_ = yaml.safe_load(SECTIONS[0])["translators"].items()
    section["schedule"] = {"tiny": SCHEDULE}
    project.params["translators"][kind] = section
    project.params["model"]["kind"] = kind
    project.params["target"] = "depthwise"
    project.params["scales"]["tiny"]["images"]["transfer"] = "negatives"
    project.write_params()
    project.succeed("images", "generate_train", "generate_val", "generate_transfer", "augment")
    project.succeed("train_translator", "evaluate_baselines", "eval_transfer_usps")
    metrics = json.loads((project.folder / "results/train/metrics.json").read_text())
    assert metrics["translation"]["n"] == 3
    history = (project.folder / "results/train/plots/metrics/loss.tsv").read_text().split()
    assert float(history[-1]) < float(history[3])  # it learns: header of two words, then epoch 0
    metrics = json.loads((project.folder / "results/transfer/metrics.json").read_text())
    assert "gain" in metrics
