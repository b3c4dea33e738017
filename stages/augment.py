"""Choose the pairs to learn from, add augmented copies, and measure the effect of augmentation."""

from collections.abc import Iterator

import pandas as pd

from kt import ensemble
from kt.ensemble import Compute
from kt.images import ImageSet
from kt.networks.weights import Weights, part, prefixed
from kt.pairs.augment import augment
from kt.pairs.store import Pairs, write_store
from kt.run import seeds
from kt.run.statistics import summary
from stages.common.base import outputs, room, runtime
from stages.common.base.inputs import AUGMENTED, PAIRS, RESULTS, image_set
from stages.common.base.params import Params
from stages.common.base.stores import pairs

MEASURED_NETWORKS = 16
"""Selection networks on which the effect of augmentation on function is measured, at most."""
BLOCK = 4096
"""Pairs in memory at a time. Random draws depend on it, so it must not change."""


def main(params: Params, compute: Compute) -> None:
    target, parts = params.target, ("former", "large", "latter", "small")
    train = pairs(params, PAIRS / "train", "large", target=target, count=params.active.pairs)
    selection = pairs(params, PAIRS / "selection", *parts, target=target)
    images = image_set(params, "main", "held_back")
    materialise(params, train)
    measure(params, compute, selection, images)


def materialise(params: Params, train: Pairs) -> None:
    """Write data/augmented: the chosen pairs, then their augmented copies. If the training networks
    have no small blocks, only large ones are written.
    """
    count, options = params.active.pairs, params.augment
    chosen = train.mapped("large", "small", first=count, optional=["small"])
    size = sum(rows[:1].nbytes for rows in chosen.values())
    room.require_disk(AUGMENTED, count * (options.copies + 1) * size, "augment.copies")

    def copies() -> Iterator[Weights]:
        for copy in range(options.copies + 1):
            draw = seeds.generator(params.seed, "augment", copy)
            m, n = (options.masking, options.noise) if copy else (0.0, 0.0)
            for at in range(0, count, BLOCK):
                block = {name: rows[at : at + BLOCK] for name, rows in chosen.items()}
                large, small = part(block, "large"), part(block, "small")
                large, small = augment(large, small, m, n, options.side, draw)
                yield prefixed("large", large) | prefixed("small", small)

    about = {"augment": options.model_dump(), "pairs": count}
    write_store(AUGMENTED, copies(), count * (options.copies + 1), about)


def measure(params: Params, compute: Compute, selection: Pairs, images: ImageSet) -> None:
    """Write results/augment: accuracy of both blocks on held-back images as m and n grow."""
    networks = selection.read(first=MEASURED_NETWORKS)
    for what in ("masking", "noise"):
        rows = []
        for strength in params.augment.measure:
            m, n = (strength, 0.0) if what == "masking" else (0.0, strength)
            draw = seeds.generator(params.seed, "measure", what, repr(strength))
            row: dict[str, float] = {what: strength}
            for kind, side in (("large", "large"), (params.target, "small")):
                block = part(networks, side)
                changed, _ = augment(block, {}, m, n, "large", draw)
                accuracy = ensemble.evaluate(kind, images, networks, changed, compute)
                result = summary(accuracy)
                row |= {side: result["mean"], f"{side}_ci95": result["ci95"], "n": result["n"]}
            rows.append(row)
        outputs.write_csv(RESULTS / "augment" / f"{what}.csv", pd.DataFrame(rows))


if __name__ == "__main__":
    runtime.run(main, __doc__)
