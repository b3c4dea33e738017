"""Re-training against plain loops, autograd through plain modules, and a teacher that stays."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kt.ensemble import Probe, Recipe
from kt.images import pixels, training_batches
from kt.networks.blocks import initial_weights
from kt.networks.weights import part
from kt.rivals import retraining
from kt.rivals.distillation import logit_loss
from kt.rivals.factor_transfer import FactorTranslator, Paraphraser
from kt.rivals.retraining import Retraining, answers
from kt.run import seeds
from tests.conftest import trained_networks
from tests.rounding import NETWORK, POSITIONS, assert_near, assert_trained_alike
from tests.test_ensemble import assembled

COUNT = 3
METHODS = ("cross_entropy", "logits", "fitnets", "transferred_factors")


@pytest.fixture
def networks(images):
    return trained_networks(images, COUNT)


def fresh(kind="conv"):
    return initial_weights(kind, range(10, 10 + COUNT))


def batches(images, steps, seed, phase="blocks"):
    draw = seeds.generator(seed, "re-training", phase)
    for index in torch.randint(len(images), (steps, retraining.BATCH), generator=draw):
        yield pixels(images.images[index]), images.labels[index]


def plain_loop(module, steps, batches, loss):
    """Adam on a module, its rate falling to zero."""
    optimizer = torch.optim.Adam(module.parameters(), retraining.RATE)
    for step, (x, labels) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = retraining.RATE * (1 - step / steps)
        optimizer.zero_grad()
        loss(x, labels).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["conv", "mlp"])
@pytest.mark.parametrize("method", ["cross_entropy", "logits", "fitnets"])
def test_it_is_the_plain_loop_for_each_network(method, kind, networks, images):
    steps, start = 6, fresh(kind)
    trained = getattr(retraining, method)(Retraining(kind, networks, images, steps, 4), start)
    i = 1
    student = assembled(kind, networks, start, i)
    teacher = assembled("large", networks, part(networks, "large"), i).requires_grad_(False)

    def on_labels(x, labels):
        return F.cross_entropy(student(x), labels)

    def on_answers(x, labels):
        return logit_loss(student(x), teacher(x), labels, 4.0, 0.9)

    def on_hints(x, labels):
        h = student.former(x)
        return F.mse_loss(student.block(h), teacher.block(h))

    if method == "cross_entropy":
        plain_loop(student.block, steps, batches(images, steps, 4), on_labels)
    elif method == "logits":
        plain_loop(student.block, steps, batches(images, steps, 4), on_answers)
    else:
        plain_loop(student.block, 3, batches(images, 3, 4, "hints"), on_hints)
        plain_loop(student.block, 3, batches(images, 3, 4), on_answers)
    for name, tensor in student.block.state_dict().items():
        assert_trained_alike(trained[name][i], tensor, start[name][i], retraining.BATCH)


def test_on_step_2s_budget_it_is_the_plain_loop_over_the_same_stream(networks, images):
    start, recipe, i = fresh(), Recipe(2, 32, 0.1), 1
    trained = retraining.on_budget("conv", networks, images, start, 4, recipe, retraining.RATE)
    student = assembled("conv", networks, start, i)
    stream = list(training_batches(images, 32, 2, True, 4))
    assert len(stream) == 6  # the last of a pass is smaller
    plain_loop(student.block, 6, stream, lambda x, labels: F.cross_entropy(student(x), labels))
    for name, tensor in student.block.state_dict().items():
        assert_trained_alike(trained[name][i], tensor, start[name][i], recipe.batch_size)


def test_factor_transfer_is_the_plain_loop_with_paraphraser_and_translator(networks, images):
    steps, start, i = 6, fresh(), 1
    trained = retraining.transferred_factors(Retraining("conv", networks, images, steps, 4), start)
    student = assembled("conv", networks, start, i)
    teacher = assembled("large", networks, part(networks, "large"), i).requires_grad_(False)
    torch.manual_seed(seeds.derive(4, "paraphraser", i))
    paraphraser = Paraphraser(6)
    torch.manual_seed(seeds.derive(4, "translator", i))
    translator = FactorTranslator(6, 3)

    def rebuilding(x, labels):
        maps = teacher.block(teacher.former(x))
        return F.l1_loss(paraphraser(maps), maps)

    def transfer(x, labels):
        h = student.former(x)
        factors = translator(student.block(h)), paraphraser.factor(teacher.block(h)).detach()
        a, b = (F.normalize(f.flatten(1)) for f in factors)
        return F.cross_entropy(student(x), labels) + 500 * F.l1_loss(a, b)

    plain_loop(paraphraser, 3, batches(images, 3, 4, "paraphraser"), rebuilding)
    both = nn.ModuleList([student.block, translator])
    plain_loop(both, steps, batches(images, steps, 4), transfer)
    for name, tensor in student.block.state_dict().items():
        assert_trained_alike(trained[name][i], tensor, start[name][i], retraining.BATCH)


@pytest.mark.parametrize("kind", ["conv", "conv_bias", "attention"])
def test_answers_have_the_gradient_of_the_plain_module(kind, networks, images):
    x, block = pixels(images.images[:9]), fresh(kind)
    learned = {name: tensor.clone().requires_grad_() for name, tensor in block.items()}
    wanted = torch.randn(COUNT, 9, 10, generator=torch.Generator().manual_seed(2))

    def loss(logits, wanted):  # of softmax, and not a cross-entropy
        return (logits.softmax(-1) * wanted).square().sum()

    found = answers(kind, learned, Probe(kind, networks, x))
    loss(found, wanted).backward()
    for i in range(COUNT):
        plain = assembled(kind, networks, block, i)
        logits = plain(x)
        loss(logits, wanted[i]).backward()
        assert_near(found[i], logits, NETWORK)
        for name, parameter in plain.block.named_parameters():
            assert_near(learned[name].grad[i], parameter.grad, 9 * POSITIONS, gates=9 * POSITIONS)


@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_and_the_frozen_blocks_stay_as_they_are(method, networks, images):
    start = fresh()
    before = {name: tensor.clone() for name, tensor in (networks | start).items()}
    trained = getattr(retraining, method)(Retraining("conv", networks, images, 4, 1), start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in (networks | start).items())
    assert trained.keys() == start.keys()
    for name, tensor in trained.items():
        assert tensor.shape == start[name].shape and not tensor.requires_grad
        assert not torch.equal(tensor, start[name])


@pytest.mark.parametrize("method", METHODS)
def test_a_network_is_trained_alike_whatever_is_beside_it(method, networks, images):
    start, train = fresh(), getattr(retraining, method)
    together = train(Retraining("conv", networks, images, 4, 1), start)
    first = [{name: tensor[:1] for name, tensor in w.items()} for w in (networks, start)]
    alone = train(Retraining("conv", first[0], images, 4, 1), first[1])
    again = train(Retraining("conv", networks, images, 4, 1), start)
    other = train(Retraining("conv", networks, images, 4, 2), start)
    for name, tensor in together.items():
        assert_trained_alike(alone[name][0], tensor[0], start[name][0], retraining.BATCH)
        assert torch.equal(again[name], tensor) and not torch.equal(other[name], tensor)
