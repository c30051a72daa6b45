"""Checks for a reader's function: tried on many inputs, compared with a reference.

`check` is the machinery; each chapter's tasks are in a module named by its topic
(`checks.measuring`), those of the assignments in `checks.assignments`. A check says what is wrong
for which input, not only that it is.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimcnn.checks import guard

_SCALARS = set(np.sctypeDict.values())  # NumPy's own number types, no subclass of them


@dataclass(frozen=True)
class Verdict:
    """What a check found; shown as its message.

    Attributes:
        passed: every case was right.
        message: for the reader.
    """

    passed: bool
    message: str

    def require(self) -> "Verdict":
        """Itself.

        Raises:
            AssertionError: the check failed; with the message.
        """
        if not self.passed:
            raise AssertionError(self.message)
        return self

    def __repr__(self) -> str:
        return self.message


def check(
    function: Callable,
    reference: Callable,
    cases: Iterable[Sequence[Any]],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    explain: Callable[..., str | None] | None = None,
    closed: Sequence[Callable] = (),
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
        explain: `explain(found, expected, *case)` says in a sentence what is wrong with an answer
            of the right kind and shape, or gives None, for "the largest difference is …".
        closed: functions that solve the task, the check's own helpers too; they and the reference
            must not be called.

    Raises:
        ValueError: there are no cases.
    """
    count = 0
    for case in cases:
        count, expected = count + 1, None
        arguments = copy.deepcopy(case)
        name = getattr(function, "__name__", "your answer")
        shown = f"{name}({', '.join(_show(a) for a in case)})"
        with guard.closed(reference, *closed) as watched:
            try:
                found, raised = function(*arguments), None
            except Exception as error:
                found, raised = None, error
        expected = reference(*copy.deepcopy(case))  # only now: a frame can be looked into
        if watched.broken:
            return Verdict(False, f"✗ {name}: {watched.broken}")
        if isinstance(raised, NotImplementedError):
            return Verdict(False, f"Your turn: {name} is not written yet.")
        if raised is not None:
            return Verdict(False, f"✗ {shown} raises {type(raised).__name__}: {raised}")
        if found is ... or found is None:
            return Verdict(False, f"Your turn: {name} returns {found} so far.")
        if problem := _difference(found, expected, rtol, atol):
            if explain and not _wrong_kind(found, expected):
                problem = explain(found, expected, *case) or problem
            return Verdict(False, f"✗ {shown}: {problem}")
        if any(_difference(a, b, 0, 0) for a, b in zip(arguments, case, strict=True)):
            return Verdict(False, f"✗ {shown} changes its arguments; leave them as they are")
    if count == 0:
        raise ValueError("a check needs at least one case")
    return Verdict(True, f"✓ {name} is right in all {count} cases")


def plain(answer: Any) -> Any:
    """An answer of numbers, texts, tuples, lists and dictionaries, as Python's own types.

    Raises:
        AssertionError: a part is of another class, which could say that it equals anything.
    """
    if isinstance(answer, np.generic) and type(answer) in _SCALARS:
        return answer.item()
    if type(answer) in (bool, int, float, str):
        return answer
    if type(answer) in (list, tuple):
        return type(answer)(map(plain, answer))
    if type(answer) is dict:
        return {plain(key): plain(value) for key, value in answer.items()}
    kind = type(answer).__name__
    raise AssertionError(f"a plain number or text is asked; yours has a {kind}: float(…)? str(…)?")


def _wrong_kind(found: Any, expected: Any) -> bool:
    """Whether two answers differ before their values are looked at: in type, number or shape."""
    if isinstance(expected, (tuple, list)):
        found = _unnamed(found)
        if type(found) not in (tuple, list) or len(found) != len(expected):
            return True
        return any(map(_wrong_kind, found, expected))
    if not isinstance(expected, (Tensor, bool, int, float)):
        return type(found) is not type(expected)
    plain = _plain(found)
    return plain is None or plain.shape != torch.as_tensor(expected).shape


def _difference(found: Any, expected: Any, rtol: float, atol: float) -> str | None:
    """Why two answers differ, or None if they do not."""
    if isinstance(expected, (tuple, list)):
        found = _unnamed(found)
        if type(found) not in (tuple, list) or len(found) != len(expected):
            return (
                f"a tuple or list of {len(expected)} values is expected, yours gives {_show(found)}"
            )
        parts = zip(found, expected, strict=True)
        return next((d for f, e in parts if (d := _difference(f, e, rtol, atol))), None)
    if not isinstance(expected, (Tensor, bool, int, float)):
        return None if type(found) is type(expected) and found == expected else "another value"
    plain, expected = _plain(found), torch.as_tensor(expected).detach().cpu()
    if plain is None:
        return f"a number or a tensor is expected, yours is a {type(found).__name__}"
    if plain.shape != expected.shape:
        return f"shape {tuple(expected.shape)} is expected, yours has {tuple(plain.shape)}"
    # Python numbers and integer tensors compare by value, whatever their type.
    found, expected = plain.double(), expected.double()
    if torch.allclose(found, expected, rtol=rtol, atol=atol, equal_nan=True):
        return None
    if found.ndim == 0:
        return f"{expected.item():g} is expected, yours gives {found.item():g}"
    worst = (found - expected).abs().max().item()
    return f"the largest difference from the right answer is {worst:.3g}"


def _unnamed(value: Any) -> Any:
    """A named tuple as a tuple, of what is in it, whatever its class says."""
    return tuple(tuple.__iter__(value)) if isinstance(value, tuple) else value


def _plain(value: Any) -> Tensor | None:
    """A number, an array or a tensor as a plain tensor; None for what may lie about its values."""
    if type(value) is np.ndarray or (isinstance(value, np.generic) and type(value) in _SCALARS):
        value = value.tolist()
    if type(value) not in (Tensor, torch.nn.Parameter, bool, int, float, list):
        return None
    try:
        return torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError):
        return None


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    return f"{value:g}" if isinstance(value, float) else str(value)
