"""Checks for the "your turn" cells of chapter 5, Low-rank factorization."""

import random
from collections.abc import Callable

from slimcnn.checks import Verdict, check


def channel_break_even(function: Callable) -> Verdict:
    """The largest rank at which the channel scheme has fewer weights than the convolution.

    The function takes (c_in, c_out, kernel) of a square kernel without bias; 0 if there is none.
    """

    def reference(c_in: int, c_out: int, kernel: int) -> int:
        whole, each = c_in * c_out * kernel**2, c_in * kernel**2 + c_out
        return (whole - 1) // each  # strictly fewer

    draw = random.Random(0)
    cases = [(1, 1, 1), (2, 2, 1), (128, 128, 3), (1, 32, 3), (64, 64, 1)]
    for _ in range(20):
        cases.append((draw.randint(1, 256), draw.randint(1, 256), draw.choice((1, 3, 5, 7))))
    return check(function, reference, cases)


def tensor_weights(function: Callable) -> Verdict:
    """Weights of a convolution without bias in Tucker-2 and in CP.

    The function takes (c_in, c_out, kernel, r_out, r_in, rank) of a square kernel; it returns
    both numbers.
    """

    def reference(
        c_in: int, c_out: int, kernel: int, r_out: int, r_in: int, rank: int
    ) -> tuple[int, int]:
        tucker = c_in * r_in + r_in * r_out * kernel**2 + r_out * c_out
        return tucker, rank * (c_in + kernel**2 + c_out)

    draw = random.Random(0)
    cases = [(1, 1, 1, 1, 1, 1), (64, 128, 3, 32, 16, 48)]
    for _ in range(20):
        c_in, c_out, rank = (draw.randint(1, 200) for _ in range(3))
        ranks = draw.randint(1, c_out), draw.randint(1, c_in)
        cases.append((c_in, c_out, draw.choice((1, 3, 5)), *ranks, rank))
    return check(function, reference, cases)
