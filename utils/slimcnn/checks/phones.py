"""Checks for the "your turn" cell of chapter 7, On the phone."""

import random
from collections.abc import Callable

from slimcnn.checks import Verdict, check


def next_version(function: Callable) -> Verdict:
    """The newest version that a phone's runtime may load and that was not withdrawn.

    The function takes (offers, runtime): a list of (version, oldest runtime, withdrawn), where
    runtimes are tuples of three numbers, and the phone's runtime. It returns the version, or 0.
    """

    def reference(offers: list[tuple], runtime: tuple[int, ...]) -> int:
        return max((v for v, oldest, gone in offers if oldest <= runtime and not gone), default=0)

    draw = random.Random(0)
    offers = [(1, (1, 9, 0), False), (2, (1, 24, 2), False), (3, (1, 24, 2), True)]
    cases = [([], (1, 9, 0)), (offers, (1, 9, 0)), (offers, (1, 24, 2)), (offers[::-1], (2, 0, 0))]
    for _ in range(40):
        numbers = draw.sample(range(1, 20), draw.randint(1, 6))
        runtimes = [(draw.randint(0, 2), draw.randint(0, 12), draw.randint(0, 2)) for _ in numbers]
        offers = [
            (number, runtime, draw.random() < 0.3)
            for number, runtime in zip(numbers, runtimes, strict=True)
        ]
        cases.append((offers, draw.choice(runtimes)))
    return check(function, reference, cases)
