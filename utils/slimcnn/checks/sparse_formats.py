"""Checks for the "your turn" cell of chapter 3, Sparsity: formats."""

import random
from collections.abc import Callable

from slimcnn.checks import Verdict, check


def from_pairs(function: Callable) -> Verdict:
    """Decode a relative index.

    The function takes (pairs, length): a list of (zeros before it, value), fillers included,
    and how many numbers the tensor has. It returns them as a list.
    """

    def reference(pairs: list[tuple[int, float]], length: int) -> list[float]:
        numbers: list[float] = []
        for gap, value in pairs:
            numbers += [0.0] * gap + [value]
        return numbers + [0.0] * (length - len(numbers))

    draw = random.Random(0)
    cases: list[tuple[list, int]] = [([], 3), ([(0, 1.0)], 1), ([(3, 0.0), (1, 2.0)], 8)]
    for _ in range(20):
        pairs = [(draw.randrange(4), draw.choice((0.0, 1.5, -2.0))) for _ in range(6)]
        cases.append((pairs, sum(gap + 1 for gap, _ in pairs) + draw.randrange(5)))
    return check(function, reference, cases)
