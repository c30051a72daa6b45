"""Losses on logits: soft targets with a temperature, mixed with labels, and decoupled.

All are means over the batch. They are computed in float64 (float32 where the device has no
other), since at a high temperature both distributions are almost uniform, and what is left of
their difference is multiplied by T². Chapter 4 (Distillation: soft targets) derives them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# (student logits, teacher logits, labels) → loss, a scalar.
LogitLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
_COLDEST, _HOTTEST = 1e-100, 1e100  # their squares are still numbers


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) between the softmaxes of logits / T, mean over the batch.

    Its gradient is T · (student − teacher) / B in probabilities at temperature T: about
    (z − v) / (C·B) for centered logits z, v and a large T, so that T² keeps its size whatever
    T is. Hinton et al., 2015, arXiv:1503.02531; chapter 4, Distillation: soft targets.

    Args:
        student_logits, teacher_logits: shape (B, C), any floating type.
        temperature: T, above 0; 1 compares the probabilities as they are.

    Returns:
        A scalar, float32 or, for float64 logits, float64; 0 if both softmaxes are equal.

    Raises:
        TypeError, ValueError: shapes differ (another number of classes), T is not above 0, or
            gradients would flow into the teacher.
    """
    _check_logits(student_logits, teacher_logits)
    _check_temperature(temperature)
    teacher, student = _precise(teacher_logits), _precise(student_logits)
    loss = temperature**2 * _divergence(teacher / temperature, student / temperature).mean()
    return loss.to(result_type(student_logits))


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    temperature: float = 4.0,
    alpha: float = 0.9,
    label_smoothing: float = 0.0,
) -> Tensor:
    """α · `soft_target_loss` + (1 − α) · cross-entropy with the labels.

    Args:
        student_logits, teacher_logits, temperature: as in `soft_target_loss`.
        labels: int64, shape (B,); None for images without labels, which needs α = 1.
        alpha: share of the teacher, 0 to 1; 0 is the usual training.
        label_smoothing: of the cross-entropy, from 0 to below 1.

    Raises:
        TypeError, ValueError: as `soft_target_loss`; α is not in [0, 1]; labels are missing.

    Hinton et al., 2015, arXiv:1503.02531; chapter 4, Distillation: soft targets.
    """
    _check_share(alpha)
    soft = soft_target_loss(student_logits, teacher_logits, temperature)
    if labels is None:
        if alpha < 1:
            raise ValueError(f"there are no labels, and alpha is {alpha}; without labels it is 1")
        return soft
    hard = F.cross_entropy(_precise(student_logits), labels, label_smoothing=label_smoothing)
    return alpha * soft + (1 - alpha) * hard.to(soft.dtype)


def decoupled_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """T² · (α · target-class part + β · other-classes part) of the soft-target loss.

    The divergence splits in two: KL = TCKD + (1 − p) · NCKD, where TCKD compares "the labelled
    class or another", NCKD the distributions over the others, and p is what the teacher gives
    the labelled class. A sure teacher (p near 1) thereby silences what it knows of the others;
    weights of their own undo that. Zhao et al., 2022, arXiv:2203.08679; chapter 4,
    Distillation: features.

    Args:
        student_logits, teacher_logits, temperature: as in `soft_target_loss`; at least 2 classes.
        labels: int64, shape (B,).
        alpha, beta: weights of the two parts, 0 or more.

    Raises:
        TypeError, ValueError: as `soft_target_loss`; a weight is negative; a single class.
    """
    _check_logits(student_logits, teacher_logits)
    _check_temperature(temperature)
    _check_weights(alpha, beta)
    if student_logits.shape[1] < 2:
        raise ValueError("there is a single class; the decoupled loss needs at least 2")
    teacher = _precise(teacher_logits) / temperature
    student = _precise(student_logits) / temperature
    target = _divergence(_target_or_not(teacher, labels), _target_or_not(student, labels))
    others = _divergence(_without_target(teacher, labels), _without_target(student, labels))
    loss = temperature**2 * (alpha * target + beta * others).mean()
    return loss.to(result_type(student_logits))


@dataclass(frozen=True)
class SoftTargets:
    """`distillation_loss` with its numbers filled in, as `distill` takes it.

    Attributes:
        temperature: T, above 0.
        alpha: share of the teacher, 0 to 1.
        label_smoothing: of the cross-entropy with the labels, from 0 to below 1.
    """

    temperature: float = 4.0
    alpha: float = 0.9
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        _check_share(self.alpha)
        _check_smoothing(self.label_smoothing)

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch."""
        return distillation_loss(
            student_logits,
            teacher_logits,
            labels,
            self.temperature,
            self.alpha,
            self.label_smoothing,
        )


@dataclass(frozen=True)
class Decoupled:
    """`decoupled_loss` plus cross-entropy with the labels, as `distill` takes it.

    Attributes:
        temperature: T, above 0.
        alpha, beta: weights of the target-class and the other-classes part, 0 or more.
        label_smoothing: of the cross-entropy with the labels, from 0 to below 1.
    """

    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        _check_weights(self.alpha, self.beta)
        _check_smoothing(self.label_smoothing)

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch."""
        soft = decoupled_loss(
            student_logits, teacher_logits, labels, self.temperature, self.alpha, self.beta
        )
        hard = F.cross_entropy(
            _precise(student_logits), labels, label_smoothing=self.label_smoothing
        )
        return soft + hard.to(soft.dtype)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)), one value a row, precise for near-equal rows.

    With d = student − teacher and c = d − E[d] under the teacher's p, the divergence is
    log E[eᶜ]. Where every c is small that is log(1 + E[eᶜ − 1 − c]): a sum of small terms, while
    the difference of two logarithms would leave rounding errors alone. (And where c is tiny,
    eᶜ − 1 − c is c²/2 + c³/6.) A class of which the teacher is certain that it is not it, p = 0,
    adds nothing to E[d].
    """
    p = teacher.softmax(1)
    possible = p > 0
    # An infinite distance (float16 can hold it) has no gradient; neither has its formula here.
    difference = torch.where(possible, student - teacher, 0.0)
    mean = (p * difference).sum(1, keepdim=True)
    large = (student - teacher.logsumexp(1, keepdim=True) - mean).logsumexp(1)
    centered = difference - mean
    bounded = centered.clamp(max=1.0)  # so that the branch not taken has no infinite gradient
    series = bounded.square() * (0.5 + bounded / 6)
    small = torch.where(bounded.abs() < 1e-4, series, bounded.expm1() - bounded)
    small = (p * small).sum(1).log1p()
    return torch.where((centered.amax(1) <= 1.0) & possible.all(1), small, large)


def _target_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits of two classes: the labelled one, and all others together. (B, C) → (B, 2)."""
    target = logits.gather(1, labels[:, None])
    return torch.cat([target, _without_target(logits, labels).logsumexp(1, keepdim=True)], 1)


def _without_target(logits: Tensor, labels: Tensor) -> Tensor:
    """The other classes' logits, in order. (B, C) → (B, C − 1)."""
    batch, classes = logits.shape
    others = torch.arange(classes, device=logits.device) != labels[:, None]
    return logits[others].reshape(batch, classes - 1)


def _precise(logits: Tensor) -> Tensor:
    return logits.float() if logits.device.type == "mps" else logits.double()


def result_type(logits: Tensor) -> torch.dtype:
    """Float32, or float64 for float64."""
    return torch.promote_types(logits.dtype, torch.float32)


def _check_logits(student: Tensor, teacher: Tensor) -> None:
    for name, logits in (("student", student), ("teacher", teacher)):
        if not logits.is_floating_point():
            raise TypeError(f"the {name}'s logits are {logits.dtype}; floating point is needed")
        if logits.ndim != 2 or 0 in logits.shape:
            raise ValueError(
                f"the {name}'s logits have shape {tuple(logits.shape)}; (batch, classes) is needed"
            )
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"the student has {student.shape[1]} classes and the teacher {teacher.shape[1]}; both"
            " must answer with the same classes, in the same order"
        )
    if len(student) != len(teacher):
        raise ValueError(
            f"the student answered to {len(student)} images and the teacher to {len(teacher)}"
        )
    if teacher.requires_grad:
        raise ValueError(
            "the teacher's logits carry gradients, so it would be trained, too; compute them under"
            " torch.no_grad(), or detach() them"
        )


def _check_temperature(temperature: float) -> None:
    if not _COLDEST <= temperature <= _HOTTEST:
        raise ValueError(
            f"temperature is {temperature}; it must be above 0 and finite, here from {_COLDEST} to"
            f" {_HOTTEST}"
        )


def _check_weights(alpha: float, beta: float) -> None:
    for name, weight in (("alpha", alpha), ("beta", beta)):
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{name} is {weight}; it must be 0 or more")


def _check_share(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must be from 0 to 1")


def _check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be from 0 to below 1")
