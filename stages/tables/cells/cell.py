"""What cells share: where they are kept, and a translator measured."""

from collections.abc import Callable, Iterable
from inspect import signature
from pathlib import Path

from torch import Tensor

from kt.ensemble import Compute
from kt.pairs.store import Pairs
from kt.run.errors import KTError
from kt.run.files import problem
from kt.run.statistics import summary
from kt.translators import Translator, own_images
from stages.common import translation
from stages.common.base import inputs, metrics, outputs
from stages.common.base.inputs import PAIRS, Found, image_set
from stages.common.base.params import Params
from stages.common.evaluation import Subjects
from stages.tables.cells import content

CELLS = Path("tables/cells")
TIMES = "times"
"""The folder of what the clock said, among a scale's cells but no output of any stage."""
MEASURED = 64
"""Training networks to evaluate, at most: a gap between them and unseen ones shows memorising."""


def write(params: Params, name: str, found: dict, seconds: dict | None = None) -> None:
    """Keep a cell of the active scale: `ablation/mixer`, say.

    Args:
        seconds: what the clock said, kept elsewhere: made again, a cell is the same.
    """
    outputs.write_json(CELLS / params.scale / f"{name}.json", found)
    if seconds:
        outputs.write_json(CELLS / params.scale / TIMES / f"{name}.json", seconds)


def read(params: Params, name: str) -> Found:
    """Read the cell that `write` wrote.

    Raises:
        KTError: it is missing or damaged, does not hold what is read of it, or is empty: the scale
            did not have it when it was made.
    """
    path = CELLS / params.scale / f"{name}.json"
    if not inputs.read_json(path):
        raise problem(path, "is empty: it was no cell of this scale", "run `dvc repro -f -s` on it")
    return metrics.checked(path, content.kind_of(name, content.KINDS))


def seconds_of(params: Params, name: str) -> dict:
    """What the clock said of a cell; nothing where it was made elsewhere.

    Raises:
        KTError: it is damaged.
    """
    path = CELLS / params.scale / TIMES / f"{name}.json"
    if not path.exists():
        return {}
    return metrics.checked(path, content.kind_of(name, content.SECONDS))


def known(key: str, accepted: Iterable[object], where: str) -> None:
    """Raise KTError if a word of a cell's name is none of those which its table's settings have."""
    if key not in (words := [str(word) for word in accepted]):
        raise KTError(f"{key!r} is no cell: {where} has {', '.join(words) or 'none'}")


def require_words(name: str, make: Callable, *arguments: object) -> None:
    """Raise KTError if a cell's name has more or fewer words than the function that makes it."""
    try:
        signature(make).bind(*arguments)
    except TypeError:
        raise KTError(f"{name!r} is no cell: its name has too many or too few words") from None


def listed(accuracies: Tensor) -> list[float]:
    """Accuracies by network (N,), as a cell keeps them."""
    return [round(accuracy, 4) for accuracy in accuracies.tolist()]


def prototypes_of(model: Translator) -> int:
    """How many images of its own a translator looks at."""
    return 0 if (own := own_images(model)) is None else len(own)


def stored(prototypes: int) -> str:
    """What images a translator with so many prototypes brings along, in words."""
    return f"{prototypes} prototypes of the training images, in its file" if prototypes else "none"


def measured(
    params: Params, compute: Compute, store: str, also: Callable[[Translator], dict] | None = None
) -> tuple[dict, float]:
    """Train the translator of `params` on a store's networks and measure it.

    Args:
        also: measures what else the evaluations on the way are to hold.

    Returns:
        `Trained.metrics`, the accuracies of all test networks, the accuracy of `training` networks
        on the test images, and the evaluations on the way; and the seconds of training, evaluations
        aside.
    """
    trained = translation.train(params, compute, store=PAIRS / store, also=also)
    count = params.active.pairs
    seen = Subjects(
        Pairs(PAIRS / store).read("former", "large", "latter", first=min(count, MEASURED)),
        image_set(params, "main", "test"),
        params.target,
        params.sizes,
    )
    seconds, evaluations = 0.0, []
    for record in trained.fitted.history:
        seconds += count / record["samples_per_second"]
        if "test" in record:
            evaluations.append(
                {
                    "epoch": record["epoch"],
                    "loss": record["loss"],
                    "selection": record["selection_accuracy"],
                    "test": summary(record["test"])["mean"],
                }
                | record.get("also", {})
            )
    found = {
        **trained.metrics(),
        "accuracies": listed(trained.test),
        "images": stored(prototypes_of(trained.model)),
        "training": summary(seen.translated(trained.model, compute)),
        "networks": count,
        "updates": params.updates,
        "evaluations": evaluations,
    }
    return found, round(seconds, 2)
