"""Training a network with labels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kt.real.images import varied

BATCH = 64
GAIN = 0.5
"""A cycle of training that brings fewer points on held-out images ends it."""


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    lr: float,
    draw: torch.Generator,
    after: Callable[[int], None] = lambda epoch: None,
) -> None:
    """SGD with momentum, one cycle of the learning rate, images shifted: in place.

    Half of the images are mirrored as well if they are in colours: digits would change.

    Args:
        images: as the network reads them, (N, colours, height, width). labels: (N,)
        lr: the highest.
        after: called after each epoch, counted from 1.
    """
    steps, mirror = epochs * (len(images) // BATCH), images.shape[1] == 3
    optimizer = torch.optim.SGD(network.parameters(), lr, 0.9, weight_decay=5e-4, nesterov=True)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for epoch in range(1, epochs + 1):
        network.train()
        order = torch.randperm(len(images), generator=draw)
        for at in range(0, len(images) - BATCH + 1, BATCH):
            index = order[at : at + BATCH].to(labels.device)
            some = varied(images[index], draw, mirror).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(network(some), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
        network.eval()
        after(epoch)


def until_converged(
    cycle: Callable[[int], None], epochs: int, held_out: Callable[[], float]
) -> int:
    """Cycles of training, each twice as long as the one before, until one brings little.

    Args:
        cycle: trains a network for so many epochs.
        epochs: of the first cycle.
        held_out: measures the network's accuracy on other images.

    Returns:
        The epochs trained.
    """
    done, before = 0, held_out()
    while True:
        cycle(epochs)
        done, epochs = done + epochs, 2 * epochs
        if (now := held_out()) < before + GAIN:
            return done
        before = now
