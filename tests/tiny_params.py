#!/usr/bin/env python
"""Shrink a parameter file to a scale of seconds: `tests/tiny_params.py params.yaml`."""

import copy
import sys
from pathlib import Path

import yaml

TINY = {
    "images": {"main": "digits", "transfer": "glyphs", "held_back": 1300},
    "networks": {"train": 8, "selection": 2, "test": 3, "partial": 2, "per_stream": 2},
    "recipe": {"epochs": 1, "batch_size": 64, "lr": 0.1},
    "train": {"pairs": 8},
    "repeats": 2,
}
SCHEDULE = {"epochs": 4, "batch_size": 4, "evaluate_every": 2}
MODELS = {"merge": {"prototypes": 20}, "mixer": {"sequence_dim": 8, "channel_dim": 8}}


def shrink(params: dict) -> dict:
    """The same parameters with one scale, `tiny`, and a tiny translator."""
    tiny = params | {"scales": {"tiny": copy.deepcopy(TINY)}, "scale": "tiny"}
    tiny["model"] = params["model"] | {"layers": 2, "hidden_size": 8}
    tiny["translators"] = {
        kind: section
        | {
            "model": section["model"] | MODELS.get(kind, {}),
            "schedule": {"tiny": dict(SCHEDULE)},
        }
        for kind, section in params["translators"].items()
    }
    tiny["augment"] = params["augment"] | {"measure": [0.0, 0.1]}
    tiny["partial"] = {"fractions": [0.5]}
    tiny["tables"] = shrink_tables(params["tables"])
    return tiny


def shrink_tables(tables: dict) -> dict:
    """The same cells, two rows of the ablation, and epochs and networks of the tiny scale."""
    tiny = copy.deepcopy(tables)
    two_epochs = {"generate": {"small_blocks": False, "checkpoints": [1]}}
    two_epochs["active"] = {"recipe": {"epochs": 2}, "train": {"pairs": 16}}
    tiny["stores"]["checkpoints"] = two_epochs
    ablation = tiny["ablation"]
    ablation |= {"refine_steps": 2, "rows": ["mixer_behaviour", "merge_checkpoints"]}
    ablation["settings"]["merge_checkpoints"]["change"] = two_epochs
    for name in ("table3", "table4", "table6"):
        tiny[name]["epochs"] = {"tiny": 4, "paper": 300}
    for name in ("table3", "table4"):
        tiny[name] |= {"sizes": ["small"], "dropout": [0, 0.1]}
    tiny["table5"] |= {"size": "small", "share": 2, "masking": [0.1], "noise": [0.01, 0.1]}
    tiny["table6"] |= {"size": "small", "pairs": {"tiny": 8, "paper": 300000}}
    for size in ("base", "large"):
        tiny["translators"][size]["epochs"] = {"tiny": 2}
    tiny["figure6"]["sizes"] = ["small"]
    tiny["figure4"] |= {"epochs": 4, "pairs": {"tiny": 8}, "batch_size": {"tiny": 4}}
    for sizes in tiny["figure4"]["translators"].values():
        sizes["layers"] = 1
    tiny["table1"] = {"networks": 3, "steps": 2}
    return tiny | {"curve": {"networks": [4, 8]}, "epochs": [2]}


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(yaml.safe_dump(shrink(yaml.safe_load(path.read_text()))))
