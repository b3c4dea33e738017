"""Bring the networks and their images into data/networks/<scale>/."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from kt.ensemble import Compute
from kt.images import ImageSet, load_images
from kt.images.root import data_root
from kt.real import files
from kt.real.images import varied
from kt.run.errors import KTError
from kt.run.files import save_tensors
from stages.common.base import runtime
from stages.common.base.params import Params
from stages.networks import settings
from stages.networks.resnet import pixels, published


def main(params: Params, compute: Compute) -> None:
    chosen = settings.load()
    train, test = load_images(chosen.active.images, Path("data"))
    if train.images.dim() == 3:  # of one colour
        train, test = (ImageSet(s.images[:, None], s.labels) for s in (train, test))
    for name in chosen.networks:
        wanted = chosen.active.networks[name]
        if wanted.training is None:
            if (root := data_root()) is None:
                raise KTError(
                    f"{name} is a published network: set KT_DATA_ROOT to the folder that holds "
                    f"models/cifar10_resnet{wanted.depth}.safetensors"
                )
            network = published(wanted.depth, root / "models")
        else:
            network = _trained(train, wanted, params.seed)
        files.save(network, chosen.data / f"{name}.safetensors")
    draw = torch.Generator().manual_seed(params.seed)  # sets may be sorted by class
    pool = torch.randperm(len(train), generator=draw)
    pool = pool[: len(chosen.seeds) * chosen.active.unlabelled]
    tensors = {
        "unlabelled": train.images[pool],
        "test.images": test.images,
        "test.labels": test.labels,
    }
    save_tensors(chosen.data / "images.safetensors", tensors)


def _trained(train: ImageSet, wanted: settings.Network, seed: int) -> nn.Module:
    """A network trained with labels, on images shifted (and not mirrored, since digits change)."""
    torch.manual_seed(seed)
    network, training = wanted.fresh(), wanted.training
    draw = torch.Generator().manual_seed(seed)
    steps = training.epochs * (len(train) // 64)
    optimizer = torch.optim.SGD(
        network.parameters(), training.lr, 0.9, weight_decay=5e-4, nesterov=True
    )
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.lr, total_steps=steps)
    images = pixels(train.images)
    for _ in range(training.epochs):
        order = torch.randperm(len(train), generator=draw)
        for at in range(0, len(train) - 63, 64):
            index = order[at : at + 64]
            loss = F.cross_entropy(network(varied(images[index], draw, False)), train.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    return network.eval()


if __name__ == "__main__":
    runtime.run(main, __doc__)
