"""Losses of knowledge distillation: a student learns from a teacher's answers or features."""

from torch import Tensor
from torch.nn import functional as F


def logit_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, share: float
) -> Tensor:
    """Cross-entropy with the labels, and divergence from the teacher's softened answers.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, Section 2. The divergence
    is multiplied by the square of the temperature, so that its gradients keep their size.

    Args:
        student: logits (B, K), to which the loss is differentiable.
        teacher: logits (B, K); no gradient passes to them.
        labels: (B,) int64.
        temperature: by which logits are divided for the divergence; positive.
        share: of the divergence, from 0 to 1; the rest is the cross-entropy's.

    Returns:
        A scalar, the mean over images.
    """
    softened = (teacher.detach() / temperature).softmax(-1)
    answers = (student / temperature).log_softmax(-1)
    divergence = F.kl_div(answers, softened, reduction="batchmean") * temperature**2
    return (1 - share) * F.cross_entropy(student, labels) + share * divergence


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error between features of the student and of the teacher.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, Equation 3, as a mean over images
    and entries instead of half the sum over entries. Where the shapes differ, a regressor that is
    trained along comes between: `student` is what it makes of the student's features.

    Args:
        student: (B, ...), to which the loss is differentiable.
        teacher: (B, ...); no gradient passes to them.
    """
    return F.mse_loss(student, teacher.detach())
