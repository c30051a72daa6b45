"""Checks for the "your turn" cell of chapter 2, Pruning: structured."""

import random
from collections.abc import Callable

from slimcnn.checks import Verdict, check


def chain_macs(function: Callable) -> Verdict:
    """MACs of a chain of convolutions after pruning.

    The function takes (macs, kept): the MACs of each layer before, and the share of output
    channels that each layer keeps. The input of the first layer is whole.
    """

    def reference(macs: list[int], kept: list[float]) -> float:
        total, inputs = 0.0, 1.0
        for layer, outputs in zip(macs, kept, strict=True):
            total += layer * inputs * outputs
            inputs = outputs
        return total

    draw = random.Random(0)
    cases = [([100], [0.5]), ([100, 100], [0.5, 1.0]), ([100, 100, 50], [1.0, 1.0, 1.0])]
    for _ in range(20):
        size = draw.randint(1, 8)
        macs = [draw.randint(1, 10_000) for _ in range(size)]
        cases.append((macs, [draw.randint(1, 8) / 8 for _ in range(size)]))
    return check(function, reference, cases)
