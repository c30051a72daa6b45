"""Checks for the "your turn" cell of chapter 2, Pruning: magnitude."""

import random
from collections.abc import Callable

from slimcnn.checks import Verdict, check


def cubic(function: Callable) -> Verdict:
    """The cubic schedule: sparsity at step t of T, from initial to final, which then stays."""

    def reference(t: int, T: int, initial: float, final: float) -> float:
        return final + (initial - final) * (1 - min(t / T, 1)) ** 3

    draw = random.Random(0)
    cases = [(0, 10, 0.0, 0.9), (10, 10, 0.0, 0.9), (25, 10, 0.0, 0.9), (5, 10, 0.5, 0.5)]
    for _ in range(20):
        cases.append((draw.randrange(30), draw.randint(1, 20), draw.random(), draw.random()))
    return check(function, reference, cases)
