"""Checks for the "your turn" cells of chapter 6, Quantization: post-training and training."""

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
