"""How good a network's answers are: accuracy, its interval, calibration, agreement.

Everything is in percent (94.0, not 0.94). Logits have the shape (N, C), labels (N,) hold
0 … C−1. Chapter 1 (Measuring: latency and accuracy) introduces each of these.
"""

import operator
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor


class Reliability(NamedTuple):
    """A reliability diagram: what the network says of its certainty, and how it does.

    Attributes:
        confidence: mean confidence in each bin, percent, float32 (bins,); NaN if empty.
        accuracy: accuracy in each bin, percent, float32 (bins,); NaN if empty.
        count: images in each bin, int64 (bins,).
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Percent of images whose largest logit is the label's (the first one, if several tie).

    Raises:
        TypeError, ValueError: shapes or types do not fit, labels are out of range, there
            are no images, or a logit is NaN.
    """
    logits, labels = _checked(logits, labels)
    return 100 * int((logits.argmax(1) == labels).sum()) / len(labels)


def per_class_accuracy(logits: Tensor, labels: Tensor, num_classes: int = 10) -> Tensor:
    """Accuracy on the images of each class (recall), percent, float32 (num_classes,).

    A class without images has NaN. Raises what `accuracy` raises, and ValueError if a
    label is `num_classes` or more.
    """
    logits, labels = _checked(logits, labels)
    if int(labels.max()) >= num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but a label is {int(labels.max())}; pass the number"
            f" of classes, here {logits.shape[1]}"
        )
    images = torch.bincount(labels, minlength=num_classes)
    correct = torch.bincount(labels[logits.argmax(1) == labels], minlength=num_classes)
    return (100 * correct.double() / images.double()).float()


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval (low, high) of an accuracy, in percent (Wilson, 1927).

    With p = correct / total, n = total and z the normal quantile of (1 + confidence) / 2:

        (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n).

    Unlike p ± z √(p(1−p)/n) it stays within 0–100 and has a width at p = 0 and p = 1. It
    tells what another test set of this size could give, not what another training would.

    Raises:
        TypeError: the counts are not whole numbers.
        ValueError: not 0 ≤ correct ≤ total, total is 0, or not 0 < confidence < 1.
    """
    try:
        correct, total = operator.index(correct), operator.index(total)
    except TypeError:
        raise TypeError(
            f"correct is {correct!r} and total is {total!r}; both must be counts of images"
        ) from None
    if not 0 <= correct <= total or total == 0:
        raise ValueError(
            f"{correct} correct of {total}; allowed are 0 to total, with a total of 1 or more"
        )
    check_confidence(confidence)
    p, z2 = correct / total, NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    center = p + z2 / (2 * total)
    half = (z2 * (p * (1 - p) / total + z2 / (4 * total**2))) ** 0.5
    scale = 100 / (1 + z2 / total)
    # At the edges the formula gives exactly 0 and 100, up to rounding.
    low = 0.0 if correct == 0 else scale * (center - half)
    high = 100.0 if correct == total else scale * (center + half)
    return low, high


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """Confidence and accuracy in bins of equal width over the confidence.

    The confidence is the largest softmax probability. Bin i = 1 … B holds the images with
    (i − 1)/B < confidence ≤ i/B: closed on the right.

    Raises:
        TypeError, ValueError: as `accuracy`; also if a logit is +∞ or `bins` is not positive.
    """
    confidence, correct, count = _bins(logits, labels, bins)
    return Reliability(
        (100 * confidence / count).float(), (100 * correct / count).float(), count.long()
    )


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, in percent (Guo et al., 2017, 1706.04599).

        ECE = Σ over bins of (n_bin / N) · |accuracy(bin) − confidence(bin)|,

    with the bins of `reliability`, which also says what is raised. 0 is calibrated.
    """
    confidence, correct, count = _bins(logits, labels, bins)
    return float(100 * (correct - confidence).abs().sum() / count.sum())


def agreement(logits_a: Tensor, logits_b: Tensor) -> float:
    """Percent of images that two networks put into the same class, right or wrong.

    Raises:
        TypeError, ValueError: the logits are not two (N, C) tensors of one shape, there are
            no images, or a logit is NaN.
    """
    _check_logits(logits_a)
    _check_logits(logits_b)
    if logits_a.shape != logits_b.shape:
        raise ValueError(
            f"logits have the shapes {tuple(logits_a.shape)} and {tuple(logits_b.shape)}; both"
            " networks must answer the same images with the same classes"
        )
    same = logits_a.detach().cpu().argmax(1) == logits_b.detach().cpu().argmax(1)
    return 100 * int(same.sum()) / len(same)


def check_confidence(confidence: float) -> None:
    """Raise ValueError unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1, like 0.95")


def _bins(logits: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each bin: the sum of confidences, the number correct, the number of images."""
    logits, labels = _checked(logits, labels)
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be 1 or more")
    if bool(torch.isposinf(logits).any()):
        raise ValueError("a logit is +inf, which has no softmax; compute them in float32")
    confidence, answer = logits.double().softmax(1).max(1)
    inner_edges = torch.arange(1, bins, dtype=torch.float64) / bins
    index = torch.bucketize(confidence, inner_edges)  # edge[i-1] < confidence <= edge[i]
    sums = torch.zeros(3, bins, dtype=torch.float64)
    for row, value in zip(
        sums, (confidence, (answer == labels).double(), torch.ones_like(confidence)), strict=True
    ):
        row.index_add_(0, index, value)
    return sums[0], sums[1], sums[2]


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the CPU, without gradients, after all checks."""
    _check_logits(logits)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels are {given}; a tensor of whole numbers is needed")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels have the shape {tuple(labels.shape)}, logits {tuple(logits.shape)}; there"
            " must be one label for each row of logits, shape (N,)"
        )
    logits, labels = logits.detach().cpu(), labels.detach().cpu().long()
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(
            f"labels go from {low} to {high}; with {logits.shape[1]} logits an image they must"
            f" be 0 to {logits.shape[1] - 1}"
        )
    return logits, labels


def _check_logits(logits: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.is_complex() or logits.dtype == torch.bool:
        given = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits are {given}; a tensor of real numbers is needed")
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(
            f"logits have the shape {tuple(logits.shape)}; (images, classes) is needed, with at"
            " least one of each"
        )
    if bad := int(logits.isnan().any(1).sum()):
        raise ValueError(
            f"logits are NaN for {bad} of {len(logits)} images, which have no largest logit: the"
            " network has diverged or its input is broken"
        )
