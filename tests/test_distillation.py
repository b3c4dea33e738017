"""Losses of distillation against closed forms and reference modules."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from kt.rivals import distillation
from tests.rounding import assert_near


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 10, generator=draw).double()
    return student.requires_grad_(), teacher, torch.randint(10, (7,), generator=draw)


def test_logit_loss_by_hand():
    student = torch.tensor([[0.0, 0.0]])
    teacher = torch.tensor([[2 * torch.log(torch.tensor(3.0)), 0.0]])  # softened by 2: 3/4, 1/4
    ln = torch.log
    divergence = 0.75 * ln(torch.tensor(1.5)) + 0.25 * ln(torch.tensor(0.5))
    expected = 0.1 * ln(torch.tensor(2.0)) + 0.9 * 4 * divergence
    loss = distillation.logit_loss(student, teacher, torch.tensor([1]), 2, 0.9)
    assert_near(loss, expected, 16)


def test_without_a_share_of_the_teacher_it_is_cross_entropy(logits):
    student, teacher, labels = logits
    loss = distillation.logit_loss(student, teacher, labels, 4, 0)
    assert_close(loss, nn.CrossEntropyLoss()(student, labels))


def test_the_teachers_own_answers_leave_no_divergence(logits):
    student, _, labels = logits
    assert_close(
        distillation.logit_loss(student, student, labels, 4, 1), torch.zeros((), dtype=torch.double)
    )


def test_gradients_keep_their_size_at_high_temperature(logits):
    """There the divergence tends to half the mean squared error of centred logits (Section 2.1)."""
    student, teacher, labels = logits
    loss = distillation.logit_loss(student, teacher, labels, 1000, 1)
    (gradient,) = torch.autograd.grad(loss, student)
    apart = student - teacher
    expected = (apart - apart.mean(1, keepdim=True)).detach() / 10 / len(labels)
    assert_close(gradient, expected, rtol=1e-2, atol=1e-4)


def test_no_gradient_reaches_the_teacher(logits):
    student, teacher, labels = logits
    teacher.requires_grad_()
    distillation.logit_loss(student, teacher, labels, 4, 0.5).backward()
    distillation.hint_loss(student, teacher).backward()
    assert teacher.grad is None and student.grad is not None


def test_hint_loss_is_the_mean_squared_error():
    student, teacher = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 3.0)
    assert distillation.hint_loss(student, teacher) == 9
    assert_close(distillation.hint_loss(teacher, student), F.mse_loss(teacher, student))
