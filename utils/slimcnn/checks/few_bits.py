"""Checks for the "your turn" cells of chapter 6, Quantization: post-training and training."""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from slimcnn.checks import Verdict, check


def corrected_bias(function: Callable) -> Verdict:
    """The bias with which a rounded linear layer has the mean outputs of the original.

    The function takes (weight, bias, rounded, inputs): shapes (out, in), (out,), (out, in) and
    (images, in). It returns the new bias, shape (out,).
    """

    def reference(weight: Tensor, bias: Tensor, rounded: Tensor, inputs: Tensor) -> Tensor:
        return bias - inputs.mean(0) @ (rounded - weight).T

    generator = torch.Generator().manual_seed(0)
    cases = []
    for images, inputs, outputs in ((8, 3, 4), (1, 1, 1), (5, 7, 7), (20, 8, 2)):
        weight = torch.randn(outputs, inputs, generator=generator)
        bias = torch.randn(outputs, generator=generator)
        x = torch.rand(images, inputs, generator=generator)
        cases.append((weight, bias, weight.round(), x))
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
