"""Train a student with one method and one seed: alone, or with what the teacher knows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.cifar.networks import NETWORKS
from kt.cifar.training import Losses, accuracy
from kt.compress.distillation import logit_loss
from kt.compress.factor_transfer import FactorTranslator, Paraphraser, factor_loss
from kt.ensemble import Compute
from stages import runtime
from stages.factor_transfer import learning, settings
from stages.params import Params


def main(params: Params, compute: Compute, cell: str) -> None:
    chosen, device = settings.load(), compute.device
    name, seed = cell.rsplit("/", 1)
    method, recipe, seed = chosen.settings[name], chosen.active.student, int(seed)
    teacher = learning.teacher(chosen, device)
    paraphraser = learning.stored(
        Paraphraser(teacher.head.in_features, chosen.paraphraser.rate).to(device),
        chosen.folder / "paraphraser",
    )
    # The same initial weights and images for every method: differences are the method's.
    student = learning.fresh(NETWORKS[recipe.network], seed, "student", device)
    learner = nn.ModuleDict({"student": student})
    if method.factor is not None:
        learner["translator"] = learning.fresh(
            lambda: FactorTranslator(student.head.in_features, paraphraser.factor_channels),
            seed,
            "translator",
            device,
        )

    def losses(images: Tensor, labels: Tensor) -> Losses:
        features, logits = student(images)
        cross_entropy = F.cross_entropy(logits.float(), labels)
        parts = {"loss": cross_entropy, "cross_entropy": cross_entropy}
        if method.logits is None and method.factor is None:
            return parts
        with torch.no_grad():
            taught, wanted = teacher(images)
        if (use := method.logits) is not None:
            parts["loss"] = logit_loss(
                logits.float(), wanted.float(), labels, use.temperature, use.share
            )
        if (use := method.factor) is not None:
            with torch.no_grad():
                factor = paraphraser.factor(taught)
            translated = learner["translator"](features)
            parts["factor"] = factor_loss(factor.float(), translated.float(), use.p)
            parts["loss"] = parts["loss"] + use.beta * parts["factor"]
        return parts

    how = chosen.training_of(recipe, seed)
    key = (recipe.network, method.model_dump(), learning.fingerprint(teacher, paraphraser))
    with learning.trained(f"{name}-{seed}", learner, losses, how, compute, *key) as history:
        reached = accuracy(student, learning.image_set("test", device))
        folder = chosen.folder / "students" / f"{name}-{seed}"
        learning.keep(folder, student, history, accuracy=reached)


if __name__ == "__main__":
    runtime.run(main, __doc__, "method/seed")
