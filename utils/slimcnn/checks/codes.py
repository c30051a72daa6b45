"""Checks for the "your turn" cell of chapter 6, Quantization: weight sharing."""

import random
from collections.abc import Callable
from math import log2

from slimcnn.checks import Verdict, check


def entropy(function: Callable) -> Verdict:
    """The entropy of symbols that occur so often, in bits a symbol.

    The function takes a list of counts, some perhaps 0, at least one positive.
    """

    def reference(counts: list[int]) -> float:
        total = sum(counts)
        return sum(-n / total * log2(n / total) for n in counts if n)

    draw = random.Random(0)
    cases = [([1, 1],), ([5],), ([4, 0, 4],), ([5, 2, 1, 1],), ([0, 0, 7],), ([1] * 256,)]
    cases += [([draw.randrange(50) for _ in range(9)],) for _ in range(20)]
    return check(function, reference, cases)
