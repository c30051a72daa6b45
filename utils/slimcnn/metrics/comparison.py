"""Is one network better than another? Paired tests on the same images.

Two networks mostly fail on the same images, so their difference is known far better than
either accuracy: compare them image by image. Chapter 1 (Measuring: latency and accuracy)
introduces both tests; every later chapter uses them before it calls something a gain.
"""

import operator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slimcnn.metrics.accuracy import check_confidence


@dataclass(frozen=True)
class McNemar:
    """Images on which exactly one of two networks is right, and what they prove.

    Attributes:
        only_a: images that only network a has right.
        only_b: images that only network b has right.
        p_value: probability of a split at least this uneven if both were equally good.
    """

    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of b minus accuracy of a, in percentage points, with its interval."""

    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.difference:+.2f} points ({self.low:+.2f} to {self.high:+.2f})"


def mcnemar(correct_a: Tensor, correct_b: Tensor) -> McNemar:
    """McNemar's exact test (1947) of two networks on the same images.

    Only discordant images count: n = only_a + only_b. If the networks are equally good,
    each falls to either side with probability ½, so with k = min(only_a, only_b)

        p = min(1, 2 · Σ over i = 0 … k of C(n, i) / 2ⁿ),

    computed in whole numbers, so that no count overflows. p = 1 if n = 0.

    Args:
        correct_a: bool (N,), True where network a is right.
        correct_b: the same for network b, same images in the same order.

    Raises:
        TypeError: the tensors are not boolean.
        ValueError: the shapes differ, are not (N,), or are empty.
    """
    a, b = _checked(correct_a, correct_b, dimensions=(1,))
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_a + only_b
    term = total = 1  # C(n, 0)
    for i in range(min(only_a, only_b)):
        term = term * (n - i) // (i + 1)  # C(n, i + 1), always a whole number
        total += term
    return McNemar(only_a, only_b, min(1.0, 2 * total / 2**n))


def paired_bootstrap(
    correct_a: Tensor,
    correct_b: Tensor,
    *,
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> PairedDifference:
    """The difference in accuracy, b − a, with a bootstrap interval over images and seeds.

    With d[s, i] = correct_b[s, i] − correct_a[s, i], a resample draws S seeds and, apart
    from that, N images, both with replacement, and takes the mean of d over the drawn rows
    and columns: crossed, because all seeds are tested on the same images (the pigeonhole
    bootstrap, Owen, 2007, 0712.1111). The interval runs between the (1 ± confidence) / 2
    quantiles of these means. With shape (N,), or one seed, only images are drawn.

    Images with the same column of d are interchangeable. So it is enough to draw how often
    each *kind* of column comes up, which is multinomial: three seeds have at most 27 kinds,
    and 10,000 resamples of 10,000 images take milliseconds.

    With few seeds the interval is too narrow in its seed part: resampling S seeds shows
    (S − 1)/S of their variance, 2/3 for three.

    Args:
        correct_a: bool (S, N) or (N,), True where network a is right; row s is seed s.
        correct_b: the same for network b: same shape, same images, seeds paired by row.
        seed: decides the resampling; the same seed gives the same interval.
        resamples: how many.
        confidence: of the interval.

    Returns:
        Difference, low and high, in percentage points.

    Raises:
        TypeError: the tensors are not boolean.
        ValueError: the shapes differ, are neither (S, N) nor (N,), or are empty; `resamples`
            is not positive; not 0 < confidence < 1.
    """
    a, b = _checked(correct_a, correct_b, dimensions=(1, 2))
    check_confidence(confidence)
    if operator.index(resamples) < 1:
        raise ValueError(f"resamples is {resamples}; it must be 1 or more")
    difference = np.atleast_2d(b.numpy().astype(np.int8) - a.numpy().astype(np.int8))
    sums = _resampled_sums(difference, resamples, np.random.default_rng(seed))
    low, high = np.quantile(sums, [(1 - confidence) / 2, (1 + confidence) / 2])
    observed, low, high = (100 * float(s) / difference.size for s in (difference.sum(), low, high))
    return PairedDifference(observed, low, high)


def _resampled_sums(
    difference: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """Sums over `resamples` crossed resamples of a (S, N) matrix, int64 (resamples,).

    Whole numbers throughout, so that equal networks differ by exactly zero.
    """
    seeds, images = difference.shape
    kinds, counts = np.unique(difference, axis=1, return_counts=True)  # (S, K), (K,)
    sums = np.empty(resamples, np.int64)
    step = max(1, 2**22 // (len(counts) + seeds))  # at most 32 MB of draws at a time
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn_images = generator.multinomial(images, counts / images, size)  # (size, K)
        drawn_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size)  # (size, S)
        per_seed = drawn_images @ kinds.T.astype(np.int64)  # (size, S)
        sums[start : start + size] = (per_seed * drawn_seeds).sum(1)
    return sums


def _checked(
    correct_a: Tensor, correct_b: Tensor, dimensions: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    shape = " or ".join({1: "(images,)", 2: "(seeds, images)"}[d] for d in dimensions)
    for name, correct in (("correct_a", correct_a), ("correct_b", correct_b)):
        if not isinstance(correct, Tensor) or correct.dtype != torch.bool:
            given = correct.dtype if isinstance(correct, Tensor) else type(correct).__name__
            raise TypeError(
                f"{name} is {given}; a boolean tensor is needed: logits.argmax(1) == labels"
            )
        if correct.ndim not in dimensions or not correct.numel():
            raise ValueError(
                f"{name} has the shape {tuple(correct.shape)}; {shape} is needed, not empty"
            )
    if correct_a.shape != correct_b.shape:
        raise ValueError(
            f"correct_a has the shape {tuple(correct_a.shape)}, correct_b"
            f" {tuple(correct_b.shape)}; both networks must be tested on the same images"
        )
    return correct_a.detach().cpu(), correct_b.detach().cpu()
