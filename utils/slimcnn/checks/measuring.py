"""Checks for the "your turn" cells of chapter 1."""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from slimcnn.checks import Verdict, check


def separable_macs(function: Callable) -> Verdict:
    """MACs of a depthwise k×k convolution followed by a 1×1 convolution.

    The function takes (c_in, c_out, kernel, height, width): channels, kernel size, and the
    size of the output, which both convolutions share.
    """

    def reference(c_in: int, c_out: int, kernel: int, height: int, width: int) -> int:
        return (c_in * kernel**2 + c_in * c_out) * height * width

    draw = random.Random(0)
    cases = [(1, 1, 1, 1, 1), (32, 64, 3, 14, 14)]
    cases += [tuple(draw.randint(1, n) for n in (64, 64, 7, 28, 28)) for _ in range(20)]
    return check(function, reference, cases)


def median_and_iqr(function: Callable) -> Verdict:
    """Median and inter-quartile range of a list of times, quartiles as NumPy defines them."""

    def reference(times: list[float]) -> tuple[float, float]:
        q1, median, q3 = torch.tensor(times, dtype=torch.float64).quantile(
            torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        )
        return float(median), float(q3 - q1)

    draw = random.Random(0)
    cases = [([2.0],), ([1.0, 2.0, 3.0, 4.0, 100.0],), ([4.0, 1.0, 3.0, 2.0],)]
    cases += [([draw.expovariate(1) for _ in range(draw.randint(1, 50))],) for _ in range(20)]
    return check(function, reference, cases)


def fixed_and_broken(function: Callable) -> Verdict:
    """How many images a second network puts right, and how many it puts wrong.

    The function takes (predictions_a, predictions_b, labels), three tensors (N,), and
    returns the pair (wrong in A and right in B, right in A and wrong in B).
    """

    def reference(a: Tensor, b: Tensor, labels: Tensor) -> tuple[int, int]:
        right_a, right_b = a == labels, b == labels
        return int((~right_a & right_b).sum()), int((right_a & ~right_b).sum())

    generator = torch.Generator().manual_seed(0)
    cases = [
        tuple(torch.randint(0, classes, (count,), generator=generator) for _ in range(3))
        for count in (1, 7, 100)
        for classes in (1, 2, 3, 10)
    ]
    return check(function, reference, cases)
