"""Train the paraphraser to rebuild the teacher's features, without labels."""

import torch
from torch import Tensor

from kt.ensemble import Compute
from kt.networks.residual import channels
from kt.rivals.classifier import Losses
from kt.rivals.factor_transfer import Paraphraser, reconstruction_loss
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.factor_transfer import learning, settings


def main(params: Params, compute: Compute) -> None:
    chosen = settings.load()
    recipe, options = chosen.active.paraphraser, chosen.paraphraser
    teacher = learning.teacher(chosen, compute.device)
    paraphraser = learning.fresh(
        lambda: Paraphraser(channels(teacher), options.rate),
        chosen.seed,
        "paraphraser",
        compute.device,
    )

    def losses(images: Tensor, labels: Tensor) -> Losses:
        with torch.no_grad():
            features, _ = teacher(images)
        rebuilt = paraphraser(features)
        return {"loss": reconstruction_loss(rebuilt.float(), features.float(), options.p)}

    task = learning.Task(paraphraser, losses, chosen.training_of(recipe, chosen.seed))
    key = (options.model_dump(), learning.fingerprint(teacher))
    with learning.trained("paraphraser", [task], compute, *key) as (history,):
        learning.keep(chosen.folder / "paraphraser", paraphraser, history)


if __name__ == "__main__":
    runtime.run(main, __doc__)
