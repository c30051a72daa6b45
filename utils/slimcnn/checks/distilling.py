"""Check for the "your turn" cell of chapter 4, Distillation: soft targets."""

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
