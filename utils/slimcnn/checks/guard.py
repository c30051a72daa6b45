"""While a reader's function runs, the functions that would solve the task for it are closed.

Chapter: the assignments. A name is no protection (an alias, `importlib`, a copied code object lead
to the same code), so the guard looks at the code that is about to run. And it looks whether what
judges the answer afterwards is still what it was.
"""

import builtins
import inspect
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType

import numpy as np
import torch

# What checks compute with.
_TOOLS = (torch, torch.Tensor, torch.nn.functional, np, math, builtins)
_guards: list["Guard"] = []


class ClosedFunction(RuntimeError):
    """A function was called that does what the reader was asked to write."""


class Guard:
    """What a guarded call did.

    Attributes:
        broken: how the rule was broken, or None while it was kept. It stays set when the reader's
            function catches the error.
    """

    def __init__(self, functions: tuple[Callable, ...]) -> None:
        self.broken: str | None = None
        self._codes = {_fingerprint(f.__code__): f.__name__ for f in functions}

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """The profile function of the interpreter: called before every call."""
        if frame.f_code is closed.__wrapped__.__code__:  # the block's own end
            return
        if event == "call" and (name := self._codes.get(_fingerprint(frame.f_code))):
            self.calls(name)
        elif event == "c_call" and argument in (sys.setprofile, sys.settrace):
            self.broken = "it changes how calls are watched"
        else:
            return
        raise ClosedFunction(self.broken)

    def calls(self, name: str) -> None:
        """Remember that a closed function was called.

        Raises:
            ClosedFunction: always.
        """
        self.broken = f"it calls {name}, which is what you are to write"
        raise ClosedFunction(self.broken)


@contextmanager
def closed(*functions: Callable) -> Iterator[Guard]:
    """Inside the block, a call of one of `functions` raises and is remembered.

    Args:
        functions: written in Python; methods and partial objects are not.

    Raises:
        TypeError: one of them has no Python code.
    """
    for function in functions:
        if not hasattr(function, "__code__"):
            raise TypeError(f"{function!r} has no Python code; give a function")
    functions = {inspect.unwrap(f): None for f in functions}  # once each, without decorators
    guard, before = Guard(tuple(functions)), sys.getprofile()
    tools = [dict(vars(tool)) for tool in _TOOLS]
    _guards.append(guard)
    codes = _shut(functions)
    threading.setprofile(guard)
    sys.setprofile(guard)
    try:
        yield guard
    finally:
        # An error from the guard itself has taken it off already.
        if guard.broken is None and sys.getprofile() is not guard:
            guard.broken = "it changes how calls are watched"
        sys.setprofile(before)
        threading.setprofile(None)
        for function, code in codes.items():
            function.__code__ = code
        _guards.remove(guard)
        if replaced := _put_back(tools):
            guard.broken = guard.broken or f"it replaces {replaced}"


def _shut(functions: Iterable[FunctionType]) -> dict[FunctionType, CodeType]:
    """Give functions a code that refuses: a thread that ran before is not watched.

    Returns:
        Their own codes. Inner functions, whose code needs its surroundings, stay as they are.
    """

    def refuse(*arguments: object, **named: object) -> None:
        import sys

        from slimcnn.checks import guard

        name = sys._getframe().f_code.co_name
        for watching in guard._guards:
            watching.calls(name)

    codes = {f: f.__code__ for f in functions if not f.__code__.co_freevars}
    for function, code in codes.items():
        function.__code__ = refuse.__code__.replace(
            co_name=code.co_name, co_filename=code.co_filename, co_firstlineno=code.co_firstlineno
        )
    return codes


def _put_back(before: list[dict]) -> str | None:
    """Undo what was done to the tools; the name of one that had been replaced."""
    found = None
    for tool, old in zip(_TOOLS, before, strict=True):
        for name, value in old.items():
            if callable(value) and vars(tool).get(name) is not value:
                setattr(tool, name, value)
                found = f"{tool.__name__}.{name}"
    # A tensor's methods are inherited: a new name hides one.
    for name in vars(torch.Tensor).keys() - before[1].keys():
        if hasattr(torch.Tensor.__base__, name):
            delattr(torch.Tensor, name)
            found = f"Tensor.{name}"
    return found


def _fingerprint(code: CodeType) -> tuple:
    """Equal for a code object and its copies, whatever they are called.

    The table of lines and columns tells a copy from the same idea written by someone else.
    """
    return code.co_code, code.co_consts, code.co_names, code.co_linetable
