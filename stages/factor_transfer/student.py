"""Train a method's students, one for each seed: alone, or with the teacher's help."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.ensemble import Compute
from kt.networks.residual import NETWORKS, channels
from kt.rivals.classifier import Losses, accuracy
from kt.rivals.distillation import logit_loss
from kt.rivals.factor_transfer import FactorTranslator, Paraphraser, factor_loss
from kt.run.errors import KTError
from stages.common.base import runtime
from stages.common.base.checks import none_of
from stages.common.base.params import Params
from stages.factor_transfer import learning, settings
from stages.factor_transfer.learning import Task
from stages.factor_transfer.settings import Method, Settings


def main(params: Params, compute: Compute, name: str) -> None:
    chosen, device = settings.load(), compute.device
    if name not in chosen.methods:
        raise KTError(none_of("method", name, chosen.methods))
    method = chosen.settings[name]
    teacher = learning.teacher(chosen, device)
    paraphraser = learning.stored(
        Paraphraser(channels(teacher), chosen.paraphraser.rate).to(device),
        chosen.folder / "paraphraser",
    )
    tasks = [task(chosen, method, seed, teacher, paraphraser, device) for seed in chosen.seeds]
    known = learning.fingerprint(teacher, paraphraser)
    key = (chosen.active.student.network, method.model_dump(), known)
    with learning.trained(name, tasks, compute, *key) as histories:
        test = learning.image_set("test", device)
        for seed, trained, history in zip(chosen.seeds, tasks, histories, strict=True):
            student = trained.learner.get_submodule("student")
            folder = chosen.folder / "students" / name / str(seed)
            learning.keep(folder, student, history, accuracy=accuracy(student, test))


def task(
    chosen: Settings,
    method: Method,
    seed: int,
    teacher: nn.Module,
    paraphraser: Paraphraser,
    device: torch.device,
) -> Task:
    """A student, and what it learns from, ready to be trained.

    All methods start from the same weights and see the same images, so only the method differs.
    """
    recipe = chosen.active.student
    student = learning.fresh(NETWORKS[recipe.network], seed, "student", device)
    learner = nn.ModuleDict({"student": student})
    if method.factor is not None:
        learner["translator"] = learning.fresh(
            lambda: FactorTranslator(channels(student), paraphraser.factor_channels),
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
        if (compared := method.factor) is not None:
            with torch.no_grad():
                factor = paraphraser.factor(taught)
            translated = learner["translator"](features)
            parts["factor"] = factor_loss(factor.float(), translated.float(), compared.p)
            parts["loss"] = parts["loss"] + compared.beta * parts["factor"]
        return parts

    return Task(learner, losses, chosen.training_of(recipe, seed))


if __name__ == "__main__":
    runtime.run(main, __doc__, "method")
