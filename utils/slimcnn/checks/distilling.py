"""Checks for the "your turn" cells of chapter 4, Distillation."""

from collections.abc import Callable

import torch
from torch import Tensor

from slimcnn.checks import Verdict, check


def soft_gradient(function: Callable) -> Verdict:
    """The gradient of the soft-target loss, T² included, with respect to the student's logits.

    The function takes (student logits, teacher logits, temperature), shapes (B, K).
    """

    def reference(z_s: Tensor, z_t: Tensor, temperature: float) -> Tensor:
        difference = (z_s / temperature).softmax(1) - (z_t / temperature).softmax(1)
        return temperature * difference / len(z_s)

    draw = torch.Generator().manual_seed(0)
    cases = []
    for batch, classes, temperature in ((1, 2, 1.0), (4, 10, 4.0), (3, 5, 0.5), (8, 3, 20.0)):
        z_s, z_t = (3 * torch.randn(batch, classes, generator=draw) for _ in range(2))
        cases.append((z_s, z_t, temperature))
    return check(function, reference, cases, atol=1e-6)


def attention_map(function: Callable) -> Verdict:
    """Mean of squares over channels, as rows of length one: (B, C, H, W) → (B, H·W)."""

    def reference(features: Tensor) -> Tensor:
        energy = features.square().mean(1).flatten(1)
        return energy / energy.norm(dim=1, keepdim=True)

    draw = torch.Generator().manual_seed(0)
    shapes = ((1, 1, 1, 1), (1, 3, 2, 2), (4, 8, 5, 7), (2, 1, 3, 1))
    cases = [(torch.randn(shape, generator=draw),) for shape in shapes]
    return check(function, reference, cases, atol=1e-6)
