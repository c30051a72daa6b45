"""Checks for a reader's function: tried on many inputs, compared with a reference.

`check` is the machinery; each chapter's tasks are in a module named by its topic
(`checks.measuring`). A check says what is wrong for which input, not only that it is.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """What a check found; shown as its message.

    Attributes:
        passed: every case was right.
        message: for the reader.
    """

    passed: bool
    message: str

    def __repr__(self) -> str:
        return self.message


def check(
    function: Callable,
    reference: Callable,
    cases: Iterable[Sequence[Any]],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-8,
) -> Verdict:
    """Call `function` and `reference` on each case and compare what they return.

    Answers may be numbers, tensors, or tuples of these. They are turned into plain tensors
    before they are compared, so an object that is "equal" to everything does not pass. A
    function that changes its arguments, or that still returns `...`, does not pass either.

    Args:
        function: the reader's.
        reference: the right one.
        cases: argument lists; each function gets its own copy.
        rtol, atol: tolerances of `torch.testing.assert_close`.

    Raises:
        ValueError: there are no cases.
    """
    count = 0
    for case in cases:
        count += 1
        expected = reference(*copy.deepcopy(case))
        arguments = copy.deepcopy(case)
        shown = f"{function.__name__}({', '.join(_show(a) for a in case)})"
        try:
            found = function(*arguments)
        except Exception as error:
            return Verdict(False, f"✗ {shown} raises {type(error).__name__}: {error}")
        if found is ... or found is None:
            return Verdict(False, f"Your turn: {function.__name__} returns {found} so far.")
        if problem := _difference(found, expected, rtol, atol):
            return Verdict(False, f"✗ {shown}: {problem}")
        if any(_difference(a, b, 0, 0) for a, b in zip(arguments, case, strict=True)):
            return Verdict(False, f"✗ {shown} changes its arguments; leave them as they are")
    if count == 0:
        raise ValueError("a check needs at least one case")
    return Verdict(True, f"✓ {function.__name__} is right in all {count} cases")


def _difference(found: Any, expected: Any, rtol: float, atol: float) -> str | None:
    """Why two answers differ, or None if they do not."""
    if isinstance(expected, (tuple, list)):
        if type(found) not in (tuple, list) or len(found) != len(expected):
            return f"{len(expected)} values are expected, yours gives {_show(found)}"
        parts = zip(found, expected, strict=True)
        return next((d for f, e in parts if (d := _difference(f, e, rtol, atol))), None)
    if not isinstance(expected, (Tensor, bool, int, float)):
        return None if type(found) is type(expected) and found == expected else "another value"
    if type(found) not in (Tensor, torch.nn.Parameter, bool, int, float):
        return f"a number or a tensor is expected, yours is a {type(found).__name__}"
    found, expected = (torch.as_tensor(x).detach().cpu() for x in (found, expected))
    if found.shape != expected.shape:
        return f"shape {tuple(expected.shape)} is expected, yours has {tuple(found.shape)}"
    # Python numbers and integer tensors compare by value, whatever their type.
    found, expected = found.double(), expected.double()
    if torch.allclose(found, expected, rtol=rtol, atol=atol, equal_nan=True):
        return None
    if found.ndim == 0:
        return f"{expected.item():g} is expected, yours gives {found.item():g}"
    worst = (found - expected).abs().max().item()
    return f"the largest difference from the right answer is {worst:.3g}"


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    return f"{value:g}" if isinstance(value, float) else str(value)
