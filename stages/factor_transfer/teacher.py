"""Train the teacher on CIFAR-10."""

from torch import Tensor
from torch.nn import functional as F

from kt.ensemble import Compute
from kt.networks.residual import NETWORKS
from kt.rivals.classifier import Losses, accuracy
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.factor_transfer import learning, settings


def main(params: Params, compute: Compute) -> None:
    chosen = settings.load()
    recipe = chosen.active.teacher
    network = learning.fresh(NETWORKS[recipe.network], chosen.seed, "teacher", compute.device)

    def losses(images: Tensor, labels: Tensor) -> Losses:
        _, logits = network(images)
        return {"loss": F.cross_entropy(logits.float(), labels)}

    task = learning.Task(network, losses, chosen.training_of(recipe, chosen.seed))
    with learning.trained("teacher", [task], compute, recipe.network) as (history,):
        reached = accuracy(network, learning.image_set("test", compute.device))
        learning.keep(chosen.folder / "teacher", network, history, accuracy=reached)


if __name__ == "__main__":
    runtime.run(main, __doc__)
