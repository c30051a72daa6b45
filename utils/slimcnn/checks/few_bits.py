"""Checks for the "your turn" cells of chapter 6, Quantization: post-training and training."""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from slimcnn.checks import Verdict, check


def even_scales(function: Callable) -> Verdict:
    """The scales that bring the ranges of two linear layers together.

    The function takes (first, second): weights of shapes (hidden, in) and (out, hidden). It
    returns the scales s, shape (hidden,): channel i of the first weight divided by s_i and of the
    second multiplied by it have the same largest absolute weight.
    """

    def reference(first: Tensor, second: Tensor) -> Tensor:
        return (first.abs().amax(1) / second.abs().amax(0)).sqrt()

    generator = torch.Generator().manual_seed(0)
    cases = []
    for inputs, hidden, outputs in ((3, 4, 2), (1, 1, 1), (5, 7, 7), (8, 2, 3), (2, 6, 1)):
        first = torch.randn(hidden, inputs, generator=generator)
        second = 3 * torch.randn(outputs, hidden, generator=generator)
        cases.append((first, second))
    return check(function, reference, cases)


def step_gradient(function: Callable) -> Verdict:
    """The derivative of a rounded number by the step, rounding straight through (LSQ).

    The function takes (x, step, low, high): a number, the step, the smallest and the largest
    integer. It returns d(step · round(clamp(x / step, low, high))) / d(step).
    """

    def reference(x: float, step: float, low: int, high: int) -> float:
        steps = x / step
        if steps <= low or steps >= high:
            return float(low if steps <= low else high)
        return round(steps) - steps

    draw = random.Random(0)
    cases = [(0.1, 0.4, -4, 3), (9.0, 0.4, -4, 3), (-9.0, 0.4, -4, 3), (0.7, 1.0, 0, 3)]
    for _ in range(40):
        cases.append((draw.uniform(-2, 2), draw.uniform(0.1, 0.9), -draw.randrange(5), 3))
    return check(function, reference, cases)
