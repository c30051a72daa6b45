"""Checks for the "your turn" cell of chapter 3, Sparsity: patterns."""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from slimcnn.checks import Verdict, check


def kernel_mask(function: Callable) -> Verdict:
    """Whole kernels of a convolution stay or go.

    The function takes (scores, sparsity), scores (O, I, kh, kw); it returns a mask of that
    shape, with `round(sparsity · O · I)` kernels of the lowest sums gone.
    """

    def reference(scores: Tensor, sparsity: float) -> Tensor:
        sums = scores.sum((2, 3)).flatten()
        stays = torch.ones(len(sums), dtype=torch.bool)
        stays[sums.argsort(stable=True)[: round(sparsity * len(sums))]] = False
        return stays.view(*scores.shape[:2], 1, 1).expand(scores.shape)

    draw, generator = random.Random(0), torch.Generator().manual_seed(0)
    cases = []
    for sparsity in (0.0, 1.0, 0.5, *(draw.random() for _ in range(15))):
        shape = [draw.randint(1, 6) for _ in range(4)]
        cases.append((torch.rand(shape, generator=generator), sparsity))
    return check(function, reference, cases)
