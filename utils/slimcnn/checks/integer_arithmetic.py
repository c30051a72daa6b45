"""Checks for the "your turn" cell of chapter 6, Quantization: integers."""

import random
from collections.abc import Callable

from slimcnn.checks import Verdict, check


def requantize(function: Callable) -> Verdict:
    """What a layer stores for one of its sums, by whole numbers only.

    The function takes (total, multiplier, shift, zero_point): integers with the factor between
    the scales nearly multiplier / 2^shift. It returns the uint8 value: rounded to the nearest,
    halves up, moved by the zero-point, and clamped to 0 … 255.
    """

    def reference(total: int, multiplier: int, shift: int, zero_point: int) -> int:
        rounded = (total * multiplier + (1 << (shift - 1))) >> shift
        return min(max(rounded + zero_point, 0), 255)

    draw = random.Random(0)
    cases = [(3, 1, 1, 0), (-3, 1, 1, 10), (0, 5, 4, 7), (10**6, 2**30, 31, 0), (-99, 1, 1, 9)]
    for _ in range(40):
        shift = draw.randrange(20, 40)
        cases.append(
            (draw.randrange(-(2**20), 2**20), draw.randrange(1, 2**17), shift, draw.randrange(256))
        )
    return check(function, reference, cases)
