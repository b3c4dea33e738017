#!/usr/bin/env python
"""Shrink a project's parameter files to a scale of seconds: `tests/tiny_params.py [FOLDER]`."""

import copy
import sys
from pathlib import Path

import yaml
from ruamel.yaml import YAML

TINY = {
    "images": {"main": "digits", "transfer": "glyphs", "held_back": 1300},
    "networks": {"train": 8, "selection": 2, "test": 3, "partial": 2, "per_stream": 2},
    "recipe": {"epochs": 1, "batch_size": 64, "lr": 0.1},
    "repeats": 2,
    "pairs": 8,
    "expected": {"translation": [0.0, 100.0]},
}
USUAL = {
    "scale": "quick",
    "seed": 1,
    "target": "conv",
    "network": {"channels": 6, "hidden": 3, "kernel": 3, "image_channels": 1, "image_size": 28},
    "model": {"kind": "merge", "layers": 8, "hidden_size": 32},
}
"""What a user of the project may have chosen otherwise when the tests are run."""
MODELS = {"merge": {"prototypes": 20}, "mixer": {"sequence_dim": 8, "channel_dim": 8}}
SCHEDULE = {"epochs": 4, "batch_size": 4, "evaluate_every": 2}


def read_yaml(path: Path) -> dict:
    """What a file of parameters says, by DVC's rules."""
    return YAML(typ="safe").load(path.read_text())


def usual(root: Path) -> dict:
    """The project's parameters, at the scale and with the model of the default run."""
    return read_yaml(root / "params.yaml") | copy.deepcopy(USUAL)


def shrink(params: dict) -> dict:
    """The same parameters with one scale, `tiny`, and tiny translators."""
    tiny = copy.deepcopy(params) | {"scales": {"tiny": copy.deepcopy(TINY)}, "scale": "tiny"}
    tiny["model"] |= {"layers": 2, "hidden_size": 8}
    for kind, section in tiny["translators"].items():
        section["model"] |= MODELS.get(kind, {})
        section["schedule"] = {"tiny": dict(SCHEDULE)}
    tiny["augment"]["measure"] = [0.0, 0.1]
    tiny["partial"] = {"fractions": [0.5]}
    return tiny


def shrink_table(name: str, settings: dict) -> dict:
    """A table's settings: the same cells but fewer, with epochs and networks of the tiny scale."""
    tiny = copy.deepcopy(settings)
    few = {"epochs": {"tiny": 4, "paper": 300}}
    if name == "tables":
        tiny["figure6"]["sizes"] = ["small"]
        for size in ("base", "large"):
            tiny["mixers"][size]["epochs"] = {"tiny": 2}
    elif name == "ablation":
        longer = {"generate": {"small_blocks": False, "checkpoints": [1]}}
        longer["scales"] = {"tiny": {"recipe": {"epochs": 2}, "pairs": 16}}
        tiny["stores"]["checkpoints"] = longer
        tiny["refine_steps"] = 2
        tiny["merges"] = {
            "merge_checkpoints": tiny["merges"]["merge_checkpoints"] | {"change": longer}
        }
    elif name == "curve":
        tiny["networks"] = [4, 8]
        tiny["stores"]["networks"]["scales"] = {"tiny": {"networks": {"train": 8}}}
    elif name == "mixer_curves":
        tiny["shares"] = [2, 1]
    elif name == "limits":
        tiny |= {"networks": 3, "draws": {"tiny": 4}}
    elif name == "epochs":
        tiny["epochs"] = [2]
    elif name == "figure4":
        tiny |= {"epochs": 4, "batch_size": {"tiny": 4}}
        tiny["stores"]["pairs"]["scales"] = {"tiny": {"networks": {"train": 8}, "pairs": 8}}
        for sizes in tiny["compared"].values():
            sizes["layers"] = 1
    elif name == "table1":
        tiny = {"networks": 3, "steps": 2}
    elif name in ("table3", "table4"):
        tiny |= few | {"sizes": ["small", "wide"], "dropout": [0, 0.1]}
        tiny["grids"] = {"tiny": {"sizes": ["small"], "dropout": [0, 0.1]}}
    elif name == "table5":
        swept = {"masking": [0.1], "noise": [0.01, 0.1]}
        tiny |= {"share": 2, "grids": {"tiny": swept | {"size": "small"}}} | swept
    elif name == "table6":
        tiny |= few | {"size": "small"}
        for store in tiny["stores"].values():
            store["scales"] = {"tiny": {"networks": {"train": 8}, "pairs": 8}}
    elif name == "widths":
        tiny |= {"measured": ["6_to_2"], "learned": {"several": ["4_to_2", "6_to_3"]}}
        tiny |= {"test": 3, "selection": 2, "networks": 4}
        for store in tiny["stores"].values():
            store["scales"] = {"tiny": {"networks": {"train": 9}, "pairs": 9}}
    return tiny


def shrink_project(root: Path, into: Path) -> None:
    """Write the shrunk parameter files of the project at `root` into a folder, or into its own."""
    files = [root / "params.yaml", *sorted((root / "tables").rglob("params.yaml"))]
    for path in files:
        settings = read_yaml(path)
        name = path.parent.name
        tiny = shrink(usual(root)) if path.parent == root else shrink_table(name, settings)
        place = into / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(yaml.safe_dump(tiny, sort_keys=False))


if __name__ == "__main__":
    folder = Path(sys.argv[1] if sys.argv[1:] else ".")
    shrink_project(folder, folder)
