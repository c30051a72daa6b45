"""Checks for the "your turn" cells of chapter 7, Deployment: files and runtimes."""

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from slimcnn.checks import Verdict, check


def folded_normalization(function: Callable) -> Verdict:
    """A first layer that takes pixels from 0 to 255 and gives what it gave for normalized ones.

    The function takes (weight, bias, mean, std): shapes (out, in, kh, kw), (out,), (in,), (in,);
    normalized is (pixels / 255 - mean) / std, and the layer pads nothing. It returns the new
    weight and bias.
    """

    def reference(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        scaled = weight / std.view(-1, 1, 1)
        return scaled / 255, bias - (scaled * mean.view(-1, 1, 1)).sum((1, 2, 3))

    generator = torch.Generator().manual_seed(0)
    cases = []
    for inputs, outputs, kernel in ((1, 1, 1), (3, 4, 3), (1, 8, 3), (2, 2, 5)):
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
        bias = torch.randn(outputs, generator=generator)
        mean = torch.rand(inputs, generator=generator)
        cases.append((weight, bias, mean, 0.2 + torch.rand(inputs, generator=generator)))
    return check(function, reference, cases)


def answers_until_even(function: Callable) -> Verdict:
    """After how many answers a runtime that starts slower has caught up.

    The function takes (first_a, each_a, first_b, each_b): milliseconds to the first answer and for
    each later one, of two runtimes. It returns the least whole number of answers, 1 or more, for
    which b has taken no more time than a in all; 0 if there is none.
    """

    def reference(first_a: float, each_a: float, first_b: float, each_b: float) -> int:
        if first_b <= first_a:
            return 1
        if each_b >= each_a:
            return 0
        return 1 + math.ceil((first_b - first_a) / (each_a - each_b))

    draw = random.Random(0)
    cases = [(10, 1, 10, 2), (10, 2, 12, 1), (10, 1, 12, 2), (10, 1, 12, 1), (5, 2, 3, 2)]
    for _ in range(40):
        cases.append(tuple(draw.randrange(1, 60) for _ in range(4)))
    return check(function, reference, cases)
